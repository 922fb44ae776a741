"""Ending a process in which nothing moves any more, so that Ray starts the run again.

A rank that waits for others has a limit of its own, but one that hangs in the network, on a device
or on a disk would keep all of them for ever.
"""

import itertools
import os
import sys
import time
import traceback
from pathlib import Path
from threading import Event, Thread, get_ident
from types import TracebackType

STALLED = "stalled.txt"
EXIT_CODE = 70
LOOKS = 20
"""In the time that is allowed."""

DEEPEST = 3
"""Frames told of where the process stood."""

SECONDS_TO_TELL = 10.0
"""Longest wait for the file to be written."""


class Watchdog:
    """Ends the process when ``alive`` was not called for too long: a context around the work.

    A thread looks, which another one that keeps Python's lock would stop; for that Ray has a
    health check, of ten minutes.
    """

    def __init__(self, minutes: float, folder: Path, who: str) -> None:
        """Watch the thread that makes it.

        Args:
            minutes: Without ``alive``, after which the process ends; 0 never ends it.
            folder: Gets the file ``STALLED``, which says what happened.
            who: Names the process there.
        """
        self._seconds = 60 * minutes
        self._folder = folder
        self._who = who
        self._watched = get_ident()
        self._ended = Event()
        self.alive()

    def alive(self) -> None:
        """Tell that work goes on."""
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        """Begin to look."""
        if self._seconds:
            Thread(target=self._look, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop looking."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(self._seconds / LOOKS):
            if time.monotonic() - self._last > self._seconds:
                self._end()

    def _end(self) -> None:
        # What hangs may be the disk that this is written to.
        telling = Thread(target=self._tell, name="watchdog tells", daemon=True)
        telling.start()
        telling.join(SECONDS_TO_TELL)
        # Nothing less ends a thread that hangs in a library.
        os._exit(EXIT_CODE)

    def _tell(self) -> None:
        text = (
            f"{self._who} did nothing for {self._seconds:g} seconds, at {self._place()}. Look at "
            "its machine, its disks and its GPU, or raise train.watchdog_minutes. "
        )
        # Those that wait for a rank that hangs may tell of it as well.
        with (self._folder / STALLED).open("a", encoding="utf-8") as file:
            file.write(text)

    def _place(self) -> str:
        stack = traceback.walk_stack(sys._current_frames()[self._watched])
        deepest = list(itertools.islice(stack, DEEPEST))[::-1]
        return ", ".join(
            f"{Path(frame.f_code.co_filename).name}:{line} ({frame.f_code.co_name})"
            for frame, line in deepest
        )

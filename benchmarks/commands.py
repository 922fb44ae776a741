"""Run a command and watch its processes.

Linux only: processes are found by their session, see ``processes.py``.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from benchmarks.processes import Process, processes_of
from benchmarks.watch import Watch


@dataclass(frozen=True)
class Finished:
    """A command that ended well: its time, what its processes used, its last line of output."""

    seconds: float
    """From start to exit, without the time in which it stood still."""

    cpu_seconds: float
    """Of the whole tree: the larger of what ``wait4`` and the samples of ``/proc`` add up to. Of
    processes that nobody waits for, what they used after the last sample is missing."""

    peak_mib: float
    """Largest sum over the tree of proportional set sizes: shared pages count once, those shared
    with another command in part."""

    peak_mib_by_role: dict[str, float]
    """Largest resident set of any one process of a role, as the kernel remembers it."""

    status: dict[str, Any]
    """As the command tells it; its times are those of the clock, with the pauses."""

    stored_bytes: int = 0
    """Size of the data files of the table that it left."""

    started_at: float = 0.0
    """In seconds since 1970."""

    cpu_seconds_by_role: dict[str, float] = field(default_factory=dict)
    """Of all processes of a role, by the samples of ``/proc``: what they used after the last one,
    a second or a turn ago, is missing."""

    pauses: tuple[tuple[float, float], ...] = ()
    """From when until when it stood still, in seconds since 1970."""

    def seconds_until(self, when: float) -> float:
        """Return how long it had run at a time, in seconds since 1970."""
        still = sum(min(until, when) - since for since, until in self.pauses if since < when)
        return when - self.started_at - still

    def seconds_to(self, measure: str) -> float:
        """Return how long a run of ours had run when it was as far as one of its measures says."""
        began = datetime.fromisoformat(self.status["started_at"]).timestamp()
        return self.seconds_until(began + float(self.status["measures"][measure]))


class Command:
    """A command in a session of its own, whose last line of output is JSON."""

    def __init__(self, words: Sequence[str], output: IO[str], errors: IO[str]) -> None:
        """Start it; ``output`` and ``errors`` are files for what it says."""
        self._words, self._output, self._errors = words, output, errors
        self._stopped_at: float | None = None
        self._pauses: list[tuple[float, float]] = []
        self._seconds, self._is_gone = 0.0, False
        self._started_at, self._resumed = time.time(), time.monotonic()
        self._child = subprocess.Popen(words, stdout=output, stderr=errors, start_new_session=True)
        self.watch = Watch(self._child.pid)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; return whether it came in time."""
        descriptor = os.pidfd_open(self._child.pid)
        try:
            ended, _, _ = select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)
        return bool(ended)

    def stand_still(self) -> None:
        """Stop all its processes; the time until ``go_on`` is not its own."""
        _send(signal.SIGSTOP, processes_of(self._child.pid))
        self._seconds += time.monotonic() - self._resumed
        self._stop_the_rest()
        self._stopped_at = time.time()

    def go_on(self) -> None:
        """Take up what stood still."""
        if self._stopped_at is not None:
            members = processes_of(self._child.pid)
            self._pauses.append((self._stopped_at, time.time()))
            self._stopped_at, self._resumed = None, time.monotonic()
            _send(signal.SIGCONT, members)

    def wait(self) -> resource.struct_rusage:
        """Wait for its end and take its time; return what it and its children used."""
        _, status, usage = os.wait4(self._child.pid, 0)
        self._seconds += time.monotonic() - self._resumed
        self._child.returncode = os.waitstatus_to_exitcode(status)
        return usage

    def end(self) -> None:
        """Kill what is left of it: nothing, when all went well."""
        if not self._is_gone:
            self._is_gone = True  # Its session's number may be another one's soon.
            self._stop_the_rest()  # What is stopped starts no other process.
            _send(signal.SIGKILL, processes_of(self._child.pid))
            while not all(process.has_ended for process, _ in processes_of(self._child.pid)):
                time.sleep(0.001)
            self._child.wait()

    def _stop_the_rest(self) -> None:
        """Stop until two looks find the same processes, and none that runs.

        One may have started another between two looks; and one that waits for its child to load a
        program, or for a disk, stops when that is done.
        """
        before = set[int]()
        while True:
            found = processes_of(self._child.pid)
            pids = {process.pid for process, _ in found}
            if pids == before and all(process.is_stopped for process, _ in found):
                return
            before = pids
            _send(signal.SIGSTOP, found)
            time.sleep(0.001)

    def result(self, usage: resource.struct_rusage) -> Finished:
        """Return how it went, when nothing of it is left.

        Raises:
            SystemExit: When it failed; its last errors are shown.
        """
        self._output.seek(0)
        self._errors.seek(0)
        said = self._output.read()
        if self._child.returncode not in (0, 10):  # 10: nothing to do, as on an unchanged night.
            sys.exit(f"{' '.join(self._words)} failed:\n{said}{self._errors.read()[-3000:]}")
        watch, waited = self.watch, usage.ru_utime + usage.ru_stime
        return Finished(
            seconds=self._seconds,
            cpu_seconds=max(waited, sum(watch.cpu.values())),
            peak_mib=watch.peak_kib / 1024,
            peak_mib_by_role={role: kib / 1024 for role, kib in watch.peak_kib_by_role.items()},
            status=json.loads(said.strip().splitlines()[-1]),
            started_at=self._started_at,
            cpu_seconds_by_role=watch.cpu_by_role(),
            pauses=tuple(self._pauses),
        )


def _send(number: int, members: Sequence[tuple[Process, str]]) -> None:
    for process, _ in members:
        with suppress(ProcessLookupError):  # It has ended meanwhile.
            os.kill(process.pid, number)


@contextmanager
def started(words: Sequence[str]) -> Iterator[Command]:
    """Start a command; what is left of it at the end of the block is killed."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = Command(words, output, errors)
        try:
            yield command
        finally:
            command.end()


def run_command(
    words: Sequence[str],
    interval: float = 1.0,
    look: Callable[[int], None] = lambda session: None,
) -> Finished:
    """Run a command in a session of its own and watch it; its last output line is JSON.

    Args:
        words: To run.
        interval: Seconds between two looks at its processes.
        look: Called each time with the session's id.

    Raises:
        SystemExit: When it fails; its last errors are shown.
    """
    ended = threading.Event()
    with started(words) as command:
        watcher = threading.Thread(target=command.watch.sample_until, args=(ended, interval, look))
        watcher.start()
        try:
            usage = command.wait()
        except BaseException:
            command.end()
            raise
        finally:
            ended.set()
            watcher.join()
        return command.result(usage)

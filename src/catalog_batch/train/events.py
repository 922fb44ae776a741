"""What happens in a run, as lines of JSON that the leading rank writes and the driver follows.

A file, because the two are different processes, on different machines perhaps, and because it
stays with the run.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

logger = logging.getLogger(__name__)

EVENTS = "events.jsonl"
POLL_SECONDS = 0.2

OnEvent = Callable[[dict[str, Any]], None]
"""Gets ``{"event": NAME, ...}``.

``started``, ``resumed``, ``checkpoint_refused``, ``epoch_begun_anew``, ``features`` (kept or not),
``checkpoint`` (within an epoch), ``epoch`` and ``evaluated`` say where a run is; ``device`` what
it trains on and why; ``progress`` how far within an epoch it is, every few seconds; ``system`` what
the machine does.
"""

PASSING = ("progress", "system")
"""Events that come every few seconds, as long as a run lasts."""


def emit(run_folder: Path, event: str, **values: Any) -> None:
    """Append an event to the run's file."""
    with (run_folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, **values}) + "\n")


def told(run_folder: Path) -> list[dict[str, Any]]:
    """Read what was told of a run before, without the passing events and damaged lines."""
    path = run_folder / EVENTS
    if not path.is_file():
        return []
    events = map(_parsed, path.read_text(encoding="utf-8").splitlines())
    return [event for event in events if event and event["event"] not in PASSING]


def _parsed(line: str) -> dict[str, Any]:
    """Read an event; a process that was killed while it wrote leaves what is none."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


@contextmanager
def following(run_folder: Path, on_event: OnEvent) -> Iterator[None]:
    """Call ``on_event``, in a thread, for each event written from here to the block's end."""
    path = run_folder / EVENTS
    path.touch()
    ended = Event()
    # Opened at the end: a resumed run's earlier events were told when they happened.
    with path.open(encoding="utf-8") as file:
        file.seek(0, 2)
        thread = Thread(target=_follow, args=(file, on_event, ended), name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _follow(file: Any, on_event: OnEvent, ended: Event) -> None:
    line = ""
    while True:
        is_last_look = ended.is_set()
        for part in file:
            line += part
            if line.endswith("\n"):
                _tell(on_event, line)
                line = ""
        if is_last_look:
            return
        ended.wait(POLL_SECONDS)


def _tell(on_event: OnEvent, line: str) -> None:
    try:
        on_event(json.loads(line))
    except Exception:
        # What is told about a run must not end it, nor hide what comes after.
        logger.exception("Telling of an event failed: %s", line.strip())

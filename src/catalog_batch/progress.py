"""What a person sees while a job works: bars and tables on standard error, or lines of a log."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

POLL_SECONDS = 0.25
LOG_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""Between two looks where the log has a line only every ``LOG_SECONDS``."""

_LAST_LOOK_SECONDS = 5.0

logger = logging.getLogger(__name__)


@cache
def console() -> Console:
    """Return the console on standard error; standard output is kept for results."""
    return Console(stderr=True)


@contextmanager
def progress_bar(
    description: str, total: int | None, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left on a terminal; yield what takes how many more are done."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Rate(unit)] if unit else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        disable=not console().is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


class _Rate(ProgressColumn):
    """How many a second, over the last while."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self._unit}/s" if speed else f"- {self._unit}/s")


@contextmanager
def polled_progress(
    description: str,
    total: int | None,
    read: Callable[[], int],
    unit: str = "",
    is_logged: bool = False,
) -> Iterator[None]:
    """Show a bar that follows ``read()`` while the block works.

    It is called before the block begins and from then on by a thread. When it fails the bar stops,
    and the work goes on.

    Args:
        description: What is being done.
        total: When ``read()`` is at its end, if that is known.
        read: Returns how many are done.
        unit: What these are.
        is_logged: Where there is no terminal, have a line in the log once a minute until the end.
    """
    is_seen = console().is_terminal
    if not (is_seen or is_logged):
        yield
        return
    shown, pause = (progress_bar, POLL_SECONDS) if is_seen else (_logged, LOOK_SECONDS)
    finished, seen = threading.Event(), 0
    with shown(description, total, unit) as advance:

        def is_told() -> bool:
            nonlocal seen
            try:
                now = read()
            except Exception:
                logger.debug("how far %r is cannot be told", description, exc_info=True)
                return False
            advance(now - seen)
            seen = now
            return True

        def follow() -> None:
            while not finished.wait(pause) and is_told():
                pass

        is_told()
        thread = threading.Thread(target=follow, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join(_LAST_LOOK_SECONDS)  # It may ask a JVM that does not answer any more.


@contextmanager
def _logged(description: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield what is given how many more are done, and now and then logs how far that is."""
    started = told_at = time.monotonic()
    done = 0

    def advance(more: int) -> None:
        nonlocal done, told_at
        done += more
        now = time.monotonic()
        if now - told_at < LOG_SECONDS or (total and done >= total):
            return
        told_at = now
        rate = done / (now - started)
        of_all = f" of {total:,}" if total else ""
        parts = [f"{done:,}{of_all} {unit}".rstrip()]
        if rate:
            parts.append(f"{rate:,.1f} a second")
            left = timedelta(seconds=round(max((total or 0) - done, 0) / rate))
            parts += [f"{left} left"] if total else []
        logger.info("%s: %s", description, ", ".join(parts))

    yield advance


@contextmanager
def training_bar() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show how far an epoch is on a terminal; yield what takes the events of a training run.

    Beside the images it shows how many a second, and the share of the time spent waiting for
    them, both since the epoch began.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} images/s, {task.fields[waiting]:.0%} waiting"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        disable=not console().is_terminal,
        transient=True,
    ) as progress:
        # Nothing is shown before the first batches.
        task = progress.add_task("", visible=False, rate=0.0, waiting=0.0)
        epoch = -1

        def show(event: Mapping[str, Any]) -> None:
            nonlocal epoch
            if event["event"] != "progress":
                return
            if event["epoch"] != epoch:
                epoch = event["epoch"]
                progress.reset(task, total=event["of_images"])
            progress.update(
                task,
                completed=event["images"],
                description=f"epoch {epoch + 1} of {event['epochs']}",
                rate=event["images_per_second"],
                waiting=event["wait_share"],
                visible=True,
            )

        yield show


def counts_table(title: str, counts: Mapping[str, float]) -> Table:
    """Return a table of names and numbers, for a console."""
    table = Table(
        title=title,
        title_justify="left",
        min_width=len(title),
        show_header=False,
        show_edge=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    return table

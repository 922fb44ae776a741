"""Run commands and watch their processes: alone, or several in turns.

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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from benchmarks.processes import DRIVER, kib_of, processes_of

TURN_SECONDS = 2.0

_ENDS_WITHIN = 30.0
"""Seconds that processes of a command have to end after it."""


@dataclass(frozen=True)
class Finished:
    """A command that ended well: its time, what its processes used, its last line of output."""

    seconds: float
    """From start to exit, without the time in which it stood still."""

    cpu_seconds: float
    """Of the whole tree: the larger of what ``wait4`` and the samples of ``/proc`` add up to."""

    peak_mib: float
    """Largest sum over the tree of proportional set sizes: shared pages count once."""

    peak_mib_by_role: dict[str, float]
    """Largest resident set of any one process of a role, as the kernel remembers it."""

    status: dict[str, Any]

    stored_bytes: int = 0
    """Size of the data files of the table that it left."""

    started_at: float = 0.0
    """In seconds since 1970."""

    cpu_seconds_by_role: dict[str, float] = field(default_factory=dict)
    """Of all processes of a role, by the samples of ``/proc``: the last second may be missing."""

    pauses: tuple[tuple[float, float], ...] = ()
    """From when until when it stood still, in seconds since 1970."""

    def seconds_until(self, when: float) -> float:
        """Return how long it had run at a time, in seconds since 1970."""
        still = sum(min(until, when) - since for since, until in self.pauses if since < when)
        return when - self.started_at - still


class _Command:
    """A command in a session of its own, whose last line of output is JSON."""

    def __init__(self, words: Sequence[str], output: IO[str], errors: IO[str]) -> None:
        self._words, self._output, self._errors = words, output, errors
        self._stopped_at: float | None = None
        self._pauses: list[tuple[float, float]] = []
        self._seconds = 0.0
        self.started_at, self._resumed = time.time(), time.monotonic()
        self._child = subprocess.Popen(words, stdout=output, stderr=errors, start_new_session=True)
        self.watch = _Watch(self._child.pid)

    def ends_within(self, seconds: float | None) -> bool:
        """Wait for its end; return whether it came in time."""
        descriptor = os.pidfd_open(self._child.pid)
        try:
            ended, _, _ = select.select([descriptor], [], [], seconds)
        finally:
            os.close(descriptor)
        return bool(ended)

    def stand_still(self) -> None:
        """Stop all its processes; the time until ``go_on`` is not its own."""
        _stop_all(self._child.pid)
        self._seconds += time.monotonic() - self._resumed
        self._stopped_at = time.time()

    def go_on(self) -> None:
        """Take up what stood still."""
        if self._stopped_at is not None:
            self._pauses.append((self._stopped_at, time.time()))
            self._resumed = time.monotonic()
            _signal_all(self._child.pid, signal.SIGCONT)
            self._stopped_at = None

    def wait(self) -> resource.struct_rusage:
        """Wait for its end and take its time; return what it and its children used."""
        _, status, usage = os.wait4(self._child.pid, 0)
        self._seconds += time.monotonic() - self._resumed
        self._child.returncode = os.waitstatus_to_exitcode(status)
        return usage

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
            started_at=self.started_at,
            cpu_seconds_by_role=watch.cpu_by_role(),
            pauses=tuple(self._pauses),
        )


@contextmanager
def _started(words: Sequence[str]) -> Iterator[_Command]:
    """Start a command; at the end of the block end what is left of it, nothing if all went well."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = _Command(words, output, errors)
        try:
            yield command
        finally:
            _signal_all(command.watch.session, signal.SIGKILL)


@dataclass
class _Watch:
    """What has been seen of a session's processes so far."""

    session: int
    cpu: dict[int, float] = field(default_factory=dict)
    peak_kib: int = 0
    peak_kib_by_role: dict[str, int] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)

    def sample(self) -> bool:
        """Look at each process once; return whether any is left."""
        members = processes_of(self.session)
        total = 0
        for process, role in members:
            self.cpu[process.pid] = process.cpu_seconds
            total += kib_of(process.pid, "smaps_rollup", "Pss")
            kept = self._kept_role(process.pid, role)
            peak = kib_of(process.pid, "status", "VmHWM")
            self.peak_kib_by_role[kept] = max(peak, self.peak_kib_by_role.get(kept, 0))
        self.peak_kib = max(self.peak_kib, total)
        return bool(members)

    def cpu_by_role(self) -> dict[str, float]:
        total = dict[str, float]()
        for pid, seconds in self.cpu.items():
            total[self.roles[pid]] = total.get(self.roles[pid], 0.0) + seconds
        return total

    def _kept_role(self, pid: int, role: str) -> str:
        """Return the role of a process; it keeps the one it had when Spark ends before it."""
        if role == DRIVER:
            role = self.roles.get(pid, role)
        self.roles[pid] = role
        return role


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
    with _started(words) as command:
        ended = threading.Event()
        watcher = threading.Thread(
            target=_keep_sampling, args=(command.watch, ended, interval, look)
        )
        watcher.start()
        usage = command.wait()
        ended.set()
        watcher.join()
        return command.result(usage)


def run_in_turns(
    commands: Sequence[Sequence[str]], turn_seconds: float = TURN_SECONDS
) -> list[Finished]:
    """Run commands beside each other, of which only one runs at a time: the others stand still.

    A virtual machine may be a fifth slower from one minute to the next. What it takes from one
    command in a turn it takes from the others in theirs. All are in memory together. They are
    watched while they stand still: what looking costs, most for a command of many processes, is
    nobody's time.

    Args:
        commands: The words of each.
        turn_seconds: How long one runs before it is the next one's turn.

    Returns:
        How each went, in the order of ``commands``.

    Raises:
        SystemExit: When one fails; its last errors are shown, and the others are ended.
    """
    found = dict[int, Finished]()
    with ExitStack() as stack:
        running = dict[int, _Command]()
        waiting = list(range(len(commands)))
        while waiting:
            for number in list(waiting):
                if number in running:
                    running[number].go_on()
                else:
                    running[number] = stack.enter_context(_started(commands[number]))
                command = running[number]
                if not command.ends_within(turn_seconds):
                    command.stand_still()
                    command.watch.sample()
                    continue
                usage = command.wait()
                _watch_to_the_end(command.watch)
                found[number] = command.result(usage)
                waiting.remove(number)
    return [found[number] for number in range(len(commands))]


def _signal_all(session: int, number: int) -> None:
    for process, _ in processes_of(session):
        with suppress(ProcessLookupError):  # It has ended meanwhile.
            os.kill(process.pid, number)


def _stop_all(session: int) -> None:
    # More than once: a process may have started another one meanwhile.
    while any(process.is_moving for process, _ in processes_of(session)):
        _signal_all(session, signal.SIGSTOP)


def _watch_to_the_end(watch: _Watch) -> None:
    gone_by = time.monotonic() + _ENDS_WITHIN
    while watch.sample() and time.monotonic() < gone_by:
        time.sleep(0.1)


def _keep_sampling(
    watch: _Watch, ended: threading.Event, interval: float, look: Callable[[int], None]
) -> None:
    """Sample until the command has ended and nothing of its session is left."""
    gone_by = float("inf")
    while watch.sample() and time.monotonic() < gone_by:
        look(watch.session)
        if ended.wait(interval) and gone_by == float("inf"):
            gone_by = time.monotonic() + _ENDS_WITHIN
        elif ended.is_set():
            time.sleep(interval)

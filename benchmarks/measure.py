"""Time a command and watch its processes: what all benchmarks measure with.

Linux only: processes are found by their session, see ``processes.py``.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from benchmarks.processes import DRIVER, kib_of, processes_of

RESULTS = Path(__file__).parent / "results"
IDLE_SHARE = 0.8


@dataclass(frozen=True)
class Finished:
    """A command that ended well: its time, what its processes used, its last line of output."""

    seconds: float
    """From start to exit, by this process's monotonic clock."""

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


class Counted(Protocol):
    """How many images the two runs of a round have."""

    @property
    def part(self) -> int: ...
    @property
    def whole(self) -> int: ...


@dataclass
class Runs:
    """The timed runs of one lane on a part of the images and on all of them, by round."""

    size: Counted
    part: list[Finished] = field(default_factory=list)
    whole: list[Finished] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        """The steady state; no number where start-up varies by more than the images take."""
        seconds = self._more(_seconds)
        return self._images / seconds if seconds > 0 else math.nan

    @property
    def cpu_ms_per_image(self) -> float:
        return self.cpu_ms_more(_cpu_seconds)

    def cpu_ms_more(self, seconds: Callable[[Finished], float]) -> float:
        """Return the milliseconds an image takes of what ``seconds`` tells of a run."""
        return 1000 * self._more(seconds) / self._images

    @property
    def start_up_seconds(self) -> float:
        steady = self.size.part / self.images_per_second
        return statistics.median(map(_seconds, self.part)) - steady

    @property
    def _images(self) -> int:
        return self.size.whole - self.size.part

    def _more(self, measure: Callable[[Finished], float]) -> float:
        """Return what a run on all photos has more of than a run on a part."""
        # Of each its median: the difference of two runs has the noise of both.
        return statistics.median(map(measure, self.whole)) - statistics.median(
            map(measure, self.part)
        )


def _seconds(run: Finished) -> float:
    return run.seconds


def _cpu_seconds(run: Finished) -> float:
    return run.cpu_seconds


@dataclass(frozen=True)
class Goal:
    """What is aimed for: a value and its bound, from below unless ``at_most``."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def line(self) -> str:
        verdict = "ok" if self.is_met else "short"
        return f"GOAL {self.name} {self.value:.2f} {self.bound:.2f} {verdict}"


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
    command: Sequence[str],
    interval: float = 1.0,
    look: Callable[[int], None] = lambda session: None,
) -> Finished:
    """Run a command in a session of its own and watch it; its last output line is JSON.

    Args:
        command: To run.
        interval: Seconds between two looks at its processes.
        look: Called each time with the session's id.

    Raises:
        SystemExit: When it fails; its last errors are shown.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started_at, started = time.time(), time.monotonic()
        child = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)
        watch, ended = _Watch(child.pid), threading.Event()
        watcher = threading.Thread(target=_keep_sampling, args=(watch, ended, interval, look))
        watcher.start()
        _, wait_status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(wait_status)
        ended.set()
        watcher.join()
        output.seek(0)
        errors.seek(0)
        if child.returncode not in (0, 10):  # 10: nothing to do, as on an unchanged night.
            sys.exit(f"{' '.join(command)} failed:\n{output.read()}{errors.read()[-3000:]}")
        status = json.loads(output.read().strip().splitlines()[-1])
    waited = usage.ru_utime + usage.ru_stime
    return Finished(
        seconds=seconds,
        cpu_seconds=max(waited, sum(watch.cpu.values())),
        peak_mib=watch.peak_kib / 1024,
        peak_mib_by_role={role: kib / 1024 for role, kib in watch.peak_kib_by_role.items()},
        status=status,
        started_at=started_at,
        cpu_seconds_by_role=watch.cpu_by_role(),
    )


def require_idle(force: bool) -> float:
    """Return the share of CPU time that is idle for two seconds; refuse a busy machine.

    Raises:
        SystemExit: When it is below 80 % and ``force`` is not set.
    """
    before = _cpu_times()
    time.sleep(2)
    spent = [later - earlier for earlier, later in zip(before, _cpu_times(), strict=True)]
    idle = (spent[3] + spent[4]) / sum(spent)
    if idle < IDLE_SHARE and not force:
        sys.exit(
            f"The machine is busy: {idle:.0%} of its CPU time is idle, {IDLE_SHARE:.0%} is needed "
            "for figures that mean something. Wait, or pass --force, which the result will say."
        )
    return round(idle, 3)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, one round")
    parser.add_argument("--force", action="store_true", help="run on a busy machine too")
    parser.add_argument("--data", type=Path, default=Path("build/bench-data"), help="photo cache")
    return parser


def arguments(description: str) -> argparse.Namespace:
    """Parse what all ingest benchmarks take."""
    return argument_parser(description).parse_args()


def hardware() -> str:
    """Name the machine by its kind alone, such as ``2cpu-amd-epyc``."""
    cpu_info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.+)$", cpu_info, re.MULTILINE)
    model = re.sub(r"\(\w+\)|CPU|Processor|@.*", " ", found[1] if found else "unknown")
    words = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"{len(os.sched_getaffinity(0))}cpu-{words}"


def write_result(
    question: str,
    result: dict[str, Any],
    text: str,
    goals: Iterable[Goal],
    command: str = "make bench-ingest",
) -> None:
    """Write a result as JSON and as a page to read, then print the page and its goals.

    Args:
        question: Begins the names of both files.
        result: With ``idle_before``, and ``quick`` where that makes a difference.
        text: The page.
        goals: What was aimed for.
        command: That makes this result.
    """
    goals = list(goals)
    now = datetime.now(UTC)
    known = {
        "question": question,
        "hardware": hardware(),
        "measured_at": f"{now:%Y-%m-%d %H:%M}",
        "commit": commit(),
    }
    whole = {**known, **result, "goals": [asdict(goal) | {"met": goal.is_met} for goal in goals]}
    is_quick = result.get("quick", False)
    quick_option = " QUICK=1" if command.startswith("make") else " --quick"
    command += quick_option if is_quick else ""
    idle = f"{result['idle_before']:.0%} of the CPU time idle before"
    made = f"Made by `{command}` at commit {known['commit']}, with {idle}.\n\n"
    page = text + made + "".join(f"    {goal.line()}\n" for goal in goals)
    kind = "-quick" if is_quick else ""
    path = RESULTS / f"{question}{kind}_{hardware()}_{now:%Y-%m-%d}"
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(text)
    for goal in goals:
        print(goal.line())


def commit() -> str:
    """Return the commit of the checkout, with ``-dirty`` when files differ from it."""
    described = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _keep_sampling(
    watch: _Watch, ended: threading.Event, interval: float, look: Callable[[int], None]
) -> None:
    """Sample until the command has ended and nothing of its session is left."""
    gone_by = float("inf")
    while watch.sample() and time.monotonic() < gone_by:
        look(watch.session)
        if ended.wait(interval) and gone_by == float("inf"):
            gone_by = time.monotonic() + 30
        elif ended.is_set():
            time.sleep(interval)


def _cpu_times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    return [int(value) for value in first.split()[1:]]

"""What all benchmarks share: rounds of runs, goals, an idle machine, and pages of results."""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from benchmarks.commands import Finished

RESULTS = Path(__file__).parent / "results"
IDLE_SHARE = 0.8


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
        seconds = self._more(self.steady_seconds)
        return self._images / seconds if seconds > 0 else math.nan

    def steady_seconds(self, run: Finished) -> float:
        """Return the time of a run of which a longer run's is compared with a shorter one's."""
        return run.seconds

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


def _cpu_times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    return [int(value) for value in first.split()[1:]]

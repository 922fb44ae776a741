"""Where does the time of a night of scoring go?

    python -m benchmarks.scoring.profile [--quick] [--force] [--data DIR]

A night of few images and one of many, in turns, with the model in int8, where the engine shows.
Four times a second the CPU time of all threads is looked at, and told apart by who spends it, and
whether that was before the first answer, while Python workers answered, or after. Spark's own log
of tasks tells what its executors' threads do: read images and deal them out, pass them to Python
and stage the answers, or all else (what is to be scored, checks, publishing, decisions). The
medians of the rounds count; what an image more takes is the difference of the two nights.
"""

import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

from benchmarks.commands import Finished, run_command
from benchmarks.ingest.lanes import CATALOG_BATCH
from benchmarks.measure import arguments, require_idle, table, write_result
from benchmarks.processes import processes_of, threads_of
from benchmarks.scoring.catalogue import OF_INT8, Catalogue, make_catalogues

from catalog_batch.config import SparkSettings

INTERVAL = 0.25
BUSY = 0.3
"""Share of an interval in which workers that answer are on a core, at the least."""

TASKS = "JVM, tasks"
WORKERS = "Python workers"
_THREADS = {
    "Executor task": TASKS,
    "C1 CompilerThre": "JVM, compiler",
    "C2 CompilerThre": "JVM, compiler",
    "GC Thread": "JVM, collector",
    "VM Thread": "JVM, collector",
}
PLANS = "JVM, plans and the rest"
_ROLES = {
    "driver": "Python driver",
    "python worker": WORKERS,
    "decoder": WORKERS,
    "spark daemon": "the daemon of workers, and commands",
}
SPENDERS = tuple(dict.fromkeys((WORKERS, *_THREADS.values(), PLANS, *_ROLES.values())))
PHASES = ("before the first answer", "while workers answer", "after")
STAGES = ("images read and dealt out", "to Python, back, and staged", "all else")


@dataclass(frozen=True)
class Size:
    """Images of the two nights, and rounds."""

    few: int
    many: int
    rounds: int


FULL, QUICK = Size(200, 3200, 3), Size(50, 400, 1)


@dataclass
class Timeline:
    """CPU seconds by spender that had been seen at each look."""

    times: list[float] = field(default_factory=list)
    totals: list[Counter[str]] = field(default_factory=list)
    _threads: dict[tuple[int, int], tuple[str, float]] = field(default_factory=dict)

    def look(self, session: int) -> None:
        """Add the CPU time that a session's threads have used by now."""
        for process, role in processes_of(session):
            if role == "jvm":
                for thread, name, seconds in threads_of(process.pid):
                    self._threads[process.pid, thread] = (_spender(name), seconds)
            else:
                self._threads[process.pid, 0] = (_ROLES[role], process.cpu_seconds)
        total = Counter[str]()
        for who, seconds in self._threads.values():
            total[who] += seconds
        self.times.append(time())
        self.totals.append(total)

    def last_busy(self) -> float:
        """Return until when the workers were at work."""
        return max(
            now
            for before, now, then, later in zip(
                self.times, self.times[1:], self.totals, self.totals[1:], strict=False
            )
            if later[WORKERS] - then[WORKERS] > BUSY * (now - before)
        )

    def spent_until(self, moment: float) -> Counter[str]:
        """Return what had been spent at the last look before a moment."""
        known = [total for at, total in zip(self.times, self.totals, strict=True) if at <= moment]
        return known[-1] if known else Counter()


def _spender(thread: str) -> str:
    return next((who for start, who in _THREADS.items() if thread.startswith(start)), PLANS)


@dataclass(frozen=True)
class Night:
    """Seconds of a night: of the clock by phase, of the CPU by phase and spender, and by stage."""

    clock: dict[str, float]
    cpu: dict[str, Counter[str]]
    stages: dict[str, float]


def profile_night(catalogue: Catalogue) -> Night:
    """Score a copy of a catalogue and look on."""
    with tempfile.TemporaryDirectory(dir=catalogue.folder.parent) as folder:
        own, log = catalogue.copy(Path(folder) / "catalogue"), Path(folder) / "events"
        log.mkdir()
        options = {
            "eventLog.enabled": "true",
            "eventLog.dir": log.as_uri(),
            "eventLog.compress": "false",
            "eventLog.rolling.enabled": "false",
        }
        told = " ".join(f"-Dspark.{key}={value}" for key, value in options.items())
        java = f"{SparkSettings().java_options} {told}"
        command = [CATALOG_BATCH, "score", "-w", str(own.warehouse), "--log-format", "json"]
        command += ["--model", catalogue.in_int8.reference, "--set", f"spark.java_options={java}"]
        seen = Timeline()
        finished = run_command(command, INTERVAL, seen.look)
        [events] = log.iterdir()
        return _night(finished, seen, events)


def _night(finished: Finished, seen: Timeline, events: Path) -> Night:
    started_at = datetime.fromisoformat(finished.status["started_at"]).timestamp()
    first = started_at + finished.status["measures"]["start_up_seconds"]
    ends = (first, seen.last_busy(), finished.started_at + finished.seconds)
    starts = (finished.started_at, *ends[:-1])
    spans = dict(zip(PHASES, zip(starts, ends, strict=True), strict=True))
    return Night(
        clock={phase: end - start for phase, (start, end) in spans.items()},
        cpu={
            phase: seen.spent_until(end) - seen.spent_until(start)
            for phase, (start, end) in spans.items()
        },
        stages=cpu_of_stages(events),
    )


def cpu_of_stages(events: Path) -> dict[str, float]:
    """Return CPU seconds of executors' threads: of the scoring stage, the one before it, others."""
    cpu, run = defaultdict[int, float](float), Counter[int]()
    with events.open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            if event["Event"] == "SparkListenerTaskEnd":
                metrics = event["Task Metrics"]
                spent = metrics["Executor CPU Time"] + metrics["Executor Deserialize CPU Time"]
                cpu[event["Stage ID"]] += spent / 1e9
                run[event["Stage ID"]] += metrics["Executor Run Time"]
    # Its tasks wait for Python: no others take as long.
    [(scoring, _)] = run.most_common(1)
    before = max((stage for stage in cpu if stage < scoring), default=scoring)
    of_both = (cpu[before], cpu[scoring])
    return dict(zip(STAGES, (*of_both, sum(cpu.values()) - sum(of_both)), strict=True))


def page_of(size: Size, few: Sequence[Night], many: Sequence[Night]) -> str:
    header = ("", f"{size.few:,} images, s", f"{size.many:,} images, s", "an image more, ms")

    def line(name: str, one: Iterable[float], other: Iterable[float]) -> list[str]:
        less, more = statistics.median(one), statistics.median(other)
        each = 1000 * (more - less) / (size.many - size.few)
        return [name, f"{less:.2f}", f"{more:.2f}", f"{each:.2f}"]

    rows = list[list[str]]()
    for phase in PHASES:
        clock = ([night.clock[phase] for night in nights] for nights in (few, many))
        rows.append(line(f"**{phase}**, by the clock", *clock))
        for who in SPENDERS:
            spent = ([night.cpu[phase][who] for night in nights] for nights in (few, many))
            rows.append(line(f"CPU: {who}", *spent))
    stages = [
        line(stage, *([night.stages[stage] for night in nights] for nights in (few, many)))
        for stage in STAGES
    ]
    intro = __doc__.partition("[--data DIR]")[2].strip()
    return (
        f"# Where the time of scoring goes\n\n{intro}\n\n## By phase\n\n{table(header, rows)}\n"
        f"## CPU time of executors' threads in the JVM\n\n{table(header, stages)}\n"
    )


def main() -> None:
    given = arguments("Show where the time of scoring goes.")
    size = QUICK if given.quick else FULL
    catalogues = make_catalogues({size.few, size.many}, given.data.resolve(), (OF_INT8,))
    idle = require_idle(given.force)
    nights: dict[int, list[Night]] = {size.few: [], size.many: []}
    profile_night(catalogues[size.few])  # The warm-up, which is dropped.
    for number in range(1, size.rounds + 1):
        for count, found in nights.items():
            found.append(profile_night(catalogues[count]))
            seconds = ", ".join(f"{phase} {s:.1f} s" for phase, s in found[-1].clock.items())
            print(f"round {number}, {count:,} images: {seconds}", flush=True)
    few, many = nights[size.few], nights[size.many]
    result: dict[str, Any] = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "nights": {count: [vars(night) for night in found] for count, found in nights.items()},
    }
    command = "python -m benchmarks.scoring.profile"
    write_result("scoring-profile", result, page_of(size, few, many), [], command)


if __name__ == "__main__":
    main()

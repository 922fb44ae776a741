"""Does our reader feed training as fast as a bare loop over the same Parquet files?

    python -m benchmarks.training.input [--quick] [--force] [--data DIR]

Every lane decodes the same stored photos into the same batches of 224 px, in a process of its own,
and nothing is done with them. Our reader is the one of ``train``: Petastorm, shuffled, decoded in
threads, two batches ahead. The bare loop reads row group by row group and decodes whole batches in
threads, without shuffling; DataLoader reads the same photos as files, by worker processes. All
processes are there from the beginning, and read one epoch that is not timed, whose pixels must be
those of the other lanes. Then they take turns, an epoch each in every round, while the others wait
for theirs: what a shared machine gives changes within a minute, so lanes are compared within each
round, and the median of the rounds counts. Whole epochs count all of an epoch, with what it takes
to begin. The steady state leaves that out, and the last batches too, which our reader has read
before: it is what a large table comes to. The bare loop and DataLoader count with
the number of threads or processes that is best for them. Our reader and the best bare loop then
take turns alone, for more rounds: they are apart by less than a round varies, so the goals are of
these. So do they on the first batches of one file of 50,000 rows, as many as
``build-training-set`` writes. All lanes have the allocator of a worker that trains on a CPU.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks.measure import Goal, arguments, require_idle, table, write_result
from benchmarks.processes import session_mib
from benchmarks.training.data import TrainingData, make_large_file, make_training_data

from catalog_batch.modeling.allocator import ONE_ARENA

VERSUS_BARE = 0.95
VERSUS_LOADER = 1.0
# What the peak may grow from the second epoch to the last one.
FLAT = 1.05
OURS, BARE, LOADER = "catalog-batch", "bare loop", "DataLoader"


@dataclass(frozen=True)
class Size:
    """Photos in the table, rounds of an epoch for each lane; photos and epochs for the memory."""

    images: int
    rounds: int
    rounds_alone: int
    """Of our reader and the best bare loop."""

    small: int
    small_epochs: int
    large: int
    """Rows of one large file, of which ``LARGE_BATCHES`` are read; 0 leaves that out."""


FULL = Size(images=4000, rounds=10, rounds_alone=40, small=500, small_epochs=20, large=50_000)
QUICK = Size(images=2000, rounds=1, rounds_alone=1, small=200, small_epochs=5, large=0)
LARGE_BATCHES = 300
"""Of 32 photos: 40 of them took half a second, and said 0.79 to 1.18 of the bare loop by turns."""


@dataclass(frozen=True)
class Lane:
    """A way to read, with so many threads or processes, on so many of the cores; 0 is all."""

    name: str
    workers: int
    cores: int = 0

    @property
    def title(self) -> str:
        if self.name == LOADER:
            return f"{LOADER} over files, {self.workers} processes"
        return f"{self.name}, {self.workers} threads"


class Reading:
    """A process that reads by a lane: an epoch each time that it is asked to, or its beginning."""

    def __init__(self, lane: Lane, data: TrainingData, batches: int = 0) -> None:
        command = [
            sys.executable, "-W", "ignore", "-m", "benchmarks.training.reading", lane.name,
            str(data.folder), "--count", str(data.count), "--workers", str(lane.workers),
            "--cores", str(lane.cores), "--batches", str(batches),
        ]  # fmt: skip
        self._lane = lane
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._first = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process: it stops when nothing more is asked."""
        self._process.communicate()

    def begun(self) -> "Run":
        """Return what the epoch that is not timed has read, and no other yet."""
        return {**self._first, "epochs": []}

    def epoch(self) -> dict[str, Any]:
        """Read one, and return how it went.

        Raises:
            SystemExit: When the process has ended; its errors were shown.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return {**self._answer(), "tree_mib": session_mib(self._process.pid)}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return dict(json.loads(line))
        self._process.communicate()
        code = self._process.returncode
        sys.exit(f"{self._lane.title} failed with exit code {code}, see above.")


Run = dict[str, Any]
"""What a lane read in its first epoch, and under ``epochs`` how each later one went."""

LaneRuns = dict[Lane, Run]


def lanes_for(cores: int) -> list[Lane]:
    """Return ours with the threads it is shipped with, at the least, and several of the others."""
    bare = [Lane(BARE, workers) for workers in sorted({1, cores, 2 * cores})]
    loaders = [Lane(LOADER, workers) for workers in sorted({1, cores})]
    return [Lane(OURS, max(2, cores)), *bare, *loaders]


def scaling_lanes(cores: int) -> list[Lane]:
    """Return ours and the others on one core, on two, on four and so on, but not on all."""
    counts = itertools.takewhile(lambda count: count < cores, (2**power for power in range(10)))
    return [
        lane
        for count in counts
        for lane in (
            Lane(OURS, max(2, count), count),
            Lane(BARE, count, count),
            Lane(LOADER, count, count),
        )
    ]


def measure_lanes(
    lanes: Sequence[Lane], data: TrainingData, rounds: int, batches: int = 0
) -> LaneRuns:
    """Let all lanes read in turn, an epoch in each round, or the first batches of one."""
    with ExitStack() as stack:
        readings = {lane: stack.enter_context(Reading(lane, data, batches)) for lane in lanes}
        found = {lane: reading.begun() for lane, reading in readings.items()}
        for number in range(1, rounds + 1):
            for lane, reading in readings.items():
                found[lane]["epochs"].append(reading.epoch())
                pace = _paces(found[lane], "whole")[-1]
                where = f" on {lane.cores} cores" if lane.cores else ""
                print(f"round {number}, {lane.title}{where}: {pace:,.0f} images/s", flush=True)
    return found


def require_same_pixels(found: LaneRuns) -> None:
    """Stop when a lane did not decode what the others did.

    Raises:
        SystemExit: With the number of images of each lane and the sum over their pixels.
    """
    sums = {(lane.title, run["images"], run["checksum"]) for lane, run in found.items()}
    if len({(images, checksum) for _, images, checksum in sums}) > 1:
        sys.exit(f"The lanes decoded different pictures, no figure: {sorted(sums)}")


def images_per_second(run: Run, key: str = "steady") -> float:
    """Return the median over the epochs; ``whole`` counts all of an epoch."""
    return statistics.median(_paces(run, key))


def _paces(run: Run, key: str = "steady") -> list[float]:
    if key == "steady":
        return [epoch["steady_images_per_second"] for epoch in run["epochs"]]
    return [epoch["images"] / epoch["seconds"] for epoch in run["epochs"]]


def best(found: LaneRuns, name: str) -> Lane:
    """Return the fastest lane of a name."""
    lanes = [lane for lane in found if lane.name == name]
    return max(lanes, key=lambda lane: images_per_second(found[lane]))


def goal_of_memory(run: Run) -> Goal:
    """Hold the peak after the last epoch against the peak after the second one."""
    growth = run["epochs"][-1]["peak_mib"] / run["epochs"][1]["peak_mib"]
    return Goal("training_input_memory_growth", growth, FLAT, at_most=True)


def goals_of(found: LaneRuns, alone: LaneRuns, on_large_file: LaneRuns, memory: Run) -> list[Goal]:
    goals = [
        Goal("training_input_vs_bare", ratio(alone, BARE, "whole"), VERSUS_BARE),
        Goal("training_input_steady_vs_bare", ratio(alone, BARE), VERSUS_BARE),
        Goal("training_input_vs_dataloader", ratio(found, LOADER), VERSUS_LOADER),
        goal_of_memory(memory),
    ]
    if on_large_file:
        large = ratio(on_large_file, BARE)
        goals.append(Goal("training_input_large_file_vs_bare", large, VERSUS_BARE))
    return goals


def ratio(found: LaneRuns, other: str, key: str = "steady") -> float:
    """Return our images per second over those of the best lane of another name."""
    return statistics.median(_ratios(found[best(found, OURS)], found[best(found, other)], key))


def _ratios(run: Run, other: Run, key: str = "steady") -> list[float]:
    """Return the images per second of a lane over those of another, in each round."""
    return [one / two for one, two in zip(_paces(run, key), _paces(other, key), strict=True)]


def speed_table(found: LaneRuns) -> str:
    header = (
        "lane", "images/s, whole epochs", "against best bare loop", "images/s, steady (range)",
        "against best bare loop (half of the rounds)", "first batch of an epoch s", "memory MiB",
    )  # fmt: skip
    bare = found[best(found, BARE)]
    return table(header, [_line(lane, run, bare) for lane, run in found.items()])


def _line(lane: Lane, run: Run, bare: Run) -> list[str]:
    paces, ratios = _paces(run), _ratios(run, bare)
    # Two values at the least are asked for; one round has no spread.
    low, middle, high = statistics.quantiles(ratios * 2 if len(ratios) == 1 else ratios)
    return [
        lane.title,
        f"{images_per_second(run, 'whole'):,.0f}",
        f"{statistics.median(_ratios(run, bare, 'whole')):.2f}",
        f"{statistics.median(paces):,.0f} ({min(paces):,.0f}-{max(paces):,.0f})",
        f"{middle:.2f} ({low:.2f}-{high:.2f})",
        f"{statistics.median(epoch['first_batch_seconds'] for epoch in run['epochs']):.2f}",
        f"{max(epoch['tree_mib'] for epoch in run['epochs']):,.0f}",
    ]


def scaling_table(found: LaneRuns, on_part: LaneRuns) -> str:
    """Return what each way reads on few cores, as a share of what it reads on all."""
    rows = []
    for lane, run in on_part.items():
        pace = images_per_second(run)
        share = pace / images_per_second(found[best(found, lane.name)])
        rows.append([lane.title, str(lane.cores), f"{pace:,.0f}", f"{share:.2f}"])
    return table(("lane", "cores", "images/s, steady", "of all cores"), rows)


def page_of(
    found: LaneRuns,
    alone: LaneRuns,
    on_part: LaneRuns,
    on_large_file: LaneRuns,
    memory: Run,
    size: Size,
) -> str:
    intro = __doc__.partition("[--data DIR]")[2].strip()
    cores = len(os.sched_getaffinity(0))
    large = ""
    if on_large_file:
        large = f"## {size.large:,} rows in one file\n\n{large_file_table(on_large_file)}\n"
    return (
        f"# Training input against a bare loop\n\n{intro}\n\n"
        f"## {size.images:,} stored photos, {cores} cores, {size.rounds} rounds"
        f"\n\n{speed_table(found)}\n"
        f"## The same two alone, {size.rounds_alone} rounds\n\n{speed_table(alone)}\n"
        f"## On fewer cores\n\n{scaling_table(found, on_part)}\n{large}"
        f"## Memory of {OURS} over {size.small:,} photos\n\n{memory_table(memory)}\n"
    )


def large_file_table(found: LaneRuns) -> str:
    """Return what both ways read of a file with as many rows as the default allows."""
    bare = found[best(found, BARE)]
    rows = [
        [
            lane.title,
            f"{images_per_second(run):,.0f}",
            f"{statistics.median(_ratios(run, bare)):.2f}",
        ]
        for lane, run in found.items()
    ]
    return table(("lane", "images/s, steady", "against bare loop"), rows)


def memory_table(run: Run) -> str:
    """Return the memory after the second epoch and after the last one."""
    after = run["epochs"]
    rows = [
        [str(epochs), *(f"{after[epochs - 1][key]:,.0f}" for key in ("now_mib", "peak_mib"))]
        for epochs in (2, len(after))
    ]
    return table(("after epochs", "MiB", "peak so far MiB"), rows)


def as_json(found: LaneRuns) -> list[dict[str, Any]]:
    return [
        {
            "lane": lane.title,
            "cores": lane.cores,
            "images_per_second": round(images_per_second(run), 1),
            **run,
        }
        for lane, run in found.items()
    ]


def main() -> None:
    given = arguments("Compare our training input with a bare loop and with DataLoader.")
    size = QUICK if given.quick else FULL
    # For the lanes, which inherit it: read when a process starts.
    os.environ.update(ONE_ARENA)
    # Stored before the machine is looked at, for that keeps it busy.
    cache = given.data.resolve()
    data, small = (make_training_data(count, cache) for count in (size.images, size.small))
    large = make_large_file(data, size.large, cache) if size.large else None
    for path in data.files.glob("*/*.jpg"):
        path.read_bytes()  # Into the page cache: the lanes are compared, not the disk.
    idle = require_idle(given.force)
    cores = len(os.sched_getaffinity(0))
    found = measure_lanes(lanes_for(cores), data, size.rounds)
    pair = [best(found, OURS), best(found, BARE)]
    alone = measure_lanes(pair, data, size.rounds_alone)
    on_part = measure_lanes(scaling_lanes(cores), data, size.rounds)
    for of_these in (alone, on_part):
        require_same_pixels({**found, **of_these})
    on_large_file: LaneRuns = {}
    if large:
        on_large_file = measure_lanes(pair, large, size.rounds_alone, LARGE_BATCHES)
    ours = Lane(OURS, max(2, cores))
    memory = measure_lanes([ours], small, size.small_epochs)[ours]
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "images": size.images,
        "lanes": as_json(found),
        "two_alone": as_json(alone),
        "on_part_of_the_cores": as_json(on_part),
        "on_a_large_file": as_json(on_large_file),
        "memory": memory,
    }
    page = page_of(found, alone, on_part, on_large_file, memory, size)
    goals = goals_of(found, alone, on_large_file, memory)
    write_result("training-input", result, page, goals, "make bench-training")


if __name__ == "__main__":
    main()

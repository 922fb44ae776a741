"""Does our reader feed training as fast as a bare loop over the same Parquet files?

    python -m benchmarks.training.input [--quick] [--force] [--data DIR]

Every lane decodes the same stored photos into the same batches of 224 px, in a process of its own,
and nothing is done with them. Our reader is the one of ``train``: Petastorm, shuffled, decoded in
threads, two batches ahead. The bare loop reads row group by row group and decodes whole batches in
threads, without shuffling; DataLoader reads the same photos as files, by worker processes. Each
round runs the lanes in turn; a lane reads one epoch that is not timed, whose pixels must be those
of the other lanes, and then those that are. The steady state leaves out the first batches of an
epoch, and the last ones, which our reader has read before. The bare loop and DataLoader count with
the number of threads or processes that is best for them. The first batches of one file of 50,000
rows, as many as ``build-training-set`` writes, show what a large file costs. All lanes have the
allocator of a worker that trains on a CPU.
"""

import itertools
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Goal, arguments, require_idle, run_command, table, write_result
from benchmarks.training.data import TrainingData, make_large_file, make_training_data

from catalog_batch.modeling.allocator import ONE_ARENA

VERSUS_BARE = 0.95
VERSUS_LOADER = 1.0
# What the peak may grow from the second epoch to the last one.
FLAT = 1.05
OURS, BARE, LOADER = "catalog-batch", "bare loop", "DataLoader"


@dataclass(frozen=True)
class Size:
    """Photos in the table, timed epochs of a run, rounds; photos and epochs for the memory."""

    images: int
    epochs: int
    rounds: int
    small: int
    small_epochs: int
    large: int
    """Rows of one large file, of which ``LARGE_BATCHES`` are read; 0 leaves that out."""


FULL = Size(images=4000, epochs=2, rounds=5, small=500, small_epochs=20, large=50_000)
QUICK = Size(images=2000, epochs=1, rounds=1, small=200, small_epochs=5, large=0)
LARGE_BATCHES = 40


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

    def run(self, data: TrainingData, epochs: int, batches: int = 0) -> dict[str, Any]:
        """Time epochs, or the first batches of one, in a process of its own."""
        command = [
            sys.executable, "-W", "ignore", "-m", "benchmarks.training.reading", self.name,
            str(data.folder), "--count", str(data.count), "--workers", str(self.workers),
            "--cores", str(self.cores), "--epochs", str(epochs), "--batches", str(batches),
        ]  # fmt: skip
        finished = run_command(command)
        return {**finished.status, "seconds": finished.seconds, "tree_peak_mib": finished.peak_mib}


LaneRuns = dict[Lane, list[dict[str, Any]]]
"""The runs of each lane, by round."""


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


def measure_lanes(lanes: Sequence[Lane], data: TrainingData, size: Size) -> LaneRuns:
    """Run all lanes round by round."""
    found: LaneRuns = {lane: [] for lane in lanes}
    for number in range(1, size.rounds + 1):
        for lane in lanes:
            found[lane].append(lane.run(data, size.epochs))
            pace = images_per_second(found[lane][-1:])
            where = f" on {lane.cores} cores" if lane.cores else ""
            print(f"round {number}, {lane.title}{where}: {pace:,.0f} images/s", flush=True)
    require_same_pixels(found)
    return found


def measure_large_file(found: LaneRuns, data: TrainingData, rounds: int) -> LaneRuns:
    """Run our reader and the best bare loop on the first batches of a large file."""
    lanes = [best(found, OURS), best(found, BARE)]
    runs: LaneRuns = {lane: [] for lane in lanes}
    for _ in range(rounds):
        for lane in lanes:
            runs[lane].append(lane.run(data, 1, LARGE_BATCHES))
            pace = images_per_second(runs[lane][-1:])
            print(f"{data.count:,} rows in a file, {lane.title}: {pace:,.0f} images/s", flush=True)
    return runs


def require_same_pixels(found: LaneRuns) -> None:
    """Stop when a lane did not decode what the others did.

    Raises:
        SystemExit: With the number of images of each lane and the sum over their pixels.
    """
    sums = {
        (lane.title, run["images"], run["checksum"]) for lane, runs in found.items() for run in runs
    }
    if len({(images, checksum) for _, images, checksum in sums}) > 1:
        sys.exit(f"The lanes decoded different pictures, no figure: {sorted(sums)}")


def images_per_second(runs: Iterable[dict[str, Any]], key: str = "steady") -> float:
    """Return the median over all epochs of the runs; ``whole`` counts all of an epoch."""
    return statistics.median(_paces(runs, key))


def _paces(runs: Iterable[dict[str, Any]], key: str) -> list[float]:
    epochs = [epoch for run in runs for epoch in run["epochs"]]
    if key == "steady":
        return [epoch["steady_images_per_second"] for epoch in epochs]
    return [epoch["images"] / epoch["seconds"] for epoch in epochs]


def best(found: LaneRuns, name: str) -> Lane:
    """Return the fastest lane of a name."""
    lanes = [lane for lane in found if lane.name == name]
    return max(lanes, key=lambda lane: images_per_second(found[lane]))


def goal_of_memory(run: dict[str, Any]) -> Goal:
    """Hold the peak after the last epoch against the peak after the second one."""
    growth = run["memory"][-1]["peak_mib"] / run["memory"][1]["peak_mib"]
    return Goal("training_input_memory_growth", growth, FLAT, at_most=True)


def goals_of(found: LaneRuns, on_large_file: LaneRuns, memory: dict[str, Any]) -> list[Goal]:
    goals = [
        Goal("training_input_vs_bare", ratio(found, BARE), VERSUS_BARE),
        Goal("training_input_vs_dataloader", ratio(found, LOADER), VERSUS_LOADER),
        goal_of_memory(memory),
    ]
    if on_large_file:
        large = ratio(on_large_file, BARE)
        goals.append(Goal("training_input_large_file_vs_bare", large, VERSUS_BARE))
    return goals


def ratio(found: LaneRuns, other: str) -> float:
    """Return our images per second over those of the best lane of another name."""
    ours, theirs = (images_per_second(found[best(found, name)]) for name in (OURS, other))
    return ours / theirs


def speed_table(found: LaneRuns) -> str:
    header = (
        "lane", "images/s, steady (range)", "against best bare loop", "images/s, whole epochs",
        "first batch of an epoch s", "peak memory MiB",
    )  # fmt: skip
    bare = images_per_second(found[best(found, BARE)])
    return table(header, [_line(lane, runs, bare) for lane, runs in found.items()])


def _line(lane: Lane, runs: list[dict[str, Any]], bare: float) -> list[str]:
    paces = _paces(runs, "steady")
    waits = [epoch["first_batch_seconds"] for run in runs for epoch in run["epochs"]]
    return [
        lane.title,
        f"{statistics.median(paces):,.0f} ({min(paces):,.0f}-{max(paces):,.0f})",
        f"{statistics.median(paces) / bare:.2f}",
        f"{images_per_second(runs, 'whole'):,.0f}",
        f"{statistics.median(waits):.2f}",
        f"{max(run['tree_peak_mib'] for run in runs):,.0f}",
    ]


def scaling_table(found: LaneRuns, on_part: LaneRuns) -> str:
    """Return what each way reads on few cores, as a share of what it reads on all."""
    rows = []
    for lane, runs in on_part.items():
        pace = images_per_second(runs)
        share = pace / images_per_second(found[best(found, lane.name)])
        rows.append([lane.title, str(lane.cores), f"{pace:,.0f}", f"{share:.2f}"])
    return table(("lane", "cores", "images/s, steady", "of all cores"), rows)


def page_of(
    found: LaneRuns,
    on_part: LaneRuns,
    on_large_file: LaneRuns,
    memory: dict[str, Any],
    size: Size,
) -> str:
    intro = __doc__.partition("[--data DIR]")[2].strip()
    cores = len(os.sched_getaffinity(0))
    large = ""
    if on_large_file:
        large = f"## {size.large:,} rows in one file\n\n{large_file_table(on_large_file)}\n"
    return (
        f"# Training input against a bare loop\n\n{intro}\n\n"
        f"## {size.images:,} stored photos, {cores} cores, {size.rounds} rounds of {size.epochs} "
        f"timed epochs\n\n{speed_table(found)}\n"
        f"## On fewer cores\n\n{scaling_table(found, on_part)}\n{large}"
        f"## Memory of {OURS} over {size.small:,} photos\n\n{memory_table(memory)}\n"
    )


def large_file_table(found: LaneRuns) -> str:
    """Return what both ways read of a file with as many rows as the default allows."""
    bare = images_per_second(found[best(found, BARE)])
    rows = [
        [lane.title, f"{images_per_second(runs):,.0f}", f"{images_per_second(runs) / bare:.2f}"]
        for lane, runs in found.items()
    ]
    return table(("lane", "images/s, steady", "against bare loop"), rows)


def memory_table(run: dict[str, Any]) -> str:
    """Return the memory after the second epoch and after the last one."""
    after = run["memory"]
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
            "images_per_second": round(images_per_second(runs), 1),
            "runs": runs,
        }
        for lane, runs in found.items()
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
    found = measure_lanes(lanes_for(cores), data, size)
    on_part = measure_lanes(scaling_lanes(cores), data, size)
    on_large_file = measure_large_file(found, large, size.rounds) if large else {}
    memory = Lane(OURS, max(2, cores)).run(small, size.small_epochs)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "images": size.images,
        "lanes": as_json(found),
        "on_part_of_the_cores": as_json(on_part),
        "on_a_large_file": as_json(on_large_file),
        "memory": memory,
    }
    page = page_of(found, on_part, on_large_file, memory, size)
    goals = goals_of(found, on_large_file, memory)
    write_result("training-input", result, page, goals, "make bench-training")


if __name__ == "__main__":
    main()

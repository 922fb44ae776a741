"""Does an image cost the same in a large catalogue, and what does a night with few changes cost?

    python -m benchmarks.ingest.growth [--quick] [--force] [--data DIR]

Catalogues of growing size are ingested, each into a new warehouse; the time that the next size
takes more, by its images more, is the steady time of an image. All but the largest are ingested
five times, in turns, of which the median counts: most of their time is the start. The largest is
then ingested again as it is; once more after a few of its files have got new pixels, which shows
what it costs to publish anything at all; and once more after 1 % of them have. These three nights
are done three times, in turns, each time with other files.
"""

import itertools
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.commands import Finished, run_command
from benchmarks.ingest.lanes import ingest_command
from benchmarks.ingest.photos import SMALL, Dataset, copy_of, make_photos, replace_photo
from benchmarks.measure import Goal, arguments, require_idle, table, write_result

FULL = (1_000, 10_000, 100_000)
QUICK = (500, 2_000, 6_000)
CHANGED_SHARE = 0.01
FEW = 10
# Largest over smallest time of an image, for it to be called flat.
FLAT = 1.15
# What the driver's Python process may take more for 100 times the products.
DRIVER = 1.15
ROUNDS = 5
TURNS = 3
UNCHANGED_SECONDS = 60.0
# Percent of what all files cost that 1 % of changed files may cost: about 1.
ONE_PERCENT = 1.5


def ingest(dataset: Dataset, warehouse: Path) -> Finished:
    finished = run_command(ingest_command(dataset, warehouse))
    counts = finished.status["counts"]
    print(f"{dataset.count:,} products: {finished.seconds:.1f} s, {counts}", flush=True)
    return finished


def require_count(finished: Finished, outcome: str, rows: int) -> None:
    """Stop when a run did not do what it is timed for.

    Raises:
        SystemExit: With the counts that it ended with.
    """
    if finished.status["counts"].get(outcome) != rows:
        sys.exit(f"{rows:,} rows should be {outcome}: {finished.status['counts']}")


def first_nights(sizes: tuple[int, ...], data: Path, work: Path) -> dict[int, list[Finished]]:
    """Ingest catalogues of all sizes, fastest first; the warehouse of the largest is left."""
    # Linked anew: later the files of the largest are replaced.
    datasets = {
        size: copy_of(make_photos(SMALL, size, data), SMALL, work / f"catalogue-{size}")
        for size in sizes
    }
    *smaller, largest = sizes
    nights: dict[int, list[Finished]] = {size: [] for size in sizes}
    for size in [*smaller * ROUNDS, largest]:
        warehouse = work / f"warehouse-{size}"
        shutil.rmtree(warehouse, ignore_errors=True)
        nights[size].append(ingest(datasets[size], warehouse))
        require_count(nights[size][-1], "ingested", size)
    for size in smaller:
        shutil.rmtree(work / f"warehouse-{size}")
    return {size: sorted(runs, key=lambda night: night.seconds) for size, runs in nights.items()}


def unchanged_night(dataset: Dataset, warehouse: Path) -> Finished:
    """Ingest the same again; no row may be done anew."""
    night = ingest(dataset, warehouse)
    require_count(night, "unchanged", dataset.count)
    return night


def changed_night(dataset: Dataset, warehouse: Path, changed: range) -> Finished:
    """Give some files new pixels, and ingest again."""
    for index in changed:
        replace_photo(dataset.images / SMALL.file_name(index), SMALL, index)
    night = ingest(dataset, warehouse)
    require_count(night, "ingested", len(changed))
    return night


def steady_ms(nights: dict[int, Finished]) -> list[float]:
    """Return the milliseconds an image takes, from each size to the next."""
    sizes = sorted(nights)
    return [
        1000 * (nights[larger].seconds - nights[smaller].seconds) / (larger - smaller)
        for smaller, larger in itertools.pairwise(sizes)
    ]


def bytes_read(night: Finished) -> float:
    """Return the bytes of images that a night read, by its own measures.

    Images are opened in decoding processes alone; one that was seen counts as a byte at least.
    """
    measured = night.status.get("measures", {}).get("bytes_read", 0.0)
    return max(float(measured), float("decoder" in night.peak_mib_by_role))


@dataclass(frozen=True)
class Later:
    """The nights after the first of the largest catalogue, each the median of its turns."""

    unchanged: Finished
    few_changed: Finished
    changed: Finished


def later_nights(dataset: Dataset, warehouse: Path) -> tuple[Later, list[Later]]:
    """Ingest a catalogue again and again; return the medians, and all turns."""
    count, step = dataset.count, round(1 / CHANGED_SHARE)
    turns = []
    for turn in range(TURNS):
        unchanged = unchanged_night(dataset, warehouse)
        # Spread over the catalogue, and none of them twice.
        few = changed_night(dataset, warehouse, range(step // 2 + turn, count, count // FEW))
        some = range(turn * step // 10, count, step)
        turns.append(Later(unchanged, few, changed_night(dataset, warehouse, some)))
    medians = Later(
        _median([turn.unchanged for turn in turns]),
        _median([turn.few_changed for turn in turns]),
        _median([turn.changed for turn in turns]),
    )
    return medians, turns


def _median(nights: list[Finished]) -> Finished:
    return sorted(nights, key=lambda night: night.cpu_seconds)[len(nights) // 2]


@dataclass(frozen=True)
class Nights:
    """The first nights by their size, and what followed the largest."""

    runs: dict[int, list[Finished]]
    later: Later

    @property
    def first(self) -> dict[int, Finished]:
        """The median first night of each size."""
        return {size: runs[len(runs) // 2] for size, runs in self.runs.items()}

    @property
    def largest(self) -> int:
        return max(self.runs)

    @property
    def driver_growth(self) -> float:
        """Peak memory of the driver's Python process, of the largest over the smallest."""
        peaks = [self.first[size].peak_mib_by_role["driver"] for size in sorted(self.runs)]
        return peaks[-1] / peaks[0]

    @property
    def changed_share(self) -> float:
        """The CPU time of what changed beyond a few files, as a share of that of all images.

        CPU time, for the wall clock of a whole run varies by more than 1 % of the images take.
        """
        one_percent = self.later.changed.cpu_seconds - self.later.few_changed.cpu_seconds
        smallest = min(self.first)
        everything = self.first[self.largest].cpu_seconds - self.first[smallest].cpu_seconds
        return one_percent / everything * (1 - smallest / self.largest)


def goals_of(nights: Nights) -> list[Goal]:
    steady = steady_ms(nights.first)
    seconds, read = nights.later.unchanged.seconds, bytes_read(nights.later.unchanged)
    return [
        Goal("ingest_growth_flat", max(steady) / min(steady), FLAT, at_most=True),
        Goal("ingest_driver_memory_flat", nights.driver_growth, DRIVER, at_most=True),
        Goal("ingest_unchanged_seconds", seconds, UNCHANGED_SECONDS, at_most=True),
        Goal("ingest_unchanged_bytes_read", read, 0, at_most=True),
        Goal("ingest_one_percent_changed", 100 * nights.changed_share, ONE_PERCENT, at_most=True),
    ]


def page_of(nights: Nights) -> str:
    last = f"{nights.largest:,}"
    rows = [(f"{size:,} products, first night", night) for size, night in nights.first.items()]
    rows += [
        (f"{last} products, unchanged", nights.later.unchanged),
        (f"{last} products, {FEW} changed", nights.later.few_changed),
        (f"{last} products, 1 % changed", nights.later.changed),
    ]
    header = ("night", "seconds", "CPU s", "JVM peak MiB", "driver peak MiB", "all at once MiB")
    lines = [[name, *_cells(night)] for name, night in rows]
    ranges = "; ".join(
        f"{size:,}: {runs[0].seconds:.1f} to {runs[-1].seconds:.1f} s"
        for size, runs in nights.runs.items()
        if len(runs) > 1
    )
    steady = " and ".join(f"{value:.2f}" for value in steady_ms(nights.first))
    later = nights.later
    return (
        f"# Ingest of a growing catalogue\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n\n"
        f"{table(header, lines)}\nRanges of first nights: {ranges}. An image takes "
        f"{steady} ms from each size to the next. 1 % of changed files takes "
        f"{nights.changed_share:.2%} of the CPU time that all images take; on "
        f"the clock, {later.changed.seconds - later.few_changed.seconds:.1f} s more than {FEW} "
        f"files and {later.changed.seconds - later.unchanged.seconds:.1f} s more than none.\n\n"
    )


def _cells(night: Finished) -> list[str]:
    roles = night.peak_mib_by_role
    memory = (roles.get("jvm", 0.0), roles.get("driver", 0.0), night.peak_mib)
    times = (f"{night.seconds:.1f}", f"{night.cpu_seconds:.1f}")
    return [*times, *(f"{value:,.0f}" for value in memory)]


def main() -> None:
    given = arguments("Measure how ingest grows with the catalogue.")
    sizes = QUICK if given.quick else FULL
    make_photos(SMALL, max(sizes), given.data)
    idle = require_idle(given.force)
    work = given.data / "growth"
    shutil.rmtree(work, ignore_errors=True)
    first = first_nights(sizes, given.data, work)
    largest = Dataset(work / f"catalogue-{sizes[-1]}", sizes[-1])
    warehouse = work / f"warehouse-{sizes[-1]}"
    later, turns = later_nights(largest, warehouse)
    shutil.rmtree(work)
    nights = Nights(first, later)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "first_nights": {size: [asdict(run) for run in runs] for size, runs in first.items()},
        "later_nights": [asdict(turn) for turn in turns],
    }
    write_result("ingest-growth", result, page_of(nights), goals_of(nights))


if __name__ == "__main__":
    main()

"""Does an image cost the same in a large catalogue, and what does a night with few changes cost?

    python -m benchmarks.ingest.growth [--quick] [--force] [--data DIR]

Catalogues of growing size are ingested, each into a new warehouse; the time that the next size
takes more, by its images more, is the steady time of an image. The largest is then ingested again
as it is, and once more after 1 % of its files have got new pixels.
"""

import itertools
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.ingest.lanes import ingest_command
from benchmarks.ingest.measure import (
    Finished,
    Goal,
    arguments,
    require_idle,
    run_command,
    table,
    write_result,
)
from benchmarks.ingest.photos import SMALL, Dataset, copy_of, make_photos, replace_photo

FULL = (1_000, 10_000, 100_000)
QUICK = (500, 2_000, 6_000)
CHANGED_SHARE = 0.01
# What an image may cost more in a catalogue ten times as large, to be called flat.
FLAT = 1.15
UNCHANGED_SECONDS = 60.0


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


def first_nights(sizes: tuple[int, ...], data: Path, work: Path) -> dict[int, Finished]:
    """Ingest a catalogue of each size; the warehouse of the largest is left."""
    nights = {}
    for size in sizes:
        warehouse = work / f"warehouse-{size}"
        # Linked anew: later the files of the largest are replaced.
        dataset = copy_of(make_photos(SMALL, size, data), SMALL, work / f"catalogue-{size}")
        nights[size] = ingest(dataset, warehouse)
        require_count(nights[size], "ingested", size)
        if size != sizes[-1]:
            shutil.rmtree(warehouse)
    return nights


def unchanged_night(dataset: Dataset, warehouse: Path) -> Finished:
    """Ingest the same again; no row may be done anew."""
    night = ingest(dataset, warehouse)
    require_count(night, "unchanged", dataset.count)
    return night


def changed_night(dataset: Dataset, warehouse: Path) -> Finished:
    """Give 1 % of the files, spread over the catalogue, new pixels, and ingest again."""
    step = round(1 / CHANGED_SHARE)
    changed = range(0, dataset.count, step)
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


def goals_of(nights: dict[int, Finished], unchanged: Finished) -> list[Goal]:
    growth = max(later / earlier for earlier, later in itertools.pairwise(steady_ms(nights)))
    return [
        Goal("ingest_growth_flat", growth, FLAT, at_most=True),
        Goal("ingest_unchanged_seconds", unchanged.seconds, UNCHANGED_SECONDS, at_most=True),
        Goal("ingest_unchanged_bytes_read", bytes_read(unchanged), 0, at_most=True),
    ]


def page_of(nights: dict[int, Finished], unchanged: Finished, changed: Finished) -> str:
    last = max(nights)
    rows = [(f"{size:,} products, first night", night) for size, night in nights.items()]
    rows += [(f"{last:,} products, unchanged", unchanged), (f"{last:,}, 1 % changed", changed)]
    header = ("night", "seconds", "CPU s", "JVM peak MiB", "driver peak MiB", "all at once MiB")
    lines = [[name, *_cells(night)] for name, night in rows]
    steady = " and ".join(f"{value:.2f}" for value in steady_ms(nights))
    more = changed.seconds - unchanged.seconds
    return (
        f"# Ingest of a growing catalogue\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n\n"
        f"{table(header, lines)}\nAn image takes {steady} ms from each size to the next. 1 % of "
        f"changed files takes {more:.1f} s more than an unchanged night.\n\n"
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
    nights = first_nights(sizes, given.data, work)
    largest = Dataset(work / f"catalogue-{sizes[-1]}", sizes[-1])
    warehouse = work / f"warehouse-{sizes[-1]}"
    unchanged = unchanged_night(largest, warehouse)
    changed = changed_night(largest, warehouse)
    shutil.rmtree(work)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "first_nights": {size: asdict(night) for size, night in nights.items()},
        "unchanged_night": asdict(unchanged),
        "changed_night": asdict(changed),
    }
    page = page_of(nights, unchanged, changed)
    write_result("ingest-growth", result, page, goals_of(nights, unchanged))


if __name__ == "__main__":
    main()

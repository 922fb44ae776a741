"""How much memory do large photos take, all in one task?

    python -m benchmarks.ingest.memory [--quick] [--force] [--data DIR]

200 uncompressed TIFF files of 20 MB each (--quick: 40) are all dealt to one Spark task. The peak is
what the kernel remembers of each process (VmHWM): Spark's Python worker, and its decoding child.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.commands import Finished, run_command
from benchmarks.ingest.lanes import ingest_command
from benchmarks.ingest.photos import TWENTY_MB, make_photos
from benchmarks.measure import Goal, arguments, require_idle, table, write_result

FULL = 200
QUICK = 40
PEAK_MIB = 1536.0
SAMPLE_SECONDS = 0.2
ONE_TASK = (
    # Each core would get a few tasks, whatever a task may hold.
    "--set=spark.master=local[1,4]",
    "--set=ingest.tasks_per_core=1",
    "--set=ingest.rows_per_task=1000",
    "--set=ingest.bytes_per_task=100000000000",
    "--set=ingest.max_source_bytes=50000000",
)


def ingest_in_one_task(count: int, data: Path) -> Finished:
    dataset = make_photos(TWENTY_MB, count, data)
    warehouse = data / "memory-warehouse"
    shutil.rmtree(warehouse, ignore_errors=True)
    finished = run_command(ingest_command(dataset, warehouse, *ONE_TASK), SAMPLE_SECONDS)
    shutil.rmtree(warehouse)
    return finished


def goals_of(finished: Finished) -> list[Goal]:
    return [
        Goal(f"ingest_memory_{role.replace(' ', '_')}_mib", peak, PEAK_MIB, at_most=True)
        for role, peak in finished.peak_mib_by_role.items()
        if role in ("python worker", "decoder")
    ]


def main() -> None:
    given = arguments("Measure the memory that large photos take.")
    count = QUICK if given.quick else FULL
    make_photos(TWENTY_MB, count, given.data)
    idle = require_idle(given.force)
    finished = ingest_in_one_task(count, given.data)
    rows = [[role, f"{mib:,.0f}"] for role, mib in sorted(finished.peak_mib_by_role.items())]
    page = (
        f"# Memory of large photos\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n\n"
        f"{table(('process', 'peak MiB'), rows)}\n{count} photos in "
        f"{finished.seconds:.0f} s; at most {finished.peak_mib:,.0f} MiB at once in all.\n\n"
    )
    result = {"quick": given.quick, "forced": given.force, "idle_before": idle, "images": count}
    write_result("ingest-memory", result | asdict(finished), page, goals_of(finished))


if __name__ == "__main__":
    main()

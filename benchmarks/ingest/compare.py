"""Is ingest as fast as no engine at all, and how much faster than the usual Spark way?

    python -m benchmarks.ingest.compare [--quick] [--force] [--data DIR]

Every lane ingests the same photos into the same columns, in a process of its own and an empty
folder. Each round runs each lane on a part of the photos and on all of them, lanes in turn, after a
warm-up that is dropped. The median run on all, less the median run on a part, is the time that the
other photos take: the steady state. What is left of a run is start-up. The usual Spark way runs in
a session with the same settings as ours.
"""

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import Finished
from benchmarks.ingest.lanes import BARE, LANES, OURS, USUAL, Lane
from benchmarks.ingest.photos import BIG, SMALL, Dataset, PhotoKind, make_photos
from benchmarks.measure import Goal, Runs, arguments, require_idle, table, write_result

VERSUS_BARE = 0.80
VERSUS_USUAL = 3.0


@dataclass(frozen=True)
class Size:
    """How many photos of a kind the two runs of a round have, and how many rounds count."""

    kind: PhotoKind
    part: int
    whole: int
    rounds: int


# The part is large enough that all of a lane is warm before what is counted.
FULL = (Size(BIG, 500, 3000, 3), Size(SMALL, 1000, 5000, 5))
QUICK = (Size(BIG, 100, 600, 1), Size(SMALL, 200, 2000, 1))


LaneRuns = dict[str, Runs]
"""The timed runs of each lane, by its name."""


def measure_lanes(size: Size, data: Path) -> tuple[LaneRuns, Dataset]:
    """Run all lanes round by round; the warm-up reads every file and is not returned."""
    part = make_photos(size.kind, size.part, data)
    whole = make_photos(size.kind, size.whole, data)
    found = {lane.name: Runs(size) for lane in LANES}
    for path in whole.files():
        path.read_bytes()  # Into the page cache: the lanes are compared, not the disk.
    for lane in LANES:
        _run(lane, part)  # Warms what a lane itself reads: interpreter, JARs, libraries.
    for number in range(1, size.rounds + 1):
        for lane in LANES:
            runs = found[lane.name]
            runs.part.append(_run(lane, part))
            runs.whole.append(_run(lane, whole))
            seconds = f"{runs.part[-1].seconds:.1f} and {runs.whole[-1].seconds:.1f} s"
            print(f"{size.kind.side} px, round {number}, {lane.name}: {seconds}", flush=True)
    return found, whole


def _run(lane: Lane, dataset: Dataset) -> Finished:
    output = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=dataset.folder))
    try:
        return lane.run(dataset, output / "table")
    finally:
        shutil.rmtree(output)


def ratio(found: LaneRuns, lane: Lane, other: Lane) -> float:
    """Return a lane's images per second over another's."""
    return found[lane.name].images_per_second / found[other.name].images_per_second


def goals_of(size: Size, found: LaneRuns) -> list[Goal]:
    name = f"ingest_{size.kind.side}_vs"
    goals = [Goal(f"{name}_bare", ratio(found, OURS, BARE), VERSUS_BARE)]
    if size.kind is BIG:
        goals.append(Goal(f"{name}_usual", ratio(found, OURS, USUAL), VERSUS_USUAL))
    return goals


def section(size: Size, found: LaneRuns, dataset: Dataset) -> str:
    """Return the table of one kind of photo, as Markdown."""
    header = (
        "lane", "threads", "images/s, steady", "against bare", "MB/s in", "CPU ms/image",
        "start-up s", f"{size.part:,} photos s (range)", f"{size.whole:,} photos s (range)",
        "peak memory MiB", "stored MB",
    )  # fmt: skip
    megabytes = dataset.source_bytes() / 1e6
    title = f"{size.whole:,} photos of {size.kind.side} px ({megabytes:,.0f} MB in)"
    lines = [_line(lane, found, megabytes / size.whole) for lane in LANES]
    return f"\n## {title}\n\n{table(header, lines)}"


def _line(lane: Lane, found: LaneRuns, megabytes_each: float) -> list[str]:
    runs = found[lane.name]
    return [
        lane.name,
        lane.threads,
        f"{runs.images_per_second:.1f}",
        f"{ratio(found, lane, BARE):.2f}",
        f"{runs.images_per_second * megabytes_each:.1f}",
        f"{runs.cpu_ms_per_image:.1f}",
        f"{runs.start_up_seconds:.1f}",
        _median_and_range(runs.part),
        _median_and_range(runs.whole),
        f"{max(run.peak_mib for run in runs.whole):,.0f}",
        f"{runs.whole[-1].stored_bytes / 1e6:,.1f}",
    ]


def _median_and_range(runs: Sequence[Finished]) -> str:
    seconds = [run.seconds for run in runs]
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"


def as_json(size: Size, found: LaneRuns, dataset: Dataset) -> dict[str, Any]:
    return {
        "side": size.kind.side,
        "images": [size.part, size.whole],
        "source_bytes": dataset.source_bytes(),
        "lanes": {lane.name: _lane_as_json(lane, found[lane.name]) for lane in LANES},
    }


def _lane_as_json(lane: Lane, runs: Runs) -> dict[str, Any]:
    return {
        "threads": lane.threads,
        "images_per_second": round(runs.images_per_second, 2),
        "start_up_seconds": round(runs.start_up_seconds, 2),
        "part": [asdict(run) for run in runs.part],
        "whole": [asdict(run) for run in runs.whole],
    }


def main() -> None:
    given = arguments("Compare ingest with a bare loop and with the usual Spark way.")
    # Drawn before the machine is looked at, for drawing keeps it busy.
    sizes = QUICK if given.quick else FULL
    for size in sizes:
        make_photos(size.kind, size.whole, given.data)
    idle = require_idle(given.force)
    for lane in LANES:
        print(f"{lane.name}: {lane.threads}")
    goals, sections, kinds = [], [], []
    for size in sizes:
        found, dataset = measure_lanes(size, given.data)
        goals += goals_of(size, found)
        sections.append(section(size, found, dataset))
        kinds.append(as_json(size, found, dataset))
    intro = f"# Ingest against a bare loop\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n"
    page = f"{intro}{''.join(sections)}\n"
    result = {"quick": given.quick, "forced": given.force, "idle_before": idle, "kinds": kinds}
    write_result("ingest", result, page, goals)


if __name__ == "__main__":
    main()

"""Is ingest as fast as no engine at all, and how much faster than the usual Spark way?

    python -m benchmarks.ingest.compare [--quick] [--force] [--data DIR]

Every lane ingests the same photos into the same columns, in a process of its own and an empty
folder. Each round runs each lane on a part of the photos and on all of them, lanes in turn: what
the two runs differ in is the steady state, and what is left of the time is start-up. One warm-up
comes first and is dropped. A ratio is taken within a round; the median of the rounds counts.
"""

import math
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ingest.lanes import BARE, LANES, OURS, USUAL, Lane
from benchmarks.ingest.measure import Finished, Goal, arguments, require_idle, table, write_result
from benchmarks.ingest.photos import BIG, SMALL, Dataset, PhotoKind, make_photos

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
FULL = (Size(BIG, 500, 3000, 3), Size(SMALL, 1000, 5000, 3))
QUICK = (Size(BIG, 100, 600, 1), Size(SMALL, 200, 2000, 1))


@dataclass(frozen=True)
class Round:
    """A lane's two runs in one round."""

    part_images: int
    whole_images: int
    part: Finished
    whole: Finished

    @property
    def images_per_second(self) -> float:
        """The steady state: what the second run did more, by the time it took longer."""
        images = self.whole_images - self.part_images
        seconds = self.whole.seconds - self.part.seconds
        # Start-up may vary by more than the images take: then there is no figure.
        return images / seconds if seconds > 0 else math.nan

    @property
    def cpu_ms_per_image(self) -> float:
        images = self.whole_images - self.part_images
        return 1000 * (self.whole.cpu_seconds - self.part.cpu_seconds) / images

    @property
    def start_up_seconds(self) -> float:
        return self.part.seconds - self.part_images / self.images_per_second


Rounds = dict[str, list[Round]]
"""The timed rounds of each lane, by its name."""


def measure_lanes(size: Size, data: Path) -> tuple[Rounds, Dataset]:
    """Run all lanes round by round; the warm-up reads every file and is not returned."""
    part = make_photos(size.kind, size.part, data)
    whole = make_photos(size.kind, size.whole, data)
    rounds: Rounds = {lane.name: [] for lane in LANES}
    for path in whole.files():
        path.read_bytes()  # Into the page cache: the lanes are compared, not the disk.
    for number in range(size.rounds + 1):
        for lane in LANES:
            # The first round warms what a lane itself reads: interpreter, JARs, libraries.
            first = _run(lane, part)
            if number:
                rounds[lane.name].append(Round(size.part, size.whole, first, _run(lane, whole)))
                _tell(size, lane, rounds[lane.name][-1], number)
    return rounds, whole


def _run(lane: Lane, dataset: Dataset) -> Finished:
    output = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=dataset.folder))
    try:
        return lane.run(dataset, output / "table")
    finally:
        shutil.rmtree(output)


def _tell(size: Size, lane: Lane, found: Round, number: int) -> None:
    print(
        f"{size.kind.side} px, round {number}, {lane.name}: {found.images_per_second:.1f} images/s,"
        f" start-up {found.start_up_seconds:.1f} s",
        flush=True,
    )


def ratios(rounds: Rounds, other: Lane) -> list[float]:
    """Return our images per second over another lane's, round by round."""
    pairs = zip(rounds[OURS.name], rounds[other.name], strict=True)
    return [ours.images_per_second / theirs.images_per_second for ours, theirs in pairs]


def goals_of(size: Size, rounds: Rounds) -> list[Goal]:
    name = f"ingest_{size.kind.side}_vs"
    versus_bare = statistics.median(ratios(rounds, BARE))
    goals = [Goal(f"{name}_bare", versus_bare, VERSUS_BARE)]
    if size.kind is BIG:
        versus_usual = statistics.median(ratios(rounds, USUAL))
        goals.append(Goal(f"{name}_usual", versus_usual, VERSUS_USUAL))
    return goals


def section(size: Size, rounds: Rounds, dataset: Dataset) -> str:
    """Return the table of one kind of photo, as Markdown."""
    header = (
        "lane", "threads", "images/s, steady (range)", "against bare", "start-up s",
        "whole run s", "CPU ms/image", "peak memory MiB", "stored MB",
    )  # fmt: skip
    megabytes = dataset.source_bytes() / 1e6
    title = f"{size.whole:,} photos of {size.kind.side} px ({megabytes:,.0f} MB in)"
    return f"\n## {title}\n\n{table(header, [_line(lane, rounds) for lane in LANES])}"


def _line(lane: Lane, rounds: Rounds) -> list[str]:
    runs = rounds[lane.name]
    speeds = [run.images_per_second for run in runs]
    bare = [run.images_per_second for run in rounds[BARE.name]]
    versus_bare = [own / other for own, other in zip(speeds, bare, strict=True)]
    return [
        lane.name,
        lane.threads,
        f"{statistics.median(speeds):.1f} ({min(speeds):.1f}-{max(speeds):.1f})",
        f"{statistics.median(versus_bare):.2f}",
        _median(run.start_up_seconds for run in runs),
        _median(run.whole.seconds for run in runs),
        _median(run.cpu_ms_per_image for run in runs),
        f"{max(run.whole.peak_mib for run in runs):,.0f}",
        f"{runs[-1].whole.stored_bytes / 1e6:,.1f}",
    ]


def _median(values: Any) -> str:
    return f"{statistics.median(values):.1f}"


def as_json(size: Size, rounds: Rounds, dataset: Dataset) -> dict[str, Any]:
    return {
        "side": size.kind.side,
        "images": [size.part, size.whole],
        "source_bytes": dataset.source_bytes(),
        "lanes": {lane.name: _lane_as_json(lane, rounds[lane.name]) for lane in LANES},
    }


def _lane_as_json(lane: Lane, runs: Sequence[Round]) -> dict[str, Any]:
    speeds = [round(run.images_per_second, 2) for run in runs]
    start_up = [round(run.start_up_seconds, 2) for run in runs]
    return {
        "threads": lane.threads,
        "images_per_second": speeds,
        "start_up_seconds": start_up,
        "runs": [{"part": asdict(run.part), "whole": asdict(run.whole)} for run in runs],
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
        rounds, dataset = measure_lanes(size, given.data)
        goals += goals_of(size, rounds)
        sections.append(section(size, rounds, dataset))
        kinds.append(as_json(size, rounds, dataset))
    command = "make bench-ingest" + (" QUICK=1" if given.quick else "")
    intro = f"# Ingest against a bare loop\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n"
    page = f"{intro}{''.join(sections)}\nMade by `{command}`; {idle:.0%} idle before.\n\n"
    result = {"quick": given.quick, "forced": given.force, "idle_before": idle, "kinds": kinds}
    write_result("ingest", result, page, goals)


if __name__ == "__main__":
    main()

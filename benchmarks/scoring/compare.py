"""Is scoring as fast as no engine at all, and how much faster than the usual ways?

    python -m benchmarks.scoring.compare [--quick] [--force] [--data DIR]

Every lane scores the images of the same Delta table and writes the same columns, in a process of
its own and a new folder. Each round runs each lane on a part of the images and on all of them,
lanes in turn, after a warm-up that is dropped. The median run on all, less the median run on a
part, is the time that the other images take: the steady state. What is left of a run is start-up.
The bare loop, Ray Data, Daft and catalog-batch call the same function for each image; the two usual
Spark ways compute as published benchmarks do, and so does one more bare loop. The best category of
an image should be that of the bare loop for 99.5 % of them. Daft is left out, and the page says so,
where it cannot be imported: ``benchmarks/scoring/daft_frames.py`` says how it gets there.
"""

import importlib.util
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
from benchmarks.ingest.lanes import CATALOG_BATCH
from benchmarks.measure import (
    Finished,
    Goal,
    Runs,
    arguments,
    require_idle,
    run_command,
    table,
    write_result,
)
from benchmarks.scoring.catalogue import MODEL, Catalogue, make_catalogue
from deltalake import DeltaTable

AGREEMENT = 0.995


@dataclass(frozen=True)
class Lane:
    """A way to score: its name, how many threads it has, its module and last argument."""

    name: str
    threads: str
    module: str = ""
    way: str = ""

    def run(self, catalogue: Catalogue, folder: Path) -> tuple[Finished, dict[str, str]]:
        """Score a catalogue; return how it went, and the best category of each image.

        Raises:
            SystemExit: When not every image has an answer: a lane may not win by losing rows.
        """
        if self.module:
            output = folder / "predictions"
            inputs = [str(catalogue.images), str(catalogue.bundle), str(output), self.way]
            finished = run_command([sys.executable, "-W", "ignore", "-m", self.module, *inputs])
        else:
            own = catalogue.copy(folder / "catalogue")
            output = own.warehouse / "image_predictions"
            options = ["--model", f"{MODEL}@champion", "--log-format", "json"]
            finished = run_command([CATALOG_BATCH, "score", "-w", str(own.warehouse), *options])
        best = best_categories(output)
        if len(best) != catalogue.count:
            sys.exit(f"{self.name} scored {len(best):,} of {catalogue.count:,} images: no figure.")
        return finished, best


_TWO = "2 processes x 1 thread"
BARE = Lane("bare loop", _TWO, "benchmarks.scoring.bare_loop", "shipped")
RAY = Lane("Ray Data", "2 actors x 1 thread", "benchmarks.scoring.ray_data", "shipped")
DAFT = Lane("Daft", _TWO, "benchmarks.scoring.daft_frames", "shipped")
OURS = Lane("catalog-batch", "local[*] as shipped, 1 thread a worker")
PUBLISHED = Lane("bare loop, as published", _TWO, "benchmarks.scoring.bare_loop", "published")
ITERATOR = Lane(
    "Spark, iterator UDF, as published",
    "local[2], 1 thread a worker",
    "benchmarks.scoring.spark_usual",
    "iterator",
)
TWO_UDFS = Lane(
    "Spark, two UDFs, as published",
    "local[2], 1 thread a worker",
    "benchmarks.scoring.spark_usual",
    "two-udfs",
)
LANES = (
    BARE,
    RAY,
    *([DAFT] if importlib.util.find_spec("daft") else []),
    OURS,
    PUBLISHED,
    ITERATOR,
    TWO_UDFS,
)


@dataclass(frozen=True)
class Size:
    """How many images the two runs of a round have, and how many rounds count."""

    part: int
    whole: int
    rounds: int


FULL, QUICK = Size(500, 2640, 3), Size(100, 400, 1)


@dataclass
class ScoringRuns(Runs):
    """The timed runs of one lane, and what it answered."""

    agreement: float = 1.0
    """Share of the images whose best category is that of the bare loop."""


LaneRuns = dict[str, ScoringRuns]


def best_categories(output: Path) -> dict[str, str]:
    """Read the best category of each image from a table of predictions."""
    best = dict[str, str]()
    for uri in DeltaTable(str(output)).file_uris():
        path = unquote(uri.removeprefix("file://"))
        rows = pq.ParquetFile(path).read(columns=["image_id", "top_k"]).to_pylist()
        best |= {row["image_id"]: row["top_k"][0]["category_id"] for row in rows}
    return best


def measure_lanes(size: Size, data: Path) -> LaneRuns:
    """Run all lanes round by round; the warm-up is not returned."""
    part, whole = make_catalogue(size.part, data), make_catalogue(size.whole, data)
    found = {lane.name: ScoringRuns(size) for lane in LANES}
    for lane in LANES:
        _run(lane, part)
    for number in range(1, size.rounds + 1):
        reference = dict[str, str]()
        for lane in LANES:
            runs = found[lane.name]
            runs.part.append(_run(lane, part)[0])
            finished, best = _run(lane, whole)
            runs.whole.append(finished)
            reference = reference or best
            same = sum(reference[image] == category for image, category in best.items())
            runs.agreement = min(runs.agreement, same / len(best))
            seconds = f"{runs.part[-1].seconds:.1f} and {finished.seconds:.1f} s"
            print(f"round {number}, {lane.name}: {seconds}", flush=True)
    return found


def _run(lane: Lane, catalogue: Catalogue) -> tuple[Finished, dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="bench-scoring-", dir=catalogue.folder.parent))
    try:
        return lane.run(catalogue, folder)
    finally:
        shutil.rmtree(folder)


def ratio(found: LaneRuns, lane: Lane, other: Lane) -> float:
    """Return a lane's images per second over another's."""
    return found[lane.name].images_per_second / found[other.name].images_per_second


def goals_of(found: LaneRuns) -> list[Goal]:
    ours = found[OURS.name]
    return [
        Goal("scoring_fp32_vs_bare", ratio(found, OURS, BARE), 0.95),
        Goal("scoring_fp32_vs_ray_data", ratio(found, OURS, RAY), 1.0),
        *([Goal("scoring_fp32_vs_daft", ratio(found, OURS, DAFT), 1.0)] if DAFT in LANES else []),
        Goal("scoring_vs_iterator_udf", ratio(found, OURS, ITERATOR), 1.0),
        Goal("scoring_vs_two_udfs", ratio(found, OURS, TWO_UDFS), 1.0),
        Goal("scoring_agreement", ours.agreement, AGREEMENT),
        Goal("scoring_start_up_seconds", ours.start_up_seconds, 15, at_most=True),
    ]


def page_of(size: Size, found: LaneRuns) -> str:
    """Return the page, as Markdown."""
    header = (
        "lane", "threads", "images/s, steady", "against bare", "CPU ms/image", "start-up s",
        f"{size.part:,} images s (range)", f"{size.whole:,} images s (range)",
        "peak memory MiB", "same best category",
    )  # fmt: skip
    intro = f"# Scoring against a bare loop\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n"
    title = f"\n## {size.whole:,} stored images, ResNet-18, fp32\n\n"
    missing = "" if DAFT in LANES else "\nDaft could not be imported and is not in the table.\n"
    return f"{intro}{title}{table(header, [_line(lane, found) for lane in LANES])}\n{missing}"


def _line(lane: Lane, found: LaneRuns) -> list[str]:
    runs = found[lane.name]
    return [
        lane.name,
        lane.threads,
        f"{runs.images_per_second:.1f}",
        f"{ratio(found, lane, BARE):.2f}",
        f"{runs.cpu_ms_per_image:.1f}",
        f"{runs.start_up_seconds:.1f}",
        _median_and_range(runs.part),
        _median_and_range(runs.whole),
        f"{max(run.peak_mib for run in runs.whole):,.0f}",
        f"{runs.agreement:.2%}",
    ]


def _median_and_range(runs: Sequence[Finished]) -> str:
    seconds = [run.seconds for run in runs]
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"


def _as_json(lane: Lane, runs: ScoringRuns) -> dict[str, Any]:
    return {
        "threads": lane.threads,
        "images_per_second": round(runs.images_per_second, 2),
        "start_up_seconds": round(runs.start_up_seconds, 2),
        "agreement": runs.agreement,
        "part": [asdict(run) for run in runs.part],
        "whole": [asdict(run) for run in runs.whole],
    }


def main() -> None:
    given = arguments("Compare scoring with a bare loop, Ray Data and the usual Spark ways.")
    size = QUICK if given.quick else FULL
    data = given.data.resolve()
    for count in (size.part, size.whole):
        make_catalogue(count, data)
    idle = require_idle(given.force)
    found = measure_lanes(size, data)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "images": [size.part, size.whole],
        "lanes": {lane.name: _as_json(lane, found[lane.name]) for lane in LANES},
    }
    write_result("scoring", result, page_of(size, found), goals_of(found), "make bench-scoring")


if __name__ == "__main__":
    main()

"""Is scoring as fast as no engine at all, and how much faster than the usual ways?

    python -m benchmarks.scoring.compare [--quick] [--force] [--data DIR]

Every lane scores the images of the same Delta table and writes the same columns, in a process of
its own and a new folder. Each round runs each lane on a part of the images and on all of them,
lanes in turn, after a warm-up that is dropped. The median run on all, less the median run on a
part, is the time that the other images take: the steady state. What is left of a run is start-up.
The bare loop, Ray Data, Daft and catalog-batch call the same function for each image, with the
model as it was trained (fp32) and with its fastest variant in int8, where the engine shows
(fastest; whether it answers as the model does is not asked there). As shipped is catalog-batch
with the variant that ``catalog-batch optimise`` keeps by its defaults on this machine: its best
category of an image is that of the first bare loop for 99.5 % of them. The two usual Spark ways
compute as published benchmarks do, and so does one more bare loop. Lanes have as many images as
their speed asks for, and the slowest one a single round, which takes as long as those of all
others. Daft is left out, and the page says so, where it cannot be imported:
``benchmarks/scoring/daft_frames.py`` says how it gets there.
"""

import importlib.util
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
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
from benchmarks.scoring.catalogue import AGREES, Catalogue, make_catalogues
from deltalake import DeltaTable

from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.registry import ModelVersion


@dataclass(frozen=True)
class Lane:
    """A way to score: its name, how many threads it has, its module and last argument."""

    name: str
    threads: str
    module: str = ""
    way: str = ""
    model: str = "as_trained"
    """Which model of a catalogue, by the name of its property."""

    share: float = 1.0
    """Of a size's images that it scores."""

    rounds: int = 10
    """At the most."""

    def run(self, catalogue: Catalogue, folder: Path) -> tuple[Finished, dict[str, str]]:
        """Score a catalogue; return how it went, and the best category of each image.

        Raises:
            SystemExit: When not every image has an answer: a lane may not win by losing rows.
        """
        if self.module:
            output = folder / "predictions"
            bundle = self.model_of(catalogue).bundle_folder
            inputs = [str(catalogue.images), str(bundle), str(output), self.way]
            finished = run_command([sys.executable, "-W", "ignore", "-m", self.module, *inputs])
        else:
            own = catalogue.copy(folder / "catalogue")
            output = own.warehouse / "image_predictions"
            options = ["--model", self.model_of(catalogue).reference, "--log-format", "json"]
            finished = run_command([CATALOG_BATCH, "score", "-w", str(own.warehouse), *options])
        best = best_categories(output)
        if len(best) != catalogue.count:
            sys.exit(f"{self.name} scored {len(best):,} of {catalogue.count:,} images: no figure.")
        return finished, best

    def model_of(self, catalogue: Catalogue) -> ModelVersion:
        version: ModelVersion = getattr(catalogue, self.model)
        return version

    def images(self, size: "Size") -> int:
        """Return how many images its longer run scores."""
        return round(size.whole * self.share)


_TWO = "2 processes x 1 thread"
BARE = Lane("bare loop", _TWO, "benchmarks.scoring.bare_loop", "shipped", share=0.4)
RAY = Lane("Ray Data", "2 actors x 1 thread", "benchmarks.scoring.ray_data", "shipped", share=0.4)
DAFT = Lane("Daft", _TWO, "benchmarks.scoring.daft_frames", "shipped", share=0.4)
OURS = Lane("catalog-batch", "local[*], 1 thread a worker", share=0.4)
SHIPPED = replace(OURS, name="catalog-batch, as shipped", model="shipped")
PUBLISHED = Lane(
    "bare loop, as published", _TWO, "benchmarks.scoring.bare_loop", "published", share=0.4
)
ITERATOR = Lane(
    "Spark, iterator UDF, as published",
    "local[2], 1 thread a worker",
    "benchmarks.scoring.spark_usual",
    "iterator",
    share=0.4,
)
TWO_UDFS = Lane(
    "Spark, two UDFs, as published",
    "local[2], 1 thread a worker",
    "benchmarks.scoring.spark_usual",
    "two-udfs",
    share=0.15,
    rounds=1,
)
_ENGINES = (BARE, RAY, *([DAFT] if importlib.util.find_spec("daft") else []), OURS)


def fastest(lane: Lane) -> Lane:
    """Return the same lane with the fastest variant of the model."""
    return replace(lane, name=f"{lane.name}, fastest", model="fastest", share=1.0)


LANES = (*_ENGINES, *map(fastest, _ENGINES), SHIPPED, PUBLISHED, ITERATOR, TWO_UDFS)


@dataclass(frozen=True)
class Size:
    """How many images the two runs of a round have at the most, and how many rounds count."""

    part: int
    whole: int
    rounds: int


FULL, QUICK = Size(200, 3200, 3), Size(50, 400, 1)


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
    catalogues = make_catalogues(counts_of(size), data)
    part = catalogues[size.part]
    found = {
        lane.name: ScoringRuns(Size(size.part, lane.images(size), size.rounds)) for lane in LANES
    }
    for lane in LANES:
        _run(lane, part)
    for number in range(1, size.rounds + 1):
        reference = dict[str, str]()
        for lane in LANES:
            if number > lane.rounds:
                continue
            runs = found[lane.name]
            runs.part.append(_run(lane, part)[0])
            finished, best = _run(lane, catalogues[lane.images(size)])
            runs.whole.append(finished)
            reference = reference or best
            compared = reference.keys() & best.keys()
            same = sum(reference[image] == best[image] for image in compared)
            runs.agreement = min(runs.agreement, same / len(compared))
            seconds = f"{runs.part[-1].seconds:.1f} and {finished.seconds:.1f} s"
            print(f"round {number}, {lane.name}: {seconds}", flush=True)
    return found


def counts_of(size: Size) -> set[int]:
    """Return the sizes of the catalogues that the lanes score."""
    return {size.part, *(lane.images(size) for lane in LANES)}


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
    goals = _goals_against("fp32", found, OURS, [BARE, RAY, DAFT])
    goals.append(Goal("scoring_fp32_vs_iterator_udf", ratio(found, OURS, ITERATOR), 1.0))
    goals += _goals_against("fastest", found, fastest(OURS), map(fastest, [BARE, RAY, DAFT]))
    return [
        *goals,
        Goal("scoring_as_shipped_vs_iterator_udf", ratio(found, SHIPPED, ITERATOR), 6.0),
        Goal("scoring_as_shipped_vs_two_udfs", ratio(found, SHIPPED, TWO_UDFS), 20.0),
        Goal("scoring_as_shipped_agreement", found[SHIPPED.name].agreement, AGREES),
        Goal("scoring_start_up_seconds", found[SHIPPED.name].start_up_seconds, 15, at_most=True),
    ]


def _goals_against(numbers: str, found: LaneRuns, ours: Lane, others: Iterable[Lane]) -> list[Goal]:
    bounds = zip(("bare", "ray_data", "daft"), others, (0.95, 1.0, 1.0), strict=True)
    return [
        Goal(f"scoring_{numbers}_vs_{name}", ratio(found, ours, other), bound)
        for name, other, bound in bounds
        if other.name in found
    ]


def page_of(found: LaneRuns, variants: str) -> str:
    """Return the page, as Markdown."""
    header = (
        "lane", "threads", "images/s, steady", "against bare", "CPU ms/image", "start-up s",
        "rounds", "a part s (range)", "images", "all s (range)", "peak memory MiB",
        "same best category",
    )  # fmt: skip
    intro = f"# Scoring against a bare loop\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n"
    title = f"\n## Stored images, ResNet-18; {variants}\n\n"
    missing = (
        "" if DAFT.name in found else "\nDaft could not be imported and is not in the table.\n"
    )
    lines = [_line(lane, found) for lane in LANES if lane.name in found]
    return f"{intro}{title}{table(header, lines)}\n{missing}"


def _line(lane: Lane, found: LaneRuns) -> list[str]:
    runs = found[lane.name]
    return [
        lane.name,
        lane.threads,
        f"{runs.images_per_second:.1f}",
        f"{ratio(found, lane, fastest(BARE) if lane.model == 'fastest' else BARE):.2f}",
        f"{runs.cpu_ms_per_image:.1f}",
        f"{runs.start_up_seconds:.1f}",
        str(len(runs.whole)),
        _median_and_range(runs.part),
        f"{runs.size.whole:,}",
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
        "images": [runs.size.part, runs.size.whole],
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
    catalogue = make_catalogues(counts_of(size), data)[size.part]
    chosen = {
        name: check_bundle(version.bundle_folder).variant
        for name, version in (("fastest", catalogue.fastest), ("as shipped", catalogue.shipped))
    }
    idle = require_idle(given.force)
    found = measure_lanes(size, data)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "variants": chosen,
        "lanes": {
            lane.name: _as_json(lane, found[lane.name]) for lane in LANES if lane.name in found
        },
    }
    page = page_of(found, ", ".join(f"{name} is {variant}" for name, variant in chosen.items()))
    write_result("scoring", result, page, goals_of(found), "make bench-scoring")


if __name__ == "__main__":
    main()

"""Does an image cost the same in a large catalogue, and what does a night with little new cost?

    python -m benchmarks.scoring.growth [--quick] [--force] [--data DIR]

Catalogues of growing size are scored whole, each of products with one image. From the first answer
on, for a start varies by seconds, the time that the next size takes more, by its images more, is
the steady time of an image: no step should take more of it than a smaller one did. Time of a core
stands beside it, start and all. The small catalogues are scored three times, for in so few seconds
chance counts, and the median is taken. Then each gets three nights of a few new products,
of which Delta says how long their two MERGEs took; their medians are shown. The largest has two
nights more without any: one as it comes, which is known from the logs, and one with another
setting, for which every product is decided again. The network is small (SqueezeNet at 96 pixels)
and a few pictures repeat under many ids: much of what is timed is not the network, and yet the step
from the smallest catalogue is longer than start-up varies.
"""

import io
import itertools
import multiprocessing
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from benchmarks.commands import Finished, run_command
from benchmarks.ingest.lanes import CATALOG_BATCH, ingest_command
from benchmarks.ingest.photos import SMALL, make_photos
from benchmarks.measure import Goal, arguments, require_idle, table, write_result
from benchmarks.scoring.random_bundle import write_random_bundle
from deltalake import DeltaTable
from PIL import Image

from catalog_batch.registry import Registry

FULL = (1_000, 20_000, 100_000, 200_000)
QUICK = (500, 2_000, 6_000)
NIGHT, NIGHTS = 500, 3
"""New products of a later night, and how many such nights each catalogue has."""

SIDE = 96
CLASSES = 8
PICTURES = 64
MODEL = "growth"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER = "score.min_margin=1e-9"
"""A setting that no decision here turns on, but that the logs of earlier runs do not have."""

MERGED = ("image_predictions", "product_predictions")

ROUNDS, REPEATED = 3, 20_000
"""How often catalogues up to that size are scored whole."""

FLAT, ASKED = 1.15, 100_000
"""How many times as much an image may take in a later step, and up to which size that is asked."""

NIGHT_GROWS = 1.5
"""Largest over smallest time of a night of the same few products, for it to be called its own."""

EMPTY_SECONDS = 60.0


@dataclass(frozen=True)
class Nights:
    """What was done with the catalogue of one size."""

    whole: tuple[Finished, ...]
    few: tuple[Finished, ...]
    merges: tuple[dict[str, float], ...]
    """Seconds that the MERGEs of each night of a few took, by table."""

    @property
    def seconds(self) -> float:
        """The median time of scoring all."""
        return statistics.median(run.seconds for run in self.whole)

    @property
    def steady_seconds(self) -> float:
        """The median time from the first answer to the end."""
        return statistics.median(
            run.seconds - run.seconds_to("start_up_seconds") for run in self.whole
        )

    @property
    def cpu_seconds(self) -> float:
        """The same in time of a core."""
        return statistics.median(run.cpu_seconds for run in self.whole)

    @property
    def few_seconds(self) -> float:
        """The median time of a night of a few."""
        return statistics.median(run.seconds for run in self.few)

    def merge_seconds(self, name: str) -> float:
        """Return the median time of the MERGE into one table in a night of a few."""
        return statistics.median(merges[name] for merges in self.merges)

    def peak_mib(self, role: str = "") -> float:
        """Return the most memory of one role, or of all processes."""
        return max(
            run.peak_mib_by_role.get(role, 0.0) if role else run.peak_mib for run in self.whole
        )


def make_catalogue(size: int, folder: Path, data: Path) -> Path:
    """Make a warehouse with products of one image each, and a model; one is ingested."""
    warehouse = folder / "warehouse"
    run_command(ingest_command(make_photos(SMALL, 1, data), warehouse))
    add_products(warehouse, 1, size, NOW)
    bundle = write_random_bundle(folder / "bundle", "squeezenet1_1", CLASSES, SIDE)
    Registry(warehouse / "_registry").register(MODEL, bundle, {})
    return warehouse


def add_products(warehouse: Path, first: int, end: int, at: datetime) -> None:
    """Append products with an image each, as ingest leaves them that ran at some time."""
    # In a process of its own: no JVM is left beside those that are timed.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        processes.submit(_append_products, str(warehouse), first, end, at).result()


def _append_products(root: str, first: int, end: int, at: datetime) -> None:
    from pyspark.sql import functions as F

    from catalog_batch import tables
    from catalog_batch.config import Settings
    from catalog_batch.warehouse import open_warehouse

    with open_warehouse(Settings(warehouse=root), "benchmark") as warehouse:
        spark = warehouse.spark
        pictures = spark.createDataFrame(
            [(seed, _picture(seed)) for seed in range(PICTURES)], "picture INT, content BINARY"
        )
        run_id = f"ingest-{first}"
        stamps = {"run_id": F.lit(run_id), "updated_at": F.lit(at), "ingested_at": F.lit(at)}
        number = F.col("id").cast("string")
        rows = spark.range(first, end).withColumns(
            {
                "product_id": F.concat(F.lit("product-"), number),
                "image_id": F.sha2(number, 256),
                "source_uri": F.concat(number, F.lit(".jpg")),
                "position": F.lit(0),
                "picture": (F.col("id") % PICTURES).cast("int"),
                **{
                    side: F.lit(SIDE + 8)
                    for side in ("width", "height", "source_width", "source_height")
                },
                "source_format": F.lit("JPEG"),
                "source_bytes": F.lit(1).cast("bigint"),
                "is_animated": F.lit(False),
                **stamps,
            }
        )
        whole = rows.join(F.broadcast(pictures), "picture")
        with warehouse.stamped(run_id=run_id, job="ingest"):
            for table in (tables.IMAGES, tables.PRODUCT_IMAGES, tables.PRODUCTS):
                empty = {
                    field.name: F.lit(None).cast(field.dataType)
                    for field in table.schema.fields
                    if field.name not in whole.columns
                }
                warehouse.append(whole.withColumns(empty).select(*table.columns), table)


def _picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize((SIDE + 8, SIDE + 8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def score(warehouse: Path, scored: int, *options: str, decided: int | None = None) -> Finished:
    """Run a night and require that it scored so many images, and decided so many products.

    Raises:
        SystemExit: When these were other numbers.
    """
    command = [CATALOG_BATCH, "score", "-w", str(warehouse), "--model", f"{MODEL}@champion"]
    finished = run_command([*command, "--log-format", "json", *options])
    found = finished.status.get("counts", {}).get("images_scored", 0)
    print(f"{warehouse.parent.name}: {found:,} images, {finished.seconds:.1f} s", flush=True)
    if found != scored:
        raise SystemExit(f"{scored:,} images should be scored: {finished.status}")
    if decided not in (None, finished.status.get("measures", {}).get("products_decided")):
        raise SystemExit(f"{decided:,} products should be decided: {finished.status}")
    return finished


def last_merges(warehouse: Path) -> dict[str, float]:
    """Return how long the newest commits took, which are MERGEs, by table.

    Raises:
        SystemExit: When one is of another kind.
    """
    found = dict[str, float]()
    for name in MERGED:
        [commit] = DeltaTable(str(warehouse / name)).history(1)
        if commit["operation"] != "MERGE":
            raise SystemExit(f"The newest commit of {name} is no MERGE: {commit}")
        found[name] = int(commit["operationMetrics"]["executionTimeMs"]) / 1000
    return found


def measure(sizes: tuple[int, ...], data: Path, work: Path) -> tuple[dict[int, Nights], Path]:
    """Score catalogues of all sizes; return what it took, and the largest warehouse."""
    found = dict[int, Nights]()
    for size in sizes:
        whole = list[Finished]()
        for number in range(ROUNDS if size <= REPEATED else 1):
            warehouse = make_catalogue(size, work / f"catalogue-{size}-{number}", data)
            whole.append(score(warehouse, size))
        few, merges = list[Finished](), list[dict[str, float]]()
        for night in range(NIGHTS):
            first = size + night * NIGHT
            add_products(warehouse, first, first + NIGHT, NOW + timedelta(days=1 + night))
            few.append(score(warehouse, NIGHT))
            merges.append(last_merges(warehouse))
        found[size] = Nights(tuple(whole), tuple(few), tuple(merges))
    return found, warehouse


def steady_ms(seconds: Mapping[int, float]) -> list[float]:
    """Return the milliseconds an image takes, from each size to the next."""
    return [
        1000 * (seconds[larger] - seconds[smaller]) / (larger - smaller)
        for smaller, larger in itertools.pairwise(sorted(seconds))
    ]


def paces_of(found: Mapping[int, Nights]) -> tuple[list[float], list[float]]:
    """Return the milliseconds that an image takes by the clock, and those of a core."""
    by_clock = {size: nights.steady_seconds for size, nights in found.items()}
    return steady_ms(by_clock), steady_ms({n: nights.cpu_seconds for n, nights in found.items()})


def growth(paces: Sequence[float]) -> float:
    """Return how many times what it took before an image takes in a later step, at the most."""
    return max(later / earlier for earlier, later in itertools.combinations(paces, 2))


def goals_of(found: dict[int, Nights], known: Finished, looked_at: Finished) -> list[Goal]:
    paces, _ = paces_of(found)
    to_asked = paces[: sum(size <= ASKED for size in found) - 1]
    few = [nights.few_seconds for nights in found.values()]
    merges = [sum(map(nights.merge_seconds, MERGED)) for nights in found.values()]
    driver = [nights.peak_mib("driver") for nights in found.values()]
    return [
        Goal("scoring_growth_flat_per_image", growth(to_asked), FLAT, at_most=True),
        Goal("scoring_growth_flat_per_image_all_sizes", growth(paces), FLAT, at_most=True),
        Goal("scoring_growth_driver_memory", driver[-1] / driver[0], FLAT, at_most=True),
        Goal("scoring_growth_of_a_night", max(few) / min(few), NIGHT_GROWS, at_most=True),
        Goal("scoring_growth_of_merges", max(merges) / min(merges), NIGHT_GROWS, at_most=True),
        Goal("scoring_empty_night_seconds", known.seconds, EMPTY_SECONDS, at_most=True),
        Goal("scoring_decided_again_seconds", looked_at.seconds, EMPTY_SECONDS, at_most=True),
    ]


def page_of(found: dict[int, Nights], known: Finished, looked_at: Finished) -> str:
    """Return the page, as Markdown."""
    paces = [["-", *(f"{pace:.2f}" for pace in paces)] for paces in paces_of(found)]
    rows = [
        [
            f"{size:,}",
            f"{found[size].seconds:.1f}",
            f"{found[size].steady_seconds:.1f}",
            by_clock,
            of_core,
            f"{found[size].few_seconds:.1f}",
            *(f"{found[size].merge_seconds(name):.2f}" for name in MERGED),
            f"{found[size].peak_mib('driver'):,.0f}",
            f"{found[size].peak_mib():,.0f}",
        ]
        for size, by_clock, of_core in zip(sorted(found), *paces, strict=True)
    ]
    header = (
        "products", "whole s", "from the first answer s", "ms an image more",
        "CPU ms an image more", f"{NIGHT} more s", "MERGE of images s", "MERGE of products s",
        "driver MiB", "all MiB",
    )  # fmt: skip
    intro = f"# Scoring growing catalogues\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n\n"
    empty = (
        f"A night without anything new over {_in_the_end(found):,} products takes "
        f"{known.seconds:.1f} s where the logs know it, and {looked_at.seconds:.1f} s where "
        "every product is decided again; no image is decoded in either.\n\n"
    )
    return f"{intro}{table(header, rows)}\n{empty}"


def _in_the_end(sizes: Iterable[int]) -> int:
    """Return how many products the largest catalogue has after its nights."""
    return max(sizes) + NIGHTS * NIGHT


def main() -> None:
    given = arguments("Score growing catalogues, and nights with little or nothing new.")
    sizes = QUICK if given.quick else FULL
    idle = require_idle(given.force)
    work = given.data.resolve() / "scoring-growth"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        found, largest = measure(sizes, given.data.resolve(), work)
        known = score(largest, 0)
        looked_at = score(largest, 0, "--set", OTHER, decided=_in_the_end(sizes))
    finally:
        shutil.rmtree(work)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "sizes": {size: asdict(nights) for size, nights in found.items()},
        "known": asdict(known),
        "looked_at": asdict(looked_at),
    }
    page, goals = page_of(found, known, looked_at), goals_of(found, known, looked_at)
    write_result("scoring-growth", result, page, goals, "make bench-scoring")


if __name__ == "__main__":
    main()

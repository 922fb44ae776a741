"""Build the training set: one Delta version of shuffled, split, labelled images."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import TrainingSetSettings
from catalog_batch.errors import TrainingDataError
from catalog_batch.moved_rows import with_current_label
from catalog_batch.moves import read_moves
from catalog_batch.runs import Run, Status
from catalog_batch.spark import configured
from catalog_batch.spark_progress import task_progress
from catalog_batch.training_set import transforms
from catalog_batch.warehouse import Warehouse, cached

JOB = "build-training-set"


@dataclass(frozen=True)
class TrainingSetSummary:
    """What a table version holds: rows by split and the number of classes."""

    version: int
    rows: dict[str, int]
    classes: int


def build_training_set(
    warehouse: Warehouse, settings: TrainingSetSettings, run: Run
) -> TrainingSetSummary:
    """Write ``training_examples`` anew, unless the newest version holds just that.

    Args:
        warehouse: With the tables that ingest wrote.
        settings: Shares, seed and sizes.
        run: Filled in with rows and versions.

    Raises:
        MissingTableError: When nothing was ingested yet.
        TrainingDataError: When fewer than two categories have a training image.
    """
    sources = warehouse.versions(
        tables.LABELS, tables.PRODUCTS, tables.PRODUCT_IMAGES, tables.IMAGES
    )
    warehouse.create(tables.TRAINING_EXAMPLES)
    examples = (
        transforms.select_examples(
            with_current_label(
                warehouse.read(tables.LABELS, sources["labels"]), read_moves(warehouse.root)
            ),
            warehouse.read(tables.PRODUCTS, sources["products"]),
            warehouse.read(tables.PRODUCT_IMAGES, sources["product_images"]),
            warehouse.read(tables.CATEGORIES),
        )
        .transform(transforms.keep_first_product_of_image)
        .transform(
            transforms.with_split, settings.test_share, settings.validation_share, settings.seed
        )
        .transform(transforms.with_order, settings.seed)
    )
    duplicates = warehouse.read_or_empty(tables.IMAGE_DUPLICATES)
    honest = examples.transform(transforms.without_near_duplicates, duplicates)
    with cached(honest) as narrow:
        rows, classes = _count(narrow)
        left_out = examples.count() - sum(rows.values())
        _check(rows, classes)
        digest = _digest(narrow, settings)
        if warehouse.last_user_metadata(tables.TRAINING_EXAMPLES).get("digest") == digest:
            run.finish(Status.NOTHING_TO_DO)
        else:
            images = warehouse.read(tables.IMAGES, sources["images"])
            _write(warehouse, narrow, images, sum(rows.values()), settings, run, digest)
            run.finish(Status.PUBLISHED)
    version = warehouse.version(tables.TRAINING_EXAMPLES)
    run.rows_in = run.rows_out = sum(rows.values())
    run.counts = {**rows, "classes": classes, "near_duplicates_left_out": left_out}
    run.table_versions = {**sources, tables.TRAINING_EXAMPLES.name: version}
    return TrainingSetSummary(version, rows, classes)


def _count(examples: DataFrame) -> tuple[dict[str, int], int]:
    counted = examples.groupBy("split").count().collect()
    rows = {row["split"]: row["count"] for row in counted}
    in_training = examples.where(F.col("split") == transforms.TRAIN)
    return dict(sorted(rows.items())), in_training.select("category_id").distinct().count()


def _check(rows: dict[str, int], classes: int) -> None:
    if classes < 2:
        raise TrainingDataError(
            f"{classes} categories have an image in the train split ({rows or 'no rows'}). "
            "A classifier needs two: ingest a manifest with a category column."
        )


def _digest(examples: DataFrame, settings: TrainingSetSettings) -> str:
    """Return what the rows and the settings amount to, in a text that changes with either."""
    columns = ["image_id", "product_id", "category_id", "category_path", "title", "description"]
    row_hash = F.xxhash64(*columns, "split", "taxonomy_version").cast("decimal(38,0)")
    total, count = examples.agg(F.sum(row_hash), F.count("*")).collect()[0]
    return f"{count}:{total}:{settings.seed}:{settings.row_group_kib}:{settings.rows_per_file}"


def _write(
    warehouse: Warehouse,
    narrow: DataFrame,
    images: DataFrame,
    rows: int,
    settings: TrainingSetSettings,
    run: Run,
    digest: str,
) -> None:
    files = max(1, -(-rows // settings.rows_per_file))
    # The one place where image bytes are shuffled on purpose: training reads files in order, and
    # a table in random order needs only a small buffer to be random enough.
    shuffled = (
        narrow.join(images.select("image_id", "content"), "image_id", "inner")
        .repartitionByRange(files, "_order")
        .sortWithinPartitions("split", "_order")
    )
    with (
        task_progress(warehouse.spark, "writing training examples"),
        configured(warehouse.spark, _row_groups_of(settings.row_group_kib)),
        warehouse.stamped(run_id=run.run_id, job=JOB, digest=digest),
    ):
        warehouse.overwrite(shuffled, tables.TRAINING_EXAMPLES)


def _row_groups_of(kib: int) -> dict[str, int]:
    """Return settings by which the Parquet writer closes a row group at about this size.

    It looks at the size only every so many rows, 100 at the least unless told.
    """
    return {
        "parquet.block.size": kib * 1024,
        "parquet.page.size.row.check.min": 8,
        "parquet.page.size.row.check.max": 64,
    }

"""Ingest: a manifest and a folder of images become tables; every row has one outcome."""

import time
from collections import Counter
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import IngestSettings
from catalog_batch.errors import ManifestError, ReconciliationError
from catalog_batch.imaging import DecodePolicy
from catalog_batch.ingest import transforms
from catalog_batch.ingest.decoding import REJECTED, STORED, UNCHANGED, SourcePolicy, with_outcomes
from catalog_batch.ingest.manifests import absent_columns, check_splits, read_manifest
from catalog_batch.ingest.sources import ImageRoot
from catalog_batch.runs import Run, Status
from catalog_batch.warehouse import Warehouse, cached

JOB = "ingest"


@dataclass(frozen=True)
class Outcomes:
    """Rows of the manifest by outcome."""

    stored: int
    duplicate: int
    unchanged: int
    rejected: dict[str, int]
    repeated: int

    @property
    def counts(self) -> dict[str, int]:
        """Rows by outcome, the reasons of rejection added up."""
        return {
            "stored": self.stored,
            "duplicate": self.duplicate,
            "unchanged": self.unchanged,
            "repeated": self.repeated,
            "rejected": sum(self.rejected.values()),
        }

    @property
    def total(self) -> int:
        """All rows that have an outcome."""
        return sum(self.counts.values())


def ingest_catalogue(
    warehouse: Warehouse,
    manifest_uri: str,
    images_root: str,
    settings: IngestSettings,
    run: Run,
) -> Outcomes:
    """Read a manifest's images and publish them.

    Args:
        warehouse: Where the tables are; they are created when missing.
        manifest_uri: CSV, JSON Lines or Parquet file.
        images_root: Folder or URI that every ``image_uri`` lies under.
        settings: What is accepted and how it is stored.
        run: Filled in with rows, outcomes and rate.

    Raises:
        ManifestError: When the manifest is refused as a whole.
        BadInputError: When the image root is no folder.
        ReconciliationError: When rows went missing; nothing is published then.
    """
    warehouse.create(*tables.ALL_TABLES)
    warehouse.clear_staging(JOB)
    ImageRoot(images_root).require_folder()
    manifest = read_manifest(warehouse.spark, manifest_uri)
    absent = absent_columns(warehouse.spark, manifest_uri)
    with cached(manifest), cached(_distinct_rows(manifest)) as rows:
        check_splits(manifest)
        rows_in, rows_distinct = manifest.count(), rows.count()
        if rows_in == 0:
            raise ManifestError(f"Manifest {manifest_uri!r} has a header and no rows.")
        tasks = max(1, -(-rows_distinct // settings.rows_per_task))
        checked = _checked(warehouse, rows, tasks, _policy(images_root, settings))
        started = time.monotonic()
        with warehouse.staged(checked, run.run_id) as staged:
            seconds = time.monotonic() - started
            outcomes, changed = _publish_images(warehouse, staged, rows, rows_in, run)
        with warehouse.stamped(run_id=run.run_id, job=JOB):
            changed += _publish_products(warehouse, rows, absent, run)
    run.rows_in, run.rows_out = rows_in, outcomes.stored + outcomes.duplicate
    run.rejected = outcomes.rejected
    run.counts = outcomes.counts
    run.images_per_second = round(rows_distinct / seconds, 2) if rows_distinct else None
    run.finish(Status.PUBLISHED if changed else Status.NOTHING_TO_DO)
    return outcomes


def _distinct_rows(manifest: DataFrame) -> DataFrame:
    return manifest.transform(transforms.prepare_manifest).transform(transforms.drop_repeated_rows)


def _checked(warehouse: Warehouse, rows: DataFrame, tasks: int, policy: SourcePolicy) -> DataFrame:
    known = rows.transform(
        transforms.with_known_state,
        warehouse.read(tables.PRODUCT_IMAGES),
        warehouse.read(tables.REJECTED_IMAGES),
    )
    # Only narrow rows are dealt out; the bytes are read where they are decoded.
    return known.repartition(tasks, *transforms.KEY).transform(with_outcomes, policy)


def _policy(images_root: str, settings: IngestSettings) -> SourcePolicy:
    decode = DecodePolicy(
        stored_side=settings.stored_side,
        jpeg_quality=settings.jpeg_quality,
        max_pixels=settings.max_pixels,
        max_side=settings.max_side,
        min_side=settings.min_side,
    )
    return SourcePolicy(images_root, settings.max_source_bytes, decode)


def _count_outcomes(staged: DataFrame, new_images: DataFrame, repeated: int) -> Outcomes:
    counted = staged.groupBy("outcome", "reason").count().collect()
    by_outcome: Counter[str] = Counter()
    for row in counted:
        by_outcome[row["outcome"]] += row["count"]
    stored = new_images.count()
    return Outcomes(
        stored=stored,
        duplicate=by_outcome[STORED] - stored,
        unchanged=by_outcome[UNCHANGED],
        rejected={row["reason"]: row["count"] for row in counted if row["outcome"] == REJECTED},
        repeated=repeated,
    )


def _reconcile(outcomes: Outcomes, rows_in: int) -> None:
    if outcomes.total != rows_in:
        raise ReconciliationError(
            f"The manifest has {rows_in} rows, but {outcomes.total} have an outcome: {outcomes}. "
            "Nothing was published. Run again; if it repeats, report it as a bug."
        )


def _publish_images(
    warehouse: Warehouse, staged: DataFrame, rows: DataFrame, rows_in: int, run: Run
) -> tuple[Outcomes, int]:
    """Check that every row has an outcome, then commit; return outcomes and rows changed."""
    new = transforms.select_new_images(staged, warehouse.read(tables.IMAGES))
    with cached(new) as new_images, warehouse.stamped(run_id=run.run_id, job=JOB):
        outcomes = _count_outcomes(staged, new_images, rows_in - rows.count())
        _reconcile(outcomes, rows_in)
        return outcomes, _merge_images(warehouse, staged, rows, new_images, run)


def _merge_images(
    warehouse: Warehouse, staged: DataFrame, rows: DataFrame, new_images: DataFrame, run: Run
) -> int:
    """Commit table by table, images first: a run killed in between is completed by the next one."""
    stamp = (run.started_at, run.run_id)
    image_rows = staged.join(
        F.broadcast(new_images), ["image_id", *transforms.KEY], "left_semi"
    ).transform(transforms.with_stamp, "ingested_at", *stamp)
    links = staged.transform(transforms.select_product_images, rows, *stamp)
    rejections = staged.transform(transforms.select_rejections, *stamp)
    changed = warehouse.insert_new(image_rows, tables.IMAGES)
    changed += warehouse.upsert(links, tables.PRODUCT_IMAGES)
    changed += warehouse.delete(links, tables.REJECTED_IMAGES)
    changed += warehouse.upsert(rejections, tables.REJECTED_IMAGES)
    return changed + warehouse.delete(rejections, tables.PRODUCT_IMAGES)


def _publish_products(warehouse: Warehouse, rows: DataFrame, absent: list[str], run: Run) -> int:
    stamp = (run.started_at, run.run_id)
    named = rows.transform(transforms.select_products, *stamp).transform(
        transforms.with_stored_columns, warehouse.read(tables.PRODUCTS), absent
    )
    with cached(named) as products:
        labels = products.transform(transforms.select_seller_labels, *stamp)
        unlabelled = products.where(F.col("category_id").isNull())
        changed = _publish_categories(warehouse, products)
        changed += warehouse.upsert(products, tables.PRODUCTS)
        changed += warehouse.upsert(labels, tables.LABELS)
        return changed + warehouse.delete(
            unlabelled.withColumn("source", F.lit("seller")), tables.LABELS
        )


def _publish_categories(warehouse: Warehouse, products: DataFrame) -> int:
    """Write the whole tree as a new version when the manifest names a category it lacks."""
    stored = warehouse.read(tables.CATEGORIES).select("taxonomy_version", "path").distinct()
    rows = stored.collect()
    newest = max((row["taxonomy_version"] for row in rows), default=0)
    known = {row["path"] for row in rows if row["taxonomy_version"] == newest}
    named = products.select("category_path").where("category_path IS NOT NULL").distinct().collect()
    paths = {row["category_path"] for row in named}
    if paths <= known:
        return 0
    tree = transforms.category_rows(sorted(known | paths), newest + 1)
    frame = warehouse.spark.createDataFrame(tree, tables.CATEGORIES.schema)
    return warehouse.insert_new(frame, tables.CATEGORIES)

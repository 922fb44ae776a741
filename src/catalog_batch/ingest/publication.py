"""The commits of an ingest, table by table.

A run that is killed between two of them is completed by the next one: each commit is idempotent.
"""

import logging
from collections.abc import Mapping, Set

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from catalog_batch import tables
from catalog_batch.ingest import transforms
from catalog_batch.ingest.duplicates import select_duplicate_groups
from catalog_batch.ingest.joins import broadcast_if_few
from catalog_batch.ingest.nights import Night
from catalog_batch.ingest.outcomes import Delisting
from catalog_batch.ingest.policy import INGESTED, REJECTED
from catalog_batch.ingest.staged_images import STAGED_SCHEMA
from catalog_batch.moves import read_moves
from catalog_batch.runs import Run
from catalog_batch.warehouse import Warehouse

logger = logging.getLogger(__name__)

_LISTED = (
    (tables.PRODUCTS, ["product_id"]),
    (tables.PRODUCT_IMAGES, transforms.KEY),
)


def append_new_images(
    warehouse: Warehouse, outcomes: DataFrame, new_images: DataFrame, run: Run
) -> int:
    """Append what is staged and new; Spark packs the small staged files into large ones."""
    count = new_images.count()
    if not count:
        return 0
    named = outcomes.select("staged_file").where("staged_file IS NOT NULL").distinct()
    files = [row["staged_file"] for row in named.collect()]
    staged_type = from_arrow_schema(STAGED_SCHEMA)
    staged = warehouse.spark.read.schema(staged_type).parquet(*files)
    redundant = outcomes.transform(transforms.select_redundant, new_images)
    # The fewer rows travel to the images, not the images to a shuffle.
    surplus = redundant.count()
    if surplus <= count:
        kept = staged.join(broadcast_if_few(redundant, surplus), transforms.KEY, "left_anti")
    else:
        few = broadcast_if_few(new_images, count)
        kept = staged.join(few, ["image_id", *transforms.KEY], "left_semi")
    warehouse.append(
        kept.transform(transforms.with_stamp, "ingested_at", run.started_at, run.run_id),
        tables.IMAGES,
    )
    return count


def publish_links(
    warehouse: Warehouse, outcomes: DataFrame, rows: DataFrame, night: Night, run: Run
) -> int:
    """Commit which image each product shows, and the rejections; return rows changed."""
    stamp = (run.started_at, run.run_id)
    links = outcomes.transform(transforms.select_product_images, rows, *stamp)
    if night.is_late:
        links = links.transform(
            transforms.with_listing_kept,
            warehouse.read(tables.PRODUCT_IMAGES),
            _listing_of_newcomers(night, run),
        )
    rejections = outcomes.transform(transforms.select_rejections, rows, *stamp)
    changed = warehouse.upsert(links, tables.PRODUCT_IMAGES)
    # What a late night finds unchanged says nothing of what was rejected since.
    taken = links.where(F.col("outcome") == INGESTED) if night.is_late else links
    changed += warehouse.delete(taken, tables.REJECTED_IMAGES)
    changed += warehouse.upsert(rejections, tables.REJECTED_IMAGES)
    # Remembered ones too: the run that found them may have been killed before it came to this.
    lasting = outcomes.where(F.col("outcome") == REJECTED).transform(transforms.keep_lasting)
    return changed + warehouse.delete(lasting, tables.PRODUCT_IMAGES)


def publish_duplicates(warehouse: Warehouse, distance: int, run: Run) -> int:
    """Group the images that are in no group yet with those they look like."""
    known = warehouse.read(tables.IMAGE_DUPLICATES)
    new = (
        warehouse.read(tables.IMAGES)
        .select("image_id", "perceptual_hash")
        .join(known.select("image_id"), "image_id", "left_anti")
    )
    new_images = warehouse.stage(new, f"{run.run_id}/ungrouped")
    if new_images.isEmpty():
        return 0
    groups = select_duplicate_groups(
        new_images, known.select("image_id", "perceptual_hash", "duplicate_group"), distance
    ).transform(transforms.with_stamp, "grouped_at", run.started_at, run.run_id)
    return warehouse.upsert(groups, tables.IMAGE_DUPLICATES)


def stage_products(
    warehouse: Warehouse, rows: DataFrame, absent: list[str], night: Night, run: Run
) -> DataFrame:
    """Return the products of a manifest as they shall be stored; of a late night the new ones."""
    named = rows.transform(transforms.select_products, run.started_at, run.run_id).transform(
        transforms.with_stored_columns, warehouse.read(tables.PRODUCTS), absent
    )
    if night.is_late:
        known = warehouse.read(tables.PRODUCTS).select("product_id")
        named = named.join(known, "product_id", "left_anti").withColumn(
            "delisted_at", _listing_of_newcomers(night, run)
        )
    return warehouse.stage(named, f"{run.run_id}/products")


def publish_labels(warehouse: Warehouse, products: DataFrame, run: Run) -> int:
    """Commit the categories of staged products, and the seller's labels.

    A category that moved is not made again for sellers who still use its old name, nor for a new
    one below it: that grows where the old one is now.
    """
    moves = read_moves(warehouse.root)
    named = products.select("category_path").where("category_path IS NOT NULL").distinct().collect()
    places = {row["category_path"]: moves.place(row["category_path"]) for row in named}
    new = {path: place for path, place in places.items() if path not in moves.new_paths}
    if nowhere := sorted(path for path, place in new.items() if place is None):
        logger.warning(
            "%d new categories are below one that was split or withdrawn, and in no tree, such as "
            "%r: no model learns them. Ask the sellers for another category.",
            len(nowhere),
            nowhere[0],
        )
    elsewhere = {path: place for path, place in new.items() if place and place != path}
    labels = products.transform(transforms.with_place, elsewhere).transform(
        transforms.select_seller_labels, run.started_at, run.run_id
    )
    unlabelled = products.where(F.col("category_id").isNull())
    changed = _publish_categories(warehouse, {place for place in places.values() if place})
    changed += warehouse.upsert(labels, tables.LABELS)
    return changed + warehouse.delete(
        unlabelled.withColumn("source", F.lit("seller")), tables.LABELS
    )


def _publish_categories(warehouse: Warehouse, paths: Set[str]) -> int:
    """Write the whole tree as a new version when it lacks one of the paths."""
    stored = warehouse.read(tables.CATEGORIES).select("taxonomy_version", "path").distinct()
    rows = stored.collect()
    newest = max((row["taxonomy_version"] for row in rows), default=0)
    known = {row["path"] for row in rows if row["taxonomy_version"] == newest}
    if paths <= known:
        return 0
    tree = transforms.category_rows(sorted(known | paths), newest + 1)
    frame = warehouse.spark.createDataFrame(tree, tables.CATEGORIES.schema)
    return warehouse.insert_new(frame, tables.CATEGORIES)


def measure_delisting(warehouse: Warehouse, rows: DataFrame, night: Night) -> Delisting:
    """Count the listed products and images, and those that this manifest would delist."""
    vanished, listed = [], []
    for table, key in _LISTED:
        stored = warehouse.read_or_empty(table)
        listed.append(stored.where("delisted_at IS NULL").count() if night.delists else 0)
        gone = stored.transform(transforms.select_vanished, rows, key)
        vanished.append(gone.count() if night.delists else 0)
    return Delisting(*vanished, *listed)


def delist_vanished(warehouse: Warehouse, rows: DataFrame, night: Night, run: Run) -> int:
    """Mark what a full manifest does not name, and forget its rejections; no image is deleted."""
    if not night.is_full or night.is_late:
        return 0
    outdated = transforms.select_outdated_rejections(
        warehouse.read(tables.REJECTED_IMAGES), rows, night
    )
    changed = warehouse.delete(outdated, tables.REJECTED_IMAGES)
    if not night.delists:
        return changed
    for table, key in _LISTED:
        vanished = warehouse.read(table).transform(transforms.select_vanished, rows, key)
        marked = vanished.transform(transforms.with_delisting, run.started_at, run.run_id)
        changed += warehouse.upsert(marked, table)
    return changed


def _listing_of_newcomers(night: Night, run: Run) -> Column:
    when = run.started_at if night.is_behind_full else None
    return F.lit(when).cast("timestamp")


def record_manifest(
    warehouse: Warehouse, columns: Mapping[str, str], rows_in: int, night: Night, run: Run
) -> None:
    """Remember the manifest: later ones are held against it. This alone is no news to publish."""
    row = (
        night.night,
        night.uri,
        night.delists or night.was_full,
        rows_in,
        dict(columns),
        run.started_at,
        run.run_id,
    )
    frame = warehouse.spark.createDataFrame([row], tables.MANIFESTS.schema)
    warehouse.upsert(frame, tables.MANIFESTS)

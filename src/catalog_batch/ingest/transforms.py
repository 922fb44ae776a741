"""Steps of ingest as functions from frame to frame; all narrow rows, no image bytes."""

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from catalog_batch import taxonomy
from catalog_batch.ingest.decoding import REJECTED, STORED, UNCHANGED
from catalog_batch.ingest.manifests import with_given_split

KEY = ["product_id", "source_uri"]
DEFECT_NO_PRODUCT = "the row has no product_id"
DEFECT_NO_IMAGE = "the row has no image_uri"


def with_key(manifest: DataFrame) -> DataFrame:
    """Add ``source_uri`` and ``defect``, for rows without a product or an image.

    A defective row is kept and gets a location made from its content, so that it too has a key.
    """
    has_product = F.coalesce(F.length(F.trim("product_id")), F.lit(0)) > 0
    has_image = F.coalesce(F.length(F.trim("image_uri")), F.lit(0)) > 0
    fingerprint = F.concat(F.lit("row:"), F.substring(F.sha2(_as_json(manifest), 256), 1, 16))
    defect = F.when(~has_product, DEFECT_NO_PRODUCT).when(~has_image, DEFECT_NO_IMAGE)
    return manifest.select(
        F.when(has_product, F.col("product_id")).otherwise("").alias("product_id"),
        F.when(has_image, F.col("image_uri")).otherwise(fingerprint).alias("source_uri"),
        defect.alias("defect"),
        *[name for name in manifest.columns if name not in ("product_id", "image_uri")],
    )


def with_position(manifest: DataFrame) -> DataFrame:
    """Make ``position`` an integer; 0 where it is missing, negative or no number."""
    # By way of a double: pandas writes the whole numbers of a column with gaps as 1.0.
    number = F.expr("try_cast(try_cast(position AS DOUBLE) AS INT)")
    return manifest.withColumn("position", F.greatest(F.coalesce(number, F.lit(0)), F.lit(0)))


def with_category(manifest: DataFrame) -> DataFrame:
    """Replace ``category`` by ``category_path``, normalised, and ``category_id``."""
    trimmed = F.transform(F.split("category", taxonomy.SEPARATOR), lambda part: _stripped(part))
    parts = F.filter(trimmed, lambda part: F.length(part) > 0)
    path = F.when(F.size(parts) > 0, F.array_join(parts, taxonomy.SEPARATOR))
    return (
        manifest.withColumn("category_path", path)
        .withColumn("category_id", category_id(F.col("category_path")))
        .drop("category")
    )


def _as_json(manifest: DataFrame) -> Column:
    """Return a text that tells rows apart by all their columns."""
    columns = [F.col(name) for name in manifest.columns if name != "attributes"]
    if "attributes" in manifest.columns:
        # The entries of a map come in no order to rely on.
        columns.append(F.sort_array(F.map_entries("attributes")).alias("attributes"))
    return F.to_json(F.struct(*columns))


def _stripped(text: Column) -> Column:
    """Return a text without white space at its ends: not spaces alone, as ``F.trim`` takes off."""
    return F.regexp_replace(text, r"(?U)^\s+|\s+$", "")


def category_id(path: Column) -> Column:
    """Return ``taxonomy.category_id`` of a path column."""
    return F.substring(F.sha2(path, 256), 1, 16)


def drop_repeated_rows(manifest: DataFrame) -> DataFrame:
    """Keep one row for each key: the lowest position, then the first in order of its content."""
    order = Window.partitionBy(*KEY).orderBy("position", _as_json(manifest))
    return manifest.withColumn("_rank", F.row_number().over(order)).where("_rank = 1").drop("_rank")


def prepare_manifest(manifest: DataFrame) -> DataFrame:
    """Bring a manifest as read into the columns that the tables have."""
    return (
        manifest.transform(with_key)
        .transform(with_position)
        .transform(with_category)
        .transform(with_given_split)
    )


def with_known_state(
    rows: DataFrame, product_images: DataFrame, rejected_images: DataFrame
) -> DataFrame:
    """Add what earlier runs found for the same key: image or reason, size, modification time."""
    ingested = product_images.select(
        *KEY,
        F.col("image_id").alias("known_image_id"),
        F.lit(None).cast("string").alias("known_reason"),
        F.lit(0).alias("known_attempts"),
        F.col("source_bytes").alias("known_bytes"),
        F.col("source_modified_at").alias("known_modified_at"),
    )
    rejected = rejected_images.select(
        *KEY,
        F.lit(None).cast("string").alias("known_image_id"),
        F.col("reason").alias("known_reason"),
        F.col("attempts").alias("known_attempts"),
        F.col("source_bytes").alias("known_bytes"),
        F.col("source_modified_at").alias("known_modified_at"),
    )
    # A run killed between its commits leaves a key in both tables: one row is enough to go by.
    only_rejected = rejected.join(ingested.select(*KEY), KEY, "left_anti")
    return rows.join(ingested.unionByName(only_rejected), KEY, "left")


def select_new_images(staged: DataFrame, images: DataFrame) -> DataFrame:
    """Return one ``(image_id, product_id, source_uri)`` for each stored image not in ``images``."""
    first = F.min(F.struct(*KEY)).alias("first")
    return (
        staged.where(F.col("outcome") == STORED)
        .groupBy("image_id")
        .agg(first)
        .join(images.select("image_id"), "image_id", "left_anti")
        .select("image_id", "first.product_id", "first.source_uri")
    )


def select_product_images(
    staged: DataFrame, rows: DataFrame, now: datetime, run_id: str
) -> DataFrame:
    """Return the rows of ``product_images`` for stored and unchanged images."""
    return (
        staged.where(F.col("outcome").isin(STORED, UNCHANGED))
        .drop("content")
        .join(rows.select(*KEY, "position"), KEY, "inner")
        .transform(with_stamp, "updated_at", now, run_id)
    )


def select_rejections(staged: DataFrame, now: datetime, run_id: str) -> DataFrame:
    """Return the rows of ``rejected_images``, for images that were tried now."""
    return (
        staged.where((F.col("outcome") == REJECTED) & F.col("attempts").isNotNull())
        .drop("content")
        .withColumn("first_seen_at", F.lit(now))
        .transform(with_stamp, "last_seen_at", now, run_id)
    )


def select_products(rows: DataFrame, now: datetime, run_id: str) -> DataFrame:
    """Return one row a product, from its manifest row of lowest position."""
    order = Window.partitionBy("product_id").orderBy("position", "source_uri")
    return (
        rows.where(F.col("product_id") != "")
        .withColumn("_rank", F.row_number().over(order))
        .where("_rank = 1")
        .transform(with_stamp, "updated_at", now, run_id)
    )


def with_stored_columns(products: DataFrame, stored: DataFrame, absent: list[str]) -> DataFrame:
    """Take what a manifest has no column for from the stored products: silence deletes nothing."""
    names = {"category": ["category_id", "category_path"], "split": ["given_split"]}
    product_columns = ("title", "description", "attributes")
    kept = [
        column
        for name in absent
        for column in names.get(name, [name] if name in product_columns else [])
    ]
    if not kept:
        return products
    return products.drop(*kept).join(stored.select("product_id", *kept), "product_id", "left")


def select_seller_labels(products: DataFrame, now: datetime, run_id: str) -> DataFrame:
    """Return a seller's label for each product that has a category."""
    return (
        products.where(F.col("category_id").isNotNull())
        .withColumn("source", F.lit("seller"))
        .transform(with_stamp, "labelled_at", now, run_id)
    )


def with_stamp(frame: DataFrame, column: str, now: datetime, run_id: str) -> DataFrame:
    """Add when (``column``) and by which run a row was written."""
    return frame.withColumns({column: F.lit(now), "run_id": F.lit(run_id)})


def category_rows(paths: Sequence[str], version: int) -> list[tuple[object, ...]]:
    """Return the rows of ``categories`` for a whole tree."""
    return [
        (version, node.category_id, node.parent_id, node.name, node.path, node.level)
        for node in taxonomy.build_tree(paths)
    ]

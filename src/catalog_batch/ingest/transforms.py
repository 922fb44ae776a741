"""Steps of ingest as functions from frame to frame; all narrow rows, no image bytes."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from catalog_batch import taxonomy
from catalog_batch.imaging import Reason
from catalog_batch.ingest.manifests import with_given_split
from catalog_batch.ingest.nights import Night
from catalog_batch.ingest.policy import INGESTED, REJECTED, TO_DO, UNCHANGED
from catalog_batch.spark import lookup

KEY = ["product_id", "source_uri"]
PASSING_REASONS = (
    Reason.UNREADABLE,
    Reason.TIMED_OUT,
    Reason.OUT_OF_MEMORY,
    Reason.CRASHED,
    Reason.CHANGED_WHILE_READING,
)
ROW_PREFIX = "row:"
"""What the location of a row begins with that names no image."""
DEFECT_NO_PRODUCT = "the row has no product_id"
DEFECT_NO_IMAGE = "the row has no image_uri"


def with_key(manifest: DataFrame) -> DataFrame:
    """Add ``source_uri``, ``is_garbled`` and ``defect``, for rows that name no image.

    A defective row is kept and gets a location made from its content, so that it too has a key.
    ``is_garbled`` tells rows that could not be parsed: nothing they say is to be believed.
    """
    is_garbled = F.col("defect").isNotNull()
    has_product = F.coalesce(F.length(F.trim("product_id")), F.lit(0)) > 0
    has_image = F.coalesce(F.length(F.trim("image_uri")), F.lit(0)) > 0
    fingerprint = F.concat(F.lit(ROW_PREFIX), F.substring(F.sha2(_content(manifest), 256), 1, 16))
    defect = (
        F.when(is_garbled, F.col("defect"))
        .when(~has_product, DEFECT_NO_PRODUCT)
        .when(~has_image, DEFECT_NO_IMAGE)
    )
    replaced = ("product_id", "image_uri", "defect")
    return manifest.select(
        F.when(has_product, F.col("product_id")).otherwise("").alias("product_id"),
        F.when(has_image & ~is_garbled, F.col("image_uri"))
        .otherwise(fingerprint)
        .alias("source_uri"),
        defect.alias("defect"),
        is_garbled.alias("is_garbled"),
        *[name for name in manifest.columns if name not in replaced],
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


def _content(manifest: DataFrame) -> Column:
    """Return a text that tells bad rows apart: what they say, or else where they stand."""
    # A defect names a line, and the same bad row may stand elsewhere tomorrow.
    says_nothing = F.col("product_id").isNull() & F.col("image_uri").isNull()
    return F.concat_ws("|", _as_json(manifest), F.when(says_nothing, F.col("defect")))


def _as_json(manifest: DataFrame) -> Column:
    """Return a text that tells rows apart by all their columns but the defect."""
    names = [name for name in manifest.columns if name not in ("attributes", "defect")]
    columns = [F.col(name) for name in names]
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
    """Keep one row for each key: the lowest position, then the first in order of its content.

    ``copies`` tells how many rows the key had.
    """
    same = Window.partitionBy(*KEY)
    rank = F.row_number().over(same.orderBy("position", _as_json(manifest)))
    ranked = manifest.withColumns({"_rank": rank, "copies": F.count("*").over(same)})
    return ranked.where("_rank = 1").drop("_rank")


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
    """Add what earlier runs found for the same key: its image, and what was rejected since.

    A key may have both: an image, and a later version of its file that could not be taken.
    """
    shown = product_images.select(
        *KEY,
        F.col("image_id").alias("known_image_id"),
        F.col("source_bytes").alias("known_bytes"),
        F.col("source_modified_at").alias("known_modified_at"),
        F.col("updated_at").alias("_shown_at"),
    )
    rejected = rejected_images.select(
        *KEY,
        F.col("reason").alias("known_reason"),
        F.col("attempts").alias("known_attempts"),
        F.col("expected_sha256").alias("known_sha256"),
        F.col("source_bytes").alias("refused_bytes"),
        F.col("source_modified_at").alias("refused_modified_at"),
        F.col("last_seen_at").alias("_rejected_at"),
    )
    # A run killed between its commits leaves the rejection of a key that it has since ingested.
    is_over = F.coalesce(F.col("_shown_at") >= F.col("_rejected_at"), F.lit(False))
    known = shown.join(rejected, KEY, "full").withColumn(
        "known_reason", F.when(~is_over, F.col("known_reason"))
    )
    return rows.join(known.drop("_shown_at", "_rejected_at"), KEY, "left")


def keep_to_do(plan: DataFrame) -> DataFrame:
    """Keep the rows of a plan whose image is to be read."""
    return plan.where(F.col("outcome") == TO_DO)


def deal_out(rows: DataFrame, tasks: int, rows_per_task: int) -> DataFrame:
    """Deal rows out to tasks; those of a tar shard or a run of inline rows stay together, in order.

    Only narrow rows are dealt out: the bytes are read where they are decoded.
    """
    in_shard = F.when(F.col("member").isNotNull(), F.col("path"))
    piece = F.floor(F.col("content_row") / rows_per_task)
    inline = F.when(F.col("content_file").isNotNull(), F.concat_ws("|", "content_file", piece))
    container = F.coalesce(inline, in_shard, F.concat_ws("|", *KEY))
    return rows.repartition(tasks, container).sortWithinPartitions(
        "content_file", "content_row", "path", "member"
    )


def select_outcomes(plan: DataFrame, decoded: DataFrame) -> DataFrame:
    """Return one row for each row of a plan: what was decoded, and what need not be."""
    settled = plan.where(F.col("outcome") != TO_DO)
    columns = [name for name in plan.columns if name in decoded.columns]
    return decoded.unionByName(settled.select(*columns), allowMissingColumns=True)


def select_new_images(outcomes: DataFrame, images: DataFrame) -> DataFrame:
    """Return ``(image_id, product_id, source_uri)`` of each ingested image not in ``images``."""
    first = F.min(F.struct(*KEY)).alias("first")
    return (
        outcomes.where(F.col("outcome") == INGESTED)
        .groupBy("image_id")
        .agg(first)
        .join(images.select("image_id"), "image_id", "left_anti")
        .select("image_id", "first.product_id", "first.source_uri")
    )


def select_redundant(outcomes: DataFrame, new_images: DataFrame) -> DataFrame:
    """Return the keys of ingested rows whose image another row stores, or an earlier run did."""
    return (
        outcomes.where(F.col("outcome") == INGESTED)
        .select(*KEY)
        .join(new_images.select(*KEY), KEY, "left_anti")
    )


def select_product_images(
    outcomes: DataFrame, rows: DataFrame, now: datetime, run_id: str
) -> DataFrame:
    """Return the rows of ``product_images`` for ingested and unchanged images."""
    return (
        outcomes.where(F.col("outcome").isin(INGESTED, UNCHANGED))
        .join(rows.select(*KEY, "position"), KEY, "inner")
        .withColumn("delisted_at", F.lit(None).cast("timestamp"))
        .transform(with_stamp, "updated_at", now, run_id)
    )


def with_listing_kept(links: DataFrame, stored: DataFrame, newcomers: Column) -> DataFrame:
    """Take position and listing of known links from the tables: a late manifest changes neither.

    Args:
        links: Rows of ``product_images``.
        stored: The table as it is.
        newcomers: ``delisted_at`` of links that the table does not have.
    """
    known = stored.select(
        *KEY,
        F.col("position").alias("known_position"),
        F.col("delisted_at").alias("known_delisted_at"),
        F.lit(True).alias("is_known"),
    )
    is_new = F.col("is_known").isNull()
    return links.join(known, KEY, "left").withColumns(
        {
            "position": F.coalesce("known_position", "position"),
            "delisted_at": F.when(is_new, newcomers).otherwise(F.col("known_delisted_at")),
        }
    )


def select_outdated_rejections(rejected: DataFrame, named: DataFrame, night: Night) -> DataFrame:
    """Return the keys of rejections that a full manifest no longer names.

    Where rows cannot be parsed nobody knows which images they name, but a bad row that is not there
    any more was mended or removed.
    """
    gone = rejected.select(*KEY).join(named.select(*KEY), KEY, "left_anti")
    return gone if night.delists else gone.where(F.col("source_uri").startswith(ROW_PREFIX))


def select_vanished(stored: DataFrame, named: DataFrame, key: list[str]) -> DataFrame:
    """Return the listed rows of a table that a full manifest does not name."""
    return stored.where("delisted_at IS NULL").join(named.select(*key).distinct(), key, "left_anti")


def with_delisting(vanished: DataFrame, now: datetime, run_id: str) -> DataFrame:
    """Mark rows as delisted now."""
    return vanished.withColumn("delisted_at", F.lit(now)).transform(
        with_stamp, "updated_at", now, run_id
    )


def select_rejections(
    outcomes: DataFrame, rows: DataFrame, now: datetime, run_id: str
) -> DataFrame:
    """Return the rows of ``rejected_images``, for images that were tried now."""
    return (
        outcomes.where((F.col("outcome") == REJECTED) & F.col("attempts").isNotNull())
        .join(rows.select(*KEY, F.col("sha256").alias("expected_sha256")), KEY, "inner")
        .withColumn("first_seen_at", F.lit(now))
        .transform(with_stamp, "last_seen_at", now, run_id)
    )


def keep_lasting(rejections: DataFrame) -> DataFrame:
    """Keep the rejections that speak against the image itself.

    What storage, time or memory was to blame for may be right again: the product goes on showing
    the image that it had, until its file changes or the reason is tried again.
    """
    return rejections.where(~F.col("reason").isin(*map(str, PASSING_REASONS)))


def select_products(rows: DataFrame, now: datetime, run_id: str) -> DataFrame:
    """Return one row a product, from its manifest row of lowest position."""
    order = Window.partitionBy("product_id").orderBy("position", "source_uri")
    return (
        rows.where((F.col("product_id") != "") & ~F.col("is_garbled"))
        .withColumn("_rank", F.row_number().over(order))
        .where("_rank = 1")
        .withColumn("delisted_at", F.lit(None).cast("timestamp"))
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


def with_place(products: DataFrame, places: Mapping[str, str]) -> DataFrame:
    """Give products the category that stands, by path, for theirs."""
    if not places:
        return products
    path = F.coalesce(lookup(places, F.col("category_path")), "category_path")
    return products.withColumn("category_path", path).withColumn(
        "category_id", category_id(F.col("category_path"))
    )


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

"""Groups of near duplicates: images whose 64-bit perceptual hashes differ in few bits.

Two images are near duplicates when their hashes differ in at most ``distance`` bits; a group is a
connected component of such pairs and is named by its lowest ``image_id``. An image without a hash
is alone. Images may come in any number of increments: the groups are those of one large batch, so
long as ``distance`` stays the same.

**Pairs.** The bits are cut into ``distance + 2`` blocks. At most ``distance`` of them can differ,
so near hashes agree in two blocks at least, and a hash is compared only with those in the same
bucket: a pair of blocks with its values [Manku, Jain, Das Sarma: "Detecting near-duplicates for web
crawling", WWW 2007]. At distance 4 there are 15 pairs of about 21 bits, so random hashes meet 0.5
others a bucket among 1e6 images and 48 among 1e8. Hashes of photos are not random: a bucket of more
than ``LARGE_BUCKET`` hashes is cut again, by the same rule over the bits outside its blocks (about
14 more bits at distance 4), which loses no pair. Equal hashes are one before any of this.

**Components.** A known group takes part as one node, its name; so images grouped before are read
but neither compared with each other nor walked through. The rest is large-star and small-star
[Kiveris et al.: "Connected components in MapReduce and beyond", SoCC 2014].
"""

import logging
from collections.abc import Iterable
from itertools import combinations, pairwise

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from catalog_batch.ingest.joins import BROADCAST_ROWS, broadcast_if_few

HASH_BITS = 64
LARGE_BUCKET = 2_000
"""Distinct hashes in a bucket, past which comparing all of them costs more than cutting it."""

logger = logging.getLogger(__name__)


def select_duplicate_groups(new: DataFrame, known: DataFrame, distance: int) -> DataFrame:
    """Return the groups of all new images, and of the known images whose group they change.

    Args:
        new: ``image_id`` and ``perceptual_hash`` (signed, or null) of images not in ``known``.
        known: ``image_id``, ``perceptual_hash`` and ``duplicate_group``, as earlier calls with the
            same ``distance`` returned them.
        distance: Most bits, 0 to 12, in which the hashes of near duplicates differ.

    Returns:
        ``image_id``, ``perceptual_hash`` and ``duplicate_group``, each image once. The frame is
        computed, and no longer depends on ``new`` and ``known``.
    """
    hashes = select_hashes(new, known).localCheckpoint()
    near = select_near_pairs(hashes, distance)
    edges = select_edges(hashes, near).localCheckpoint()
    labels = select_labels(edges)
    grouped = group_new(new, hashes, labels).unionByName(regroup_known(known, labels))
    return grouped.localCheckpoint()


def select_hashes(new: DataFrame, known: DataFrame) -> DataFrame:
    """Return each hash once, with its lowest new image and its known group, null where none."""
    nothing = F.lit(None).cast("string")
    from_new = new.select("perceptual_hash", F.col("image_id").alias("new_image"))
    from_known = known.select("perceptual_hash", F.col("duplicate_group").alias("known_group"))
    return (
        from_new.withColumn("known_group", nothing)
        .unionByName(from_known.withColumn("new_image", nothing))
        .where(F.col("perceptual_hash").isNotNull())
        .groupBy("perceptual_hash")
        .agg(F.min("new_image").alias("new_image"), F.min("known_group").alias("known_group"))
    )


def select_near_pairs(
    hashes: DataFrame, distance: int, large_bucket: int = LARGE_BUCKET
) -> DataFrame:
    """Return the pairs ``(first, second)`` of near hashes of which one at least is not known."""
    masks = pair_masks(range(HASH_BITS), distance)
    is_fresh = F.col("known_group").isNull()
    unknown, known = _count_both(hashes, is_fresh)
    if not unknown:
        return hashes.limit(0).select(*_pair("perceptual_hash", "perceptual_hash"))
    buckets = (
        hashes.select("perceptual_hash", is_fresh.alias("is_fresh"))
        .withColumn("mask", F.explode(F.array(*map(F.lit, masks))))
        .transform(with_bucket)
    )
    # Where most are fresh, most buckets are too: sending their numbers round would drop little.
    if unknown < known and unknown * len(masks) <= BROADCAST_ROWS:
        buckets = keep_fresh_buckets(buckets).localCheckpoint()
    shared = keep_shared_buckets(buckets, masks, distance, large_bucket)
    return pairs_in_buckets(shared.localCheckpoint(), distance)


def _count_both(rows: DataFrame, condition: Column) -> tuple[int, int]:
    """Return how many rows a condition holds for, and how many it does not."""
    counted = rows.agg(F.count_if(condition), F.count_if(~condition)).first()
    return (counted[0], counted[1]) if counted else (0, 0)


def pair_masks(positions: Iterable[int], distance: int) -> list[int]:
    """Cut bits into ``distance + 2`` blocks; return a mask, signed, for each pair of blocks."""
    bits, blocks = list(positions), distance + 2
    cuts = [len(bits) * number // blocks for number in range(blocks + 1)]
    parts = [sum(1 << bit for bit in bits[a:b]) for a, b in pairwise(cuts)]
    return [_signed(one | other) for one, other in combinations(parts, 2)]


def with_bucket(masked: DataFrame) -> DataFrame:
    """Add ``bucket``, the same for hashes that agree in the bits of ``mask``.

    Two buckets may by chance share a number: the distance is checked anyway.
    """
    agreed = F.col("perceptual_hash").bitwiseAND(F.col("mask"))
    return masked.withColumn("bucket", F.xxhash64("mask", agreed))


def keep_fresh_buckets(buckets: DataFrame) -> DataFrame:
    """Keep buckets that hold a fresh hash; they must be few, the known may be many."""
    fresh = buckets.where("is_fresh").select("bucket").distinct()
    return buckets.join(F.broadcast(fresh), "bucket", "left_semi")


def keep_shared_buckets(
    buckets: DataFrame, masks: list[int], distance: int, large_bucket: int
) -> DataFrame:
    """Keep buckets in which a fresh hash has company; cut those of too many hashes into smaller.

    Few buckets are shared, so that what is left is little to join. The smaller buckets hold the
    same near pairs.
    """
    sizes = buckets.groupBy("bucket").agg(
        F.count("*").alias("size"), F.bool_or("is_fresh").alias("has_fresh")
    )
    shared = sizes.where("size > 1 AND has_fresh").select("bucket", "size").localCheckpoint()
    is_large = F.col("size") > large_bucket
    found, kept = _count_both(shared, is_large)
    chosen = shared.where(~is_large).select("bucket")
    usual = buckets.join(broadcast_if_few(chosen, kept), "bucket", "left_semi")
    if not found:
        return usual
    logger.info("%d buckets of hashes hold more than %d: cut again", found, large_bucket)
    finer = buckets.sparkSession.createDataFrame(finer_masks(masks, distance), "mask long, to long")
    cut = (
        buckets.join(broadcast_if_few(shared.where(is_large), found), "bucket", "left_semi")
        .join(F.broadcast(finer), "mask", "inner")
        .select("perceptual_hash", "is_fresh", F.col("to").alias("mask"))
        .transform(with_bucket)
    )
    return usual.unionByName(cut)


def finer_masks(masks: list[int], distance: int) -> list[tuple[int, int]]:
    """Return each mask with those that it is cut into: a pair of blocks of the other bits more.

    Hashes that agree in ``mask`` differ, if anywhere, in the other bits, so the rule of blocks
    holds for these too.
    """
    others = {mask: [bit for bit in range(HASH_BITS) if not mask >> bit & 1] for mask in masks}
    return [(mask, mask | more) for mask in masks for more in pair_masks(others[mask], distance)]


def pairs_in_buckets(buckets: DataFrame, distance: int) -> DataFrame:
    """Return the pairs ``(first, second)`` of a fresh and another hash that are near, each once."""
    fresh = buckets.where("is_fresh").select("bucket", F.col("perceptual_hash").alias("first"))
    others = buckets.select("bucket", "is_fresh", F.col("perceptual_hash").alias("second"))
    differing = F.bit_count(F.col("first").bitwiseXOR(F.col("second")))
    is_first_of_two = ~F.col("is_fresh") | (F.col("first") < F.col("second"))
    return (
        fresh.join(others, "bucket", "inner")
        .where((differing <= distance) & is_first_of_two)
        .select("first", "second")
        .distinct()
    )


def select_edges(hashes: DataFrame, near: DataFrame) -> DataFrame:
    """Return what joins groups, ``(node, lower)``: near hashes, and new images of a known hash.

    A node is the known group of a hash, or else its lowest new image.
    """
    nodes = hashes.select("perceptual_hash", _node().alias("node"))
    first = nodes.select(F.col("perceptual_hash").alias("first"), F.col("node").alias("one"))
    second = nodes.select(F.col("perceptual_hash").alias("second"), F.col("node").alias("other"))
    by_distance = near.join(first, "first", "inner").join(second, "second", "inner")
    by_equality = hashes.select(
        F.col("new_image").alias("one"), F.col("known_group").alias("other")
    ).dropna()
    return (
        by_distance.select("one", "other")
        .unionByName(by_equality)
        .select(F.greatest("one", "other").alias("node"), F.least("one", "other").alias("lower"))
        .where("node <> lower")
        .distinct()
    )


def select_labels(edges: DataFrame) -> DataFrame:
    """Return ``(node, lower)`` where ``lower`` is the lowest node of the component of ``node``.

    Lowest nodes themselves have no row. Usual groups are done before the first round; a chain of
    n takes some log2(n) rounds. The frames of past rounds are freed with their references.
    """
    while not is_star_forest(edges):
        edges = edges.transform(with_large_stars).transform(with_small_stars).localCheckpoint()
    return edges


def is_star_forest(edges: DataFrame) -> bool:
    """Return whether each node has one lower node, which has none: also when there are no edges."""
    below = edges.select("node", F.lit(1).alias("ups"), F.lit(False).alias("is_lower"))
    above = edges.select(
        F.col("lower").alias("node"), F.lit(0).alias("ups"), F.lit(True).alias("is_lower")
    )
    roles = below.unionByName(above).groupBy("node")
    is_unfinished = (F.sum("ups") > 1) | ((F.sum("ups") > 0) & F.bool_or("is_lower"))
    return roles.agg(is_unfinished.alias("is_unfinished")).where("is_unfinished").isEmpty()


def with_large_stars(edges: DataFrame) -> DataFrame:
    """Tie the higher neighbours of each node to the lowest of it and its neighbours."""
    both_ways = edges.unionAll(edges.select("lower", "node")).toDF("node", "neighbour")
    lowest = F.least("node", F.min("neighbour").over(Window.partitionBy("node")))
    return (
        both_ways.withColumn("lowest", lowest)
        .where("neighbour > node")
        .select(F.col("neighbour").alias("node"), F.col("lowest").alias("lower"))
        .distinct()
    )


def with_small_stars(edges: DataFrame) -> DataFrame:
    """Tie each node and its lower neighbours to the lowest of these."""
    lowest = F.min("lower").over(Window.partitionBy("node")).alias("lowest")
    tied = F.explode(F.array("node", "lower"))
    return (
        edges.select("node", "lower", lowest)
        .select(tied.alias("node"), F.col("lowest").alias("lower"))
        .where("node <> lower")
        .distinct()
    )


def group_new(new: DataFrame, hashes: DataFrame, labels: DataFrame) -> DataFrame:
    """Give new images the group of their hash; without a hash they are alone."""
    nodes = hashes.where("new_image IS NOT NULL").select("perceptual_hash", _node().alias("node"))
    return (
        new.join(nodes, "perceptual_hash", "left")
        .join(labels, "node", "left")
        .withColumn("duplicate_group", F.coalesce("lower", "node", "image_id"))
        .select("image_id", "perceptual_hash", "duplicate_group")
    )


def regroup_known(known: DataFrame, labels: DataFrame) -> DataFrame:
    """Return the known images whose group has become part of a lower one."""
    moved = labels.withColumnRenamed("node", "duplicate_group")
    return known.join(moved, "duplicate_group", "inner").select(
        "image_id", "perceptual_hash", F.col("lower").alias("duplicate_group")
    )


def _node() -> Column:
    return F.coalesce("known_group", "new_image")


def _pair(first: str, second: str) -> list[Column]:
    return [F.col(first).alias("first"), F.col(second).alias("second")]


def _signed(mask: int) -> int:
    return mask - (1 << HASH_BITS) if mask >> (HASH_BITS - 1) else mask

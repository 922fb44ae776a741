"""Steps from image predictions to product decisions, as functions from frame to frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch.spark import lookup

ACCEPTED, BACKED_OFF, ABSTAINED = "accepted", "backed_off", "abstained"
LOW_CONFIDENCE, NO_USABLE_IMAGE = "low_confidence", "no_usable_image"
SMALL_MARGIN, IMAGES_DISAGREE = "small_margin", "images_disagree"
OUT_OF_DISTRIBUTION = "out_of_distribution"


def keep_of_model(predictions: DataFrame, model_name: str, model_version: int) -> DataFrame:
    """Keep the image predictions of one model version."""
    is_of_model = (F.col("model_name") == model_name) & (F.col("model_version") == model_version)
    return predictions.where(is_of_model)


def keep_listed(rows: DataFrame) -> DataFrame:
    """Keep the rows of a table that no full manifest has delisted."""
    return rows.where(F.col("delisted_at").isNull())


def select_product_scores(
    product_images: DataFrame, scored: DataFrame, top_k: int = 5
) -> DataFrame:
    """Average confidences over a product's images and rank its categories.

    A category in neither ``top_k`` nor ``others`` of an image, or a node outside its ``nodes``,
    counts as 0 for it: its confidence is below 0.01.

    Args:
        product_images: Links from products to images.
        scored: What a model says of images.
        top_k: Categories kept.

    Returns:
        A row for each product with an image that could be scored: ``product_id``, ``image_count``,
        ``top_k`` (category and mean confidence, best first, of equal ones the smaller id),
        ``margin`` between the first two, ``node_sums`` (a map from node to mean sum), ``energy``
        (of the image most like those of training) and ``has_majority``, whether more than half of
        the images have one best category.
    """
    usable = (
        product_images.select("product_id", "image_id")
        .distinct()
        .join(scored.where(F.col("failure").isNull()), "image_id", "inner")
        .select("product_id", "top_k", "others", "nodes", "energy")
    )
    return (
        usable.groupBy("product_id")
        .agg(
            F.count("*").cast("int").alias("image_count"),
            F.min("energy").alias("energy"),
            F.collect_list(F.get("top_k", F.lit(0))["category_id"]).alias("best"),
            F.flatten(F.collect_list(F.concat("top_k", _or_none("others")))).alias("guesses"),
            F.flatten(F.collect_list(_or_none("nodes"))).alias("node_guesses"),
        )
        .withColumn("ranked", F.sort_array(_summed("guesses")))
        .withColumn("top_k", _means(F.slice("ranked", 1, top_k)))
        .withColumn("margin", _lead(_means(F.slice("ranked", 1, 2))))
        .withColumn("node_sums", F.map_from_entries(_means(_summed("node_guesses"))))
        .withColumn("has_majority", 2 * _most_often("best") > F.col("image_count"))
        .select(
            "product_id", "image_count", "top_k", "margin", "node_sums", "energy", "has_majority"
        )
    )


def _or_none(guesses: str) -> Column:
    """Return an image's guesses; none where it was scored before such were kept."""
    return F.coalesce(guesses, F.array())


def _summed(guesses: str) -> Column:
    """Return the confidences of each category added up, in a product's array of guesses.

    In its own array and not over exploded rows: a product has few guesses, and six times the rows
    go through two shuffles more slowly. Sums are negated, so that by order the smaller identifier
    comes first among equals: the same rows give the same answer.
    """
    summed = F.transform(
        F.array_distinct(F.transform(guesses, lambda guess: guess["category_id"])),
        lambda category: F.struct(
            F.aggregate(
                F.filter(guesses, lambda guess: guess["category_id"] == category),
                F.lit(0.0),
                lambda total, guess: total - guess["confidence"],
            ).alias("negative"),
            category.alias("category_id"),
        ),
    )
    # Most products have one image, in which each category is named once: there is nothing to add,
    # and a model that knows nothing names a hundred.
    alone = F.transform(
        guesses,
        lambda guess: F.struct(
            (F.lit(0.0) - guess["confidence"]).alias("negative"),
            guess["category_id"].alias("category_id"),
        ),
    )
    return F.when(F.col("image_count") == 1, alone).otherwise(summed)


def _most_often(values: str) -> Column:
    """Return how often the most frequent value of an array is in it."""

    def times(value: Column) -> Column:
        return F.size(F.filter(values, lambda other: other == value))

    return F.array_max(F.transform(F.array_distinct(values), times))


def _means(guesses: Column) -> Column:
    return F.transform(
        guesses,
        lambda guess: F.struct(
            guess["category_id"].alias("category_id"),
            (-guess["negative"] / F.col("image_count")).cast("float").alias("confidence"),
        ),
    )


def _lead(first_two: Column) -> Column:
    second = F.coalesce(F.get(first_two, F.lit(1))["confidence"], F.lit(0.0))
    return (first_two[0]["confidence"] - second).cast("float")


def with_every_product(scores: DataFrame, products: DataFrame) -> DataFrame:
    """Add the products that have no usable image, with ``image_count`` 0 and an empty ``top_k``."""
    return (
        products.select("product_id")
        .join(scores, "product_id", "left")
        .fillna({"image_count": 0})
        .withColumn("top_k", F.coalesce("top_k", F.array()))
    )


@dataclass(frozen=True)
class Rules:
    """What a product's decision goes by: the model's own figures, and the settings."""

    thresholds: Mapping[str, float]
    """Least confidence by category, where the model has one."""

    nodes_above: Mapping[str, Sequence[tuple[str, float]]]
    """By category: the nodes above it, nearest first, each with the least sum to give it."""

    min_confidence: float = 0.5
    """Least confidence for categories without a threshold."""

    min_margin: float = 0.0
    energy_limit: float | None = None
    """Energy above which an image is unlike those of training."""


def with_decision(scores: DataFrame, rules: Rules) -> DataFrame:
    """Add ``decision``, its ``reason``, ``category_id``, ``best_category_id`` and ``confidence``.

    The first that holds: without a usable image, or with none like those of training, it is
    withheld; the best category, if it is sure enough and leads far enough; the nearest node above
    it that is sure enough; nothing. ``confidence`` is that in the category given, or else in the
    best one.

    Args:
        scores: From ``with_every_product``.
        rules: Of the model.
    """
    best = F.get("top_k", F.lit(0))
    unlike = F.lit(False) if rules.energy_limit is None else F.col("energy") > rules.energy_limit
    refused = F.when(F.col("image_count") == 0, NO_USABLE_IMAGE).when(unlike, OUT_OF_DISTRIBUTION)
    leads = F.col("margin") >= F.lit(rules.min_margin).cast("float")
    is_sure = (best["confidence"] >= _threshold(rules)) & leads
    why = (
        F.when(~F.col("has_majority"), IMAGES_DISAGREE)
        .when(~leads, SMALL_MARGIN)
        .otherwise(LOW_CONFIDENCE)
    )
    return (
        scores.withColumn("best_category_id", best["category_id"])
        .withColumn("reason", F.coalesce(refused, F.when(~is_sure, why)))
        .withColumn("node", F.when(refused.isNull() & ~is_sure, _nearest_node(rules)))
        .withColumn(
            "decision",
            F.when(F.col("reason").isNull(), ACCEPTED)
            .when(F.col("node").isNotNull(), BACKED_OFF)
            .otherwise(ABSTAINED),
        )
        .withColumn(
            "category_id",
            F.coalesce("node", F.when(F.col("reason").isNull(), F.col("best_category_id"))),
        )
        .withColumn(
            "confidence",
            F.coalesce(F.try_element_at("node_sums", F.col("node")), best["confidence"]),
        )
        .drop("node", "node_sums", "energy", "has_majority")
    )


def with_category_path(decisions: DataFrame, paths: Mapping[str, str]) -> DataFrame:
    """Add ``category_path`` of the decided category."""
    return decisions.withColumn("category_path", lookup(paths, F.col("category_id")))


def _threshold(rules: Rules) -> Column:
    # A float, as confidences are: 0.7 as a double is more than 0.7 as a float.
    own = lookup(rules.thresholds, F.col("best_category_id"))
    return F.coalesce(own, F.lit(rules.min_confidence)).cast("float")


def _nearest_node(rules: Rules) -> Column:
    """Return the id of the nearest node above the best category that is sure enough, or null."""
    if not rules.nodes_above:
        return F.lit(None).cast("string")
    pairs = [
        part
        for category, nodes in sorted(rules.nodes_above.items())
        for part in (
            F.lit(category),
            F.array(
                *(
                    F.struct(F.lit(node).alias("node"), F.lit(least).cast("float").alias("least"))
                    for node, least in nodes
                )
            ),
        )
    ]
    above = F.try_element_at(F.create_map(*pairs), F.col("best_category_id"))
    sure = F.filter(
        above, lambda each: F.try_element_at("node_sums", each["node"]) >= each["least"]
    )
    return F.get(sure, F.lit(0))["node"]

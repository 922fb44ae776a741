"""Steps from image predictions to product decisions, as functions from frame to frame."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

ACCEPTED, BACKED_OFF, ABSTAINED = "accepted", "backed_off", "abstained"
LOW_CONFIDENCE, NO_USABLE_IMAGE = "low_confidence", "no_usable_image"


def keep_of_model(predictions: DataFrame, model_name: str, model_version: int) -> DataFrame:
    """Keep the image predictions of one model version."""
    is_of_model = (F.col("model_name") == model_name) & (F.col("model_version") == model_version)
    return predictions.where(is_of_model)


def keep_listed(rows: DataFrame) -> DataFrame:
    """Keep the rows of a table that no full manifest has delisted."""
    return rows.where(F.col("delisted_at").isNull())


def select_unscored(images: DataFrame, links: DataFrame, scored: DataFrame) -> DataFrame:
    """Return the ids of images that a link shows, without a prediction; bytes are not read."""
    return (
        images.select("image_id")
        .join(links, "image_id", "left_semi")
        .join(scored.select("image_id"), "image_id", "left_anti")
    )


def select_product_scores(product_images: DataFrame, scored: DataFrame) -> DataFrame:
    """Average confidences over a product's images and keep its best category.

    A category outside an image's ``top_k`` counts as 0 for that image.

    Returns:
        ``product_id``, ``image_count``, ``best_category_id``, ``confidence``; the last two are
        null for a product none of whose images could be scored.
    """
    usable = (
        product_images.select("product_id", "image_id")
        .distinct()
        .join(scored.where(F.col("failure").isNull()), "image_id", "inner")
        .select("product_id", "image_id", "top_k")
    )
    image_counts = usable.groupBy("product_id").agg(F.count("*").cast("int").alias("image_count"))
    sums = (
        usable.select("product_id", F.explode("top_k").alias("guess"))
        .groupBy("product_id", F.col("guess.category_id").alias("category_id"))
        .agg(F.sum("guess.confidence").alias("total"))
    )
    # Negated, so that the smaller identifier wins a tie: the same rows give the same answer.
    best = F.min(F.struct((-F.col("total")).alias("negative"), "category_id")).alias("best")
    return (
        sums.groupBy("product_id")
        .agg(best)
        .join(image_counts, "product_id", "inner")
        .select(
            "product_id",
            "image_count",
            F.col("best.category_id").alias("best_category_id"),
            (-F.col("best.negative") / F.col("image_count")).cast("float").alias("confidence"),
        )
    )


def with_every_product(scores: DataFrame, products: DataFrame) -> DataFrame:
    """Add the products that have no usable image, with ``image_count`` 0."""
    return (
        products.select("product_id").join(scores, "product_id", "left").fillna({"image_count": 0})
    )


def with_decision(
    scores: DataFrame, thresholds: Mapping[str, float], min_confidence: float
) -> DataFrame:
    """Add ``decision``, ``reason`` and ``category_id``, which is null when withheld.

    Args:
        scores: From ``with_every_product``.
        thresholds: Least confidence by category, where the model has one.
        min_confidence: Least confidence for all other categories.
    """
    has_no_image = F.col("image_count") == 0
    is_sure = F.col("confidence") >= _threshold(thresholds, min_confidence)
    reason = F.when(has_no_image, NO_USABLE_IMAGE).when(~is_sure, LOW_CONFIDENCE)
    return (
        scores.withColumn("reason", reason)
        .withColumn("decision", F.when(F.col("reason").isNull(), ACCEPTED).otherwise(ABSTAINED))
        .withColumn("category_id", F.when(F.col("reason").isNull(), F.col("best_category_id")))
    )


def with_category_path(decisions: DataFrame, paths: Mapping[str, str]) -> DataFrame:
    """Add ``category_path`` of the decided category."""
    return decisions.withColumn("category_path", _lookup(paths, "category_id"))


def _threshold(thresholds: Mapping[str, float], otherwise: float) -> Column:
    # A float, as confidences are: 0.7 as a double is more than 0.7 as a float.
    return F.coalesce(_lookup(thresholds, "best_category_id"), F.lit(otherwise)).cast("float")


def _lookup(values: Mapping[str, float] | Mapping[str, str], column: str) -> Column:
    if not values:
        return F.lit(None)
    pairs = [F.lit(part) for pair in sorted(values.items()) for part in pair]
    return F.try_element_at(F.create_map(*pairs), F.col(column))

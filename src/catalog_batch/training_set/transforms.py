"""Steps from labels and images to training examples, as functions from frame to frame."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

# From least to most trusted; the training set takes the most trusted label of a product.
LABEL_TRUST = ("seller", "rule", "reviewer")
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_BUCKETS = 1_000_000


def keep_most_trusted(labels: DataFrame) -> DataFrame:
    """Keep one label a product, by ``LABEL_TRUST``."""
    trust = F.array_position(F.array(*map(F.lit, LABEL_TRUST)), F.col("source"))
    order = Window.partitionBy("product_id").orderBy(trust.desc())
    return labels.withColumn("_rank", F.row_number().over(order)).where("_rank = 1").drop("_rank")


def keep_first_product_of_image(examples: DataFrame) -> DataFrame:
    """Keep an image under its first product only, so that no image is in two splits."""
    order = Window.partitionBy("image_id").orderBy("product_id")
    return examples.withColumn("_rank", F.row_number().over(order)).where("_rank = 1").drop("_rank")


def with_split(
    examples: DataFrame, test_share: float, validation_share: float, seed: int
) -> DataFrame:
    """Add ``split`` and ``group_id``: the given split, else one drawn by a hash of the product.

    The hash depends on the product and the seed alone, so a product stays in its split when the
    catalogue grows.
    """
    bucket = F.pmod(F.xxhash64("product_id", F.lit(seed)), F.lit(_BUCKETS))
    drawn = (
        F.when(bucket < round(test_share * _BUCKETS), TEST)
        .when(bucket < round((test_share + validation_share) * _BUCKETS), VALIDATION)
        .otherwise(TRAIN)
    )
    return examples.withColumns(
        {"split": F.coalesce("given_split", drawn), "group_id": F.col("product_id")}
    )


def without_near_duplicates(examples: DataFrame, duplicates: DataFrame) -> DataFrame:
    """Leave out images that look like one of the same category in another split.

    What a model has seen in another encoding says nothing of what it makes of new products. Of a
    group of look-alikes training keeps its own, else the test split. A split that was given stays
    whole, and the drawn ones give way to it.

    Args:
        examples: With ``split`` and ``given_split``.
        duplicates: ``image_id`` and ``duplicate_group``; an image that is not there is like none.
    """
    alike = Window.partitionBy("_group", "category_id")
    is_drawn = F.col("given_split").isNull()
    place = F.array_position(F.array(*map(F.lit, (TRAIN, TEST, VALIDATION))), F.col("split"))
    groups = duplicates.select("image_id", F.col("duplicate_group").alias("_group"))
    return (
        examples.join(groups, "image_id", "left")
        .withColumn("_group", F.coalesce("_group", "image_id"))
        .withColumn("_first", F.min(F.struct(is_drawn, place, "split")).over(alike)["split"])
        .where(~is_drawn | (F.col("split") == F.col("_first")))
        .drop("_group", "_first")
    )


def with_order(examples: DataFrame, seed: int) -> DataFrame:
    """Add ``_order``, a random but repeatable place in the table."""
    return examples.withColumn("_order", F.xxhash64("image_id", "product_id", F.lit(seed)))


def select_examples(
    labels: DataFrame, products: DataFrame, product_images: DataFrame, categories: DataFrame
) -> DataFrame:
    """Join labels with products, images and the newest tree; one narrow row an image."""
    newest = categories.agg(F.max("taxonomy_version").alias("taxonomy_version"))
    tree = categories.join(newest, "taxonomy_version", "left_semi").select(
        "category_id", F.col("path").alias("category_path"), "taxonomy_version"
    )
    return (
        labels.transform(keep_most_trusted)
        .select("product_id", "category_id")
        .join(F.broadcast(tree), "category_id", "inner")
        .join(
            products.select("product_id", "title", "description", "given_split"),
            "product_id",
            "inner",
        )
        .join(product_images.select("product_id", "image_id").distinct(), "product_id", "inner")
    )

"""The steps from image predictions to product decisions, each with a few rows."""

from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.score import transforms

LINK_DDL = "product_id string, image_id string"
SCORED_DDL = (
    "image_id string, top_k array<struct<category_id: string, confidence: float>>, failure string"
)
SCORE_DDL = "product_id string, image_count int, best_category_id string, confidence float"


def product_scores(
    spark: SparkSession,
    links: list[tuple[str, str]],
    scored: list[tuple[str, dict[str, float], str | None]],
) -> DataFrame:
    rows = [(image, list(top_k.items()), failure) for image, top_k, failure in scored]
    return transforms.select_product_scores(
        spark.createDataFrame(links, LINK_DDL), spark.createDataFrame(rows, SCORED_DDL)
    )


def test_only_the_rows_of_one_model_version_are_kept(spark: SparkSession) -> None:
    ddl = "image_id string, model_name string, model_version int"
    rows = [("i1", "m", 1), ("i2", "m", 2), ("i3", "other", 2)]
    assertDataFrameEqual(
        spark.createDataFrame(rows, ddl).transform(transforms.keep_of_model, "m", 2),
        spark.createDataFrame([("i2", "m", 2)], ddl),
    )


def test_images_with_a_prediction_are_not_scored_again(spark: SparkSession) -> None:
    rows = [("i1", b"x"), ("i2", b"y"), ("i3", b"of no listed product")]
    images = spark.createDataFrame(rows, "image_id string, content binary")
    links = spark.createDataFrame([("i1",), ("i2",), ("i2",)], "image_id string")
    scored = spark.createDataFrame([("i1",)], "image_id string")
    assertDataFrameEqual(
        transforms.select_unscored(images, links, scored),
        spark.createDataFrame([("i2",)], "image_id string"),
    )


def test_confidences_are_averaged_over_the_images_of_a_product(spark: SparkSession) -> None:
    found = product_scores(
        spark,
        [("p1", "i1"), ("p1", "i2"), ("p2", "i2")],
        [("i1", {"a": 0.75, "b": 0.25}, None), ("i2", {"b": 1.0, "a": 0.0}, None)],
    )
    expected = [("p1", 2, "b", 0.625), ("p2", 1, "b", 1.0)]
    assertDataFrameEqual(found, spark.createDataFrame(expected, SCORE_DDL))


def test_a_category_outside_an_images_top_k_counts_as_nothing(spark: SparkSession) -> None:
    found = product_scores(
        spark,
        [("p1", "i1"), ("p1", "i2")],
        [("i1", {"a": 0.5}, None), ("i2", {"b": 0.75}, None)],
    )
    assertDataFrameEqual(found, spark.createDataFrame([("p1", 2, "b", 0.375)], SCORE_DDL))


def test_of_equal_categories_the_smaller_identifier_wins(spark: SparkSession) -> None:
    found = product_scores(
        spark,
        [("p1", "i1"), ("p1", "i2")],
        [("i1", {"b": 0.75, "a": 0.25}, None), ("i2", {"a": 0.75, "b": 0.25}, None)],
    )
    assertDataFrameEqual(found, spark.createDataFrame([("p1", 2, "a", 0.5)], SCORE_DDL))


def test_an_image_that_a_product_lists_twice_counts_once(spark: SparkSession) -> None:
    found = product_scores(
        spark,
        [("p1", "i1"), ("p1", "i1"), ("p1", "i2")],
        [("i1", {"a": 1.0}, None), ("i2", {"b": 0.75}, None)],
    )
    assertDataFrameEqual(found, spark.createDataFrame([("p1", 2, "a", 0.5)], SCORE_DDL))


def test_failed_and_unscored_images_do_not_count(spark: SparkSession) -> None:
    found = product_scores(
        spark,
        [("p1", "i1"), ("p1", "bad"), ("p2", "bad"), ("p3", "unscored")],
        [("i1", {"a": 0.5}, None), ("bad", {}, "undecodable")],
    )
    assertDataFrameEqual(found, spark.createDataFrame([("p1", 1, "a", 0.5)], SCORE_DDL))


def test_a_product_without_scores_gets_none(spark: SparkSession) -> None:
    scores = spark.createDataFrame([("p1", 1, "a", 0.5)], SCORE_DDL)
    products = spark.createDataFrame([("p1",), ("p2",)], "product_id string")
    assertDataFrameEqual(
        scores.transform(transforms.with_every_product, products),
        spark.createDataFrame([("p1", 1, "a", 0.5), ("p2", 0, None, None)], SCORE_DDL),
    )


@pytest.mark.parametrize(
    ("best", "confidence", "images", "decision"),
    [
        ("a", 0.9, 1, ("accepted", None, "a")),
        ("a", 0.8, 1, ("accepted", None, "a")),  # the threshold of a
        ("a", 0.7, 1, ("abstained", "low_confidence", None)),
        ("b", 0.7, 1, ("accepted", None, "b")),
        ("b", 0.5, 1, ("accepted", None, "b")),  # min_confidence
        ("b", 0.4, 1, ("abstained", "low_confidence", None)),
        (None, None, 0, ("abstained", "no_usable_image", None)),
    ],
)
def test_a_decision_needs_the_confidence_of_its_category(
    spark: SparkSession,
    best: str | None,
    confidence: float | None,
    images: int,
    decision: tuple[Any, ...],
) -> None:
    scores = spark.createDataFrame([("p1", images, best, confidence)], SCORE_DDL)
    row = transforms.with_decision(scores, {"a": 0.8}, 0.5).collect()[0]
    assert (row["decision"], row["reason"], row["category_id"]) == decision
    assert row["best_category_id"] == best


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9])
def test_a_confidence_equal_to_its_threshold_is_accepted(
    spark: SparkSession, threshold: float
) -> None:
    scores = spark.createDataFrame([("p1", 1, "a", threshold)], SCORE_DDL)
    for thresholds, least in (({"a": threshold}, 1.0), ({}, threshold)):
        row = transforms.with_decision(scores, thresholds, least).collect()[0]
        assert row["decision"] == "accepted"


def test_the_path_is_that_of_the_decided_category(spark: SparkSession) -> None:
    decisions = spark.createDataFrame([("a",), ("x",), (None,)], "category_id string")
    assertDataFrameEqual(
        decisions.transform(transforms.with_category_path, {"a": "Fruit/Apple", "b": "Tools"}),
        spark.createDataFrame(
            [("a", "Fruit/Apple"), ("x", None), (None, None)],
            "category_id string, category_path string",
        ),
    )

"""The steps from image predictions to product decisions, each with a few rows."""

from collections.abc import Mapping
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.score import transforms
from catalog_batch.score.transforms import Rules

GUESSES = "array<struct<category_id: string, confidence: float>>"
LINK_DDL = "product_id string, image_id string"
SCORED_DDL = (
    f"image_id string, top_k {GUESSES}, others {GUESSES}, nodes {GUESSES}, "
    "energy float, failure string"
)
SCORE_DDL = (
    f"product_id string, image_count int, top_k {GUESSES}, margin float, "
    "node_sums map<string, float>, energy float, has_majority boolean"
)
Shares = Mapping[str, float]
NONE: Shares = {}

BAD = (NONE, NONE, NONE, None, "undecodable")


def image(
    top_k: Shares,
    nodes: Shares | None = NONE,
    energy: float = -5.0,
    others: Shares | None = NONE,
) -> tuple[Any, ...]:
    """Return what is stored of an image that was scored."""
    return top_k, others, nodes, energy, None


def product_scores(
    spark: SparkSession, links: list[tuple[str, str]], scored: dict[str, tuple[Any, ...]]
) -> dict[str, dict[str, Any]]:
    rows = [
        (name, *(None if each is None else list(each.items()) for each in shares), energy, failure)
        for name, (*shares, energy, failure) in scored.items()
    ]
    found = transforms.select_product_scores(
        spark.createDataFrame(links, LINK_DDL), spark.createDataFrame(rows, SCORED_DDL), top_k=2
    )
    by_product = {row["product_id"]: row.asDict(recursive=True) for row in found.collect()}
    for row in by_product.values():
        row["top_k"] = {each["category_id"]: each["confidence"] for each in row["top_k"]}
    return by_product


def test_only_the_rows_of_one_model_version_are_kept(spark: SparkSession) -> None:
    ddl = "image_id string, model_name string, model_version int"
    rows = [("i1", "m", 1), ("i2", "m", 2), ("i3", "other", 2)]
    assertDataFrameEqual(
        spark.createDataFrame(rows, ddl).transform(transforms.keep_of_model, "m", 2),
        spark.createDataFrame([("i2", "m", 2)], ddl),
    )


@pytest.fixture(scope="module")
def combined(spark: SparkSession) -> dict[str, dict[str, Any]]:
    scored = {
        "i1": image({"a": 0.75, "b": 0.25}, {"n": 0.75, "m": 0.25}, -4.0),
        "i2": image({"b": 1.0, "a": 0.0}, {"n": 0.25}, -2.0),
        "i3": image({"c": 0.5, "b": 0.25}, None),
        "i4": image({"b": 0.75, "a": 0.25}),
        "i5": image({"a": 0.5, "b": 0.25}, others={"c": 0.125, "d": 0.125}),
        "i6": image({"d": 0.5, "c": 0.5}, others=None),
        "bad": BAD,
    }
    links = [
        ("two", "i1"), ("two", "i2"),
        ("one", "i2"),
        ("more than top k", "i1"), ("more than top k", "i3"),
        ("others", "i5"), ("others", "i6"),
        ("others alone", "i5"),
        ("equal", "i1"), ("equal", "i4"),
        ("twice", "i1"), ("twice", "i1"), ("twice", "i2"),
        ("some bad", "i3"), ("some bad", "bad"),
        ("all bad", "bad"), ("unscored", "i9"),
    ]  # fmt: skip
    return product_scores(spark, links, scored)


def test_confidences_are_averaged_over_the_images_of_a_product(
    combined: dict[str, dict[str, Any]],
) -> None:
    assert combined["two"]["top_k"] == {"b": 0.625, "a": 0.375}
    assert combined["two"]["margin"] == 0.25
    assert combined["two"]["image_count"] == 2
    assert combined["one"]["top_k"] == {"b": 1.0, "a": 0.0}


def test_sums_of_nodes_are_averaged_too(combined: dict[str, dict[str, Any]]) -> None:
    assert combined["two"]["node_sums"] == {"n": 0.5, "m": 0.125}
    # An image that was scored before there were any.
    assert combined["some bad"]["node_sums"] == {}


def test_the_energy_is_that_of_the_image_most_like_those_of_training(
    combined: dict[str, dict[str, Any]],
) -> None:
    assert (combined["two"]["energy"], combined["one"]["energy"]) == (-4.0, -2.0)


def test_images_without_one_best_category_have_no_majority(
    combined: dict[str, dict[str, Any]],
) -> None:
    majority = {product: row["has_majority"] for product, row in combined.items()}
    assert majority == {
        "two": False,
        "one": True,
        "more than top k": False,
        "others": False,
        "others alone": True,
        "equal": False,
        "twice": False,
        "some bad": True,
    }


def test_a_category_that_was_not_kept_of_an_image_counts_as_nothing(
    combined: dict[str, dict[str, Any]],
) -> None:
    assert combined["more than top k"]["top_k"] == {"a": 0.375, "b": 0.25}
    assert combined["more than top k"]["margin"] == 0.125


def test_a_category_beyond_top_k_counts_where_it_was_kept(
    combined: dict[str, dict[str, Any]],
) -> None:
    assert list(combined["others"]["top_k"].items()) == [("c", 0.3125), ("d", 0.3125)]
    assert combined["others alone"]["top_k"] == {"a": 0.5, "b": 0.25}


def test_of_equal_categories_the_smaller_identifier_wins(
    combined: dict[str, dict[str, Any]],
) -> None:
    assert list(combined["equal"]["top_k"].items()) == [("a", 0.5), ("b", 0.5)]


def test_an_image_that_a_product_lists_twice_counts_once(
    combined: dict[str, dict[str, Any]],
) -> None:
    assert {**combined["twice"], "product_id": "two"} == combined["two"]


def test_failed_and_unscored_images_do_not_count(combined: dict[str, dict[str, Any]]) -> None:
    assert combined["some bad"]["image_count"] == 1
    assert not {"all bad", "unscored"} & combined.keys()


def test_a_product_without_scores_gets_none(spark: SparkSession) -> None:
    scores = spark.createDataFrame([("p1", 1, [("a", 0.5)], 0.5, {}, -1.0, True)], SCORE_DDL)
    products = spark.createDataFrame([("p1",), ("p2",)], "product_id string")
    found = scores.transform(transforms.with_every_product, products)
    rows = {row["product_id"]: row.asDict(recursive=True) for row in found.collect()}
    assert rows["p1"]["top_k"] == [{"category_id": "a", "confidence": 0.5}]
    empty = {"product_id": "p2", "image_count": 0, "top_k": []}
    assert {name: value for name, value in rows["p2"].items() if value is not None} == empty


RULES = Rules(
    thresholds={"a": 0.8},
    nodes_above={"a": [("near", 0.9), ("far", 0.7)], "b": [("far", 0.7)]},
    min_confidence=0.5,
    min_margin=0.1,
    energy_limit=-1.0,
)


@pytest.fixture(scope="module")
def decided(spark: SparkSession) -> dict[str, dict[str, Any]]:
    def row(
        name: str,
        best: str,
        confidence: float,
        margin: float = 0.5,
        nodes: Shares = NONE,
        energy: float = -5.0,
        majority: bool = True,
    ) -> tuple[Any, ...]:
        return (name, 1, [(best, confidence), ("z", 0.01)], margin, dict(nodes), energy, majority)

    rows = [
        row("sure", "a", 0.9),
        row("at the threshold", "a", 0.8),
        row("below", "a", 0.7),
        row("without a threshold", "b", 0.7),
        row("at min_confidence", "b", 0.5),
        row("below min_confidence", "b", 0.4),
        row("small margin", "b", 0.9, margin=0.05),
        row("at min_margin", "b", 0.9, margin=0.1),
        row("disagree", "b", 0.4, majority=False),
        row("disagree and sure", "b", 0.6, majority=False),
        row("unlike", "a", 0.99, energy=-0.5, nodes={"far": 1.0}),
        row("near", "a", 0.7, nodes={"near": 0.9, "far": 0.95}),
        row("far", "a", 0.7, nodes={"near": 0.85, "far": 0.95}),
        row("no node", "a", 0.7, nodes={"near": 0.85, "far": 0.65}),
        row("small margin in a node", "b", 0.9, margin=0.05, nodes={"far": 0.95}),
        row("nothing above", "c", 0.2, nodes={"far": 0.95}),
        ("no image", 0, [], None, None, None, None),
    ]
    found = transforms.with_decision(spark.createDataFrame(rows, SCORE_DDL), RULES)
    return {each["product_id"]: each.asDict(recursive=True) for each in found.collect()}


@pytest.mark.parametrize(
    ("product", "decision", "reason", "category", "confidence"),
    [
        ("sure", "accepted", None, "a", 0.9),
        ("at the threshold", "accepted", None, "a", 0.8),
        ("below", "abstained", "low_confidence", None, 0.7),
        ("without a threshold", "accepted", None, "b", 0.7),
        ("at min_confidence", "accepted", None, "b", 0.5),
        ("below min_confidence", "abstained", "low_confidence", None, 0.4),
        ("small margin", "abstained", "small_margin", None, 0.9),
        ("at min_margin", "accepted", None, "b", 0.9),
        ("disagree", "abstained", "images_disagree", None, 0.4),
        ("disagree and sure", "accepted", None, "b", 0.6),
        ("unlike", "abstained", "out_of_distribution", None, 0.99),
        ("near", "backed_off", "low_confidence", "near", 0.9),
        ("far", "backed_off", "low_confidence", "far", 0.95),
        ("no node", "abstained", "low_confidence", None, 0.7),
        ("small margin in a node", "backed_off", "small_margin", "far", 0.95),
        ("nothing above", "abstained", "low_confidence", None, 0.2),
        ("no image", "abstained", "no_usable_image", None, None),
    ],
)
def test_a_product_gets_the_first_decision_that_holds(
    decided: dict[str, dict[str, Any]],
    product: str,
    decision: str,
    reason: str | None,
    category: str | None,
    confidence: float | None,
) -> None:
    row = decided[product]
    assert (row["decision"], row["reason"], row["category_id"]) == (decision, reason, category)
    assert row["confidence"] == (confidence if confidence is None else pytest.approx(confidence))


def test_the_best_guess_is_kept_whatever_is_decided(decided: dict[str, dict[str, Any]]) -> None:
    assert decided["far"]["best_category_id"] == "a"
    assert decided["unlike"]["best_category_id"] == "a"
    assert decided["no image"]["best_category_id"] is None


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9])
def test_a_confidence_equal_to_its_threshold_is_accepted(
    spark: SparkSession, threshold: float
) -> None:
    rows = [("p1", 1, [("a", threshold)], threshold, {"n": threshold}, 0.0, True)]
    scores = spark.createDataFrame(rows, SCORE_DDL)
    for rules in (
        Rules({"a": threshold}, {}, min_confidence=1.0),
        Rules({}, {}, min_confidence=threshold),
        Rules({}, {}, min_confidence=threshold, min_margin=threshold),
    ):
        assert transforms.with_decision(scores, rules).collect()[0]["decision"] == "accepted"
    above = Rules({"a": 2.0}, {"a": [("n", threshold)]})
    assert transforms.with_decision(scores, above).collect()[0]["decision"] == "backed_off"


def test_the_path_is_that_of_the_decided_category(spark: SparkSession) -> None:
    decisions = spark.createDataFrame([("a",), ("x",), (None,)], "category_id string")
    assertDataFrameEqual(
        decisions.transform(transforms.with_category_path, {"a": "Fruit/Apple", "b": "Tools"}),
        spark.createDataFrame(
            [("a", "Fruit/Apple"), ("x", None), (None, None)],
            "category_id string, category_path string",
        ),
    )

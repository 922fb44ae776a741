"""Where categories are now, for labels and for predictions of products."""

from typing import Any

import pytest
from pyspark.sql import SparkSession

from catalog_batch.moved_rows import (
    has_moved_guess,
    is_moved,
    with_current_category,
    with_current_label,
)
from catalog_batch.moves import Moves
from catalog_batch.taxonomy import category_id

MOVES = Moves(7, {"Apple": ("Pome",), "Pear": ("Pome",), "Milk": ("Oat", "Soy"), "Tea": ()})
DDL = (
    "product_id string, category_id string, category_path string, best_category_id string, "
    "top_k array<struct<category_id: string, confidence: float>>, confidence float, "
    "margin float, decision string, taxonomy_version int"
)


def moved(spark: SparkSession, moves: Moves = MOVES, **changes: Any) -> dict[str, Any]:
    """Move a prediction of Apple, with Pear as its second guess and Nut as its third."""
    guesses = changes.pop("guesses", [("Apple", 0.5), ("Pear", 0.25), ("Nut", 0.125)])
    path, best = changes.pop("path", "Apple"), guesses[0][0] if guesses else None
    row = {
        "product_id": "p",
        "category_id": path and category_id(path),
        "category_path": path,
        "best_category_id": best and category_id(best),
        "top_k": [(category_id(guess), share) for guess, share in guesses],
        "confidence": 0.5,
        "margin": 0.25,
        "decision": "accepted",
        "taxonomy_version": 3,
        **changes,
    }
    frame = spark.createDataFrame([tuple(row.values())], DDL)
    result = with_current_category(frame, moves)
    assert result.schema.simpleString() == frame.schema.simpleString()
    again = with_current_category(result, moves)
    [found], [twice] = result.collect(), again.collect()
    assert twice == found
    return dict(found.asDict(recursive=True))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("Apple", "Pome"),
        ("Apple/Red/Gala", "Pome/Red/Gala"),
        ("Milk", None),
        ("Milk/Goat", None),
        ("Tea/Green", None),
        ("Apples/Red", "Apples/Red"),
        # Another category went on from where this one would be.
        ("Fruit/Kiwi/Gold", "Exotic/Gold"),
    ],
)
def test_a_new_category_below_one_that_moved_follows_it(path: str, place: str | None) -> None:
    moves = Moves(7, {**MOVES.new_paths, "Fruit": ("Plants",), "Plants/Kiwi": ("Exotic",)})
    assert moves.place(path) == place


def guesses_of(row: dict[str, Any]) -> list[tuple[str, float]]:
    names = {category_id(name): name for name in ("Apple", "Pear", "Pome", "Nut", "Milk", "Fruit")}
    return [(names[guess["category_id"]], guess["confidence"]) for guess in row["top_k"]]


def test_a_prediction_moves_with_its_guesses_and_those_that_are_one_are_added(
    spark: SparkSession,
) -> None:
    row = moved(spark)
    assert (row["category_path"], row["category_id"]) == ("Pome", category_id("Pome"))
    assert row["best_category_id"] == category_id("Pome")
    assert guesses_of(row) == [("Pome", 0.75), ("Nut", 0.125)]
    assert (row["confidence"], row["margin"]) == (0.75, 0.625)
    assert (row["decision"], row["taxonomy_version"]) == ("accepted", 7)


def test_a_category_that_never_moved_keeps_its_name_in_the_newer_tree(spark: SparkSession) -> None:
    row = moved(spark, path="Nut", guesses=[("Nut", 0.5), ("Apple", 0.25)])
    assert row["category_path"] == "Nut"
    assert guesses_of(row) == [("Nut", 0.5), ("Pome", 0.25)]
    assert (row["confidence"], row["margin"], row["taxonomy_version"]) == (0.5, 0.25, 7)


@pytest.mark.parametrize("path", ["Milk", "Tea"])
def test_after_a_split_or_withdrawal_a_prediction_stays_as_it_was(
    spark: SparkSession, path: str
) -> None:
    row = moved(spark, path=path, guesses=[("Milk", 0.5), ("Apple", 0.25)])
    assert row["category_path"] == path
    assert guesses_of(row) == [("Milk", 0.5), ("Apple", 0.25)]
    assert row["taxonomy_version"] == 3


def test_a_lesser_guess_that_was_split_is_dropped_and_the_margin_is_the_lead_over_it(
    spark: SparkSession,
) -> None:
    row = moved(spark, guesses=[("Apple", 0.5), ("Milk", 0.25), ("Nut", 0.125)])
    assert guesses_of(row) == [("Pome", 0.5), ("Nut", 0.125)]
    assert row["margin"] == 0.25
    # Also where others were merged.
    row = moved(spark, guesses=[("Apple", 0.5), ("Milk", 0.25), ("Pear", 0.125)])
    assert guesses_of(row) == [("Pome", 0.625)]
    assert (row["confidence"], row["margin"]) == (0.625, 0.375)


def test_a_prediction_is_moved_with_its_category_or_has_a_guess_that_is_unless_it_is_stuck(
    spark: SparkSession,
) -> None:
    rows = {
        "Apple": ["Apple", "Nut"],
        "Nut": ["Nut", "Pear"],
        "Fig": ["Fig"],
        "Tea": ["Tea", "Pear"],
    }
    frame = spark.createDataFrame(
        [
            (path, category_id(path), category_id(path), [(category_id(g), 0.5) for g in guesses])
            for path, guesses in rows.items()
        ],
        "path string, category_id string, best_category_id string, "
        "top_k array<struct<category_id: string, confidence: float>>",
    )
    unsure = frame.where("path = 'Apple'").selectExpr(
        "'none' AS path", "NULL AS category_id", "best_category_id", "top_k"
    )
    rows = frame.union(unsure)
    assert {row["path"] for row in rows.where(is_moved(MOVES)).collect()} == {"Apple"}
    assert {row["path"] for row in rows.where(has_moved_guess(MOVES)).collect()} == {"Nut", "none"}
    assert not rows.where(is_moved(Moves()) | has_moved_guess(Moves())).collect()


def test_the_margin_is_below_zero_when_merged_guesses_overtake_the_best(
    spark: SparkSession,
) -> None:
    row = moved(spark, path="Nut", guesses=[("Nut", 0.5), ("Apple", 0.375), ("Pear", 0.25)])
    assert guesses_of(row) == [("Pome", 0.625), ("Nut", 0.5)]
    assert (row["category_path"], row["confidence"], row["margin"]) == ("Nut", 0.5, -0.125)


def test_one_that_was_backed_off_keeps_its_confidence(spark: SparkSession) -> None:
    row = moved(spark, path="Fruit", decision="backed_off", confidence=0.9)
    assert (row["category_path"], row["confidence"]) == ("Fruit", pytest.approx(0.9))
    assert row["best_category_id"] == category_id("Pome")


def test_a_product_without_any_guess_belongs_to_the_newer_tree(spark: SparkSession) -> None:
    row = moved(spark, path=None, guesses=[], decision="abstained", confidence=None, margin=None)
    assert row["top_k"] == []
    assert (row["category_id"], row["confidence"], row["margin"]) == (None, None, None)
    assert row["taxonomy_version"] == 7


def test_without_moves_nothing_is_touched(spark: SparkSession) -> None:
    assert moved(spark, Moves())["taxonomy_version"] == 3


def test_labels_take_the_category_of_now_and_keep_one_that_was_split(spark: SparkSession) -> None:
    labels = spark.createDataFrame(
        [(name, category_id(name)) for name in ("Apple", "Nut", "Milk")],
        "product_id string, category_id string",
    )
    found = {row[0]: row[1] for row in with_current_label(labels, MOVES).collect()}
    assert found == {
        "Apple": category_id("Pome"),
        "Nut": category_id("Nut"),
        "Milk": category_id("Milk"),
    }

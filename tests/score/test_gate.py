"""What a night would change, counted and compared with its bounds."""

from collections.abc import Iterable
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from catalog_batch.score.gate import Bounds, NightFigures, count_night

DECISION_DDL = "product_id string, decision string, category_id string"
BOUNDS = Bounds(max_abstained_share=0.5, max_drift=0.2, min_products=10)


def decisions(spark: SparkSession, categories: Iterable[str | None]) -> DataFrame:
    """Make a decision for each of the products p0, p1, ...; None is withheld."""
    rows = [
        (f"p{number}", "accepted" if category else "abstained", category)
        for number, category in enumerate(categories)
    ]
    return spark.createDataFrame(rows, DECISION_DDL)


def figures(**changes: Any) -> NightFigures:
    night = {"products": 100, "abstained": 0, "compared": 100, "drift": 0.0, "foreign": 0}
    return NightFigures(**{**night, **changes})


def test_the_drift_is_the_least_share_of_products_that_must_have_changed(
    spark: SparkSession,
) -> None:
    before = decisions(spark, ["a", "a", "b", "b", None])
    after = decisions(spark, ["b", "a", "a", None, None])
    # Two changed places within the mix; it holds one b less and one withheld more.
    night = count_night(after, before, [])
    assert night == NightFigures(products=5, abstained=2, compared=5, drift=0.2, foreign=0)


def test_products_without_a_decision_before_do_not_count_as_drift(spark: SparkSession) -> None:
    night = count_night(decisions(spark, "aabbc"), decisions(spark, "aa"), [])
    assert night == NightFigures(products=5, abstained=0, compared=2, drift=0.0, foreign=0)


def test_a_first_night_has_no_drift(spark: SparkSession) -> None:
    night = count_night(decisions(spark, ["a", None]), decisions(spark, []), [])
    assert night == NightFigures(products=2, abstained=1, compared=0, drift=0.0, foreign=0)


def test_categories_outside_the_taxonomy_are_counted(spark: SparkSession) -> None:
    night = count_night(decisions(spark, ["a", "x", "x", None]), decisions(spark, []), ["a", "b"])
    assert night.foreign == 2


def test_products_that_were_not_decided_anew_count_as_they_are(spark: SparkSession) -> None:
    published = decisions(spark, ["a", "b", None, "a", "x"])
    anew, kept = decisions(spark, ["b"]), published.where("product_id != 'p0'")
    night = count_night(anew, published, ["a", "b"], kept)
    assert night == count_night(decisions(spark, ["b", "b", None, "a", "x"]), published, ["a", "b"])
    assert night == NightFigures(products=5, abstained=1, compared=5, drift=0.2, foreign=1)


@pytest.mark.parametrize(
    ("night", "refused"),
    [
        (figures(), []),
        (figures(abstained=50), []),
        (figures(abstained=51), ["51 of 100 products (51.0%) would be withheld"]),
        (figures(products=9, abstained=9), []),
        (figures(drift=0.2), []),
        (figures(drift=0.21), ["over 100 products would move by 21.0%"]),
        (figures(compared=9, drift=0.9), []),
        (figures(foreign=1), ["1 products would get a category outside the taxonomy"]),
        (figures(abstained=51, drift=0.3), ["would be withheld", "would move by 30.0%"]),
        (figures(products=0, compared=0), []),
    ],
)
def test_what_breaks_a_bound_is_said_with_both_figures(
    night: NightFigures, refused: list[str]
) -> None:
    found = night.refusals(BOUNDS)
    assert [part in text for part, text in zip(refused, found, strict=True)] == [True] * len(found)


def test_what_too_few_products_are_beyond_is_overlooked_and_said() -> None:
    assert figures(products=9, abstained=9, compared=9, drift=0.9).overlooked(BOUNDS) == [
        "9 of 9 products (100.0%) would be withheld, above score.max_abstained_share = 50.0%",
        "the mix of categories over 9 products would move by 90.0%, above score.max_drift = 20.0%",
    ]
    assert figures().overlooked(BOUNDS) == []
    assert figures(abstained=51).overlooked(BOUNDS) == []
    assert figures(products=0, compared=0).overlooked(BOUNDS) == []

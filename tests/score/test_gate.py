"""What a night would change, counted and compared with its bounds."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from catalog_batch.score.gate import Bounds, Mix, NightFigures, count_night

DECISION_DDL = (
    "product_id string, decision string, category_id string, reason string, model_name string, "
    "model_version int"
)
BOUNDS = Bounds(max_abstained_share=0.5, max_drift=0.2, min_products=10)
NO_IMAGE = "no image"
"""Stands for the category of a product without an image."""


def decisions(
    spark: SparkSession, categories: Iterable[str | None], model_version: int = 1, first: int = 0
) -> DataFrame:
    """Make a decision for each of the products p0, p1, ...; None is withheld."""
    rows = []
    for number, given in enumerate(categories, start=first):
        category = None if given == NO_IMAGE else given
        decision = "accepted" if category else "abstained"
        reason = "no_usable_image" if given == NO_IMAGE else None
        reason = reason or (None if category else "low_confidence")
        rows.append((f"p{number}", decision, category, reason, "catalogue", model_version))
    return spark.createDataFrame(rows, DECISION_DDL)


def figures(foreign: int = 0, **changes: Any) -> NightFigures:
    mix = Mix(**{"products": 100, "abstained": 0, "compared": 100, "drift": 0.0, **changes})
    return NightFigures(whole=mix, made=Mix(), foreign=foreign)


def test_the_drift_is_the_least_share_of_products_that_must_have_changed(
    spark: SparkSession,
) -> None:
    before = decisions(spark, ["a", "a", "b", "b", None])
    after = decisions(spark, ["b", "a", "a", None, None])
    # Two changed places within the mix; it holds one b less and one withheld more.
    night = count_night(after, before, [])
    assert night.whole == Mix(products=5, abstained=2, compared=5, drift=0.2)
    assert night.withheld_before == 0.2


def test_products_without_a_decision_before_do_not_count_as_drift(spark: SparkSession) -> None:
    night = count_night(decisions(spark, ["a", "a", "b", None, "c"]), decisions(spark, "aa"), [])
    assert night.whole == Mix(products=5, abstained=1, compared=2, drift=0.0)
    assert (night.new, night.new_withheld) == (3, 1)


def test_a_first_night_has_no_drift(spark: SparkSession) -> None:
    night = count_night(decisions(spark, ["a", None]), decisions(spark, []), [])
    assert night.whole == night.made == Mix(products=2, abstained=1, compared=0, drift=0.0)
    assert (night.new, night.new_withheld, night.withheld_before) == (2, 1, 0.0)


def test_the_first_images_of_a_product_are_no_drift(spark: SparkSession) -> None:
    before = decisions(spark, [NO_IMAGE, NO_IMAGE, "a", "a"])
    night = count_night(decisions(spark, ["a", NO_IMAGE, "a", NO_IMAGE]), before, [])
    assert night.whole == Mix(products=4, abstained=2, compared=2, drift=0.5)
    assert (night.new, night.new_withheld, night.withheld_before) == (1, 0, 0.0)


def test_categories_outside_the_taxonomy_are_counted(spark: SparkSession) -> None:
    night = count_night(decisions(spark, ["a", "x", "x", None]), decisions(spark, []), ["a", "b"])
    assert night.foreign == 2


def test_products_that_were_not_decided_anew_count_as_they_are(spark: SparkSession) -> None:
    published = decisions(spark, ["a", "b", None, "a", "x"])
    anew, kept = decisions(spark, ["b"]), published.where("product_id != 'p0'")
    night = count_night(anew, published, ["a", "b"], kept)
    whole = count_night(decisions(spark, ["b", "b", None, "a", "x"]), published, ["a", "b"])
    assert night.whole == whole.whole == Mix(products=5, abstained=1, compared=5, drift=0.2)
    assert night.foreign == whole.foreign == 1
    assert night.made == Mix(products=1, abstained=0, compared=1, drift=1.0)


def test_a_slice_of_a_new_champion_is_looked_at_without_those_before(spark: SparkSession) -> None:
    """All products that it has scored are decided again with each slice."""
    older = decisions(spark, "aaaa", model_version=2)
    published = older.union(decisions(spark, "aaaa", model_version=1, first=4))
    night = count_night(decisions(spark, "aaaabb", model_version=2), published, [])
    assert night.whole == Mix(products=6, abstained=0, compared=6, drift=pytest.approx(1 / 3))
    assert night.made == Mix(products=2, abstained=0, compared=2, drift=1.0)


def test_of_many_published_products_a_few_new_ones_are_still_looked_at(
    spark: SparkSession,
) -> None:
    published = decisions(spark, ["a"] * 980 + [None] * 20)
    bad = decisions(spark, [None] * 10, first=1000)
    night = count_night(bad, published, [], kept=published)
    assert night.refusals(replace(BOUNDS, max_abstained_share=1)) == [
        "10 of 10 new products (100.0%) would be withheld, where 2.0% of the published are: more "
        "apart than score.max_drift = 0.2"
    ]
    assert night.refusals(replace(BOUNDS, max_drift=1)) == [
        "10 of 10 products that are decided anew (100.0%) would be withheld, above "
        "score.max_abstained_share = 0.5"
    ]
    changed = decisions(spark, "b" * 10)
    kept = published.join(changed, "product_id", "left_anti")
    assert count_night(changed, published, [], kept).refusals(BOUNDS) == [
        "the mix of categories over 10 products that are decided anew would move by 100.0%, above "
        "score.max_drift = 0.2"
    ]
    good = decisions(spark, [*"abcdefghij", NO_IMAGE], first=1000)
    assert count_night(good, published, [], kept=published).refusals(BOUNDS) == []


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
        "9 of 9 products (100.0%) would be withheld, above score.max_abstained_share = 0.5",
        "the mix of categories over 9 products would move by 90.0%, above score.max_drift = 0.2",
    ]
    assert figures().overlooked(BOUNDS) == []
    assert figures(abstained=51).overlooked(BOUNDS) == []
    assert figures(products=0, compared=0).overlooked(BOUNDS) == []

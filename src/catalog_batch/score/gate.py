"""Whether a night's decisions may be published: what would change, against bounds."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from catalog_batch.config import ScoreSettings
from catalog_batch.score.transforms import ABSTAINED, NO_USABLE_IMAGE

WITHHELD = "withheld"
"""Stands for the category of a product that has none."""


@dataclass(frozen=True)
class Bounds:
    """What the decisions of a run must keep to."""

    max_abstained_share: float
    max_drift: float
    min_products: int
    """Products below which no share says anything."""

    @classmethod
    def of(cls, settings: ScoreSettings) -> "Bounds":
        """Take them from the settings."""
        return cls(settings.max_abstained_share, settings.max_drift, settings.min_gate_products)


@dataclass(frozen=True)
class Mix:
    """Some products, and how their categories compare with those that are published."""

    products: int = 0
    abstained: int = 0
    compared: int = 0
    """Products that have a decision already, of an image."""

    drift: float = 0.0
    """Half the sum of the differences between the shares of categories before and after, over the
    products compared: the least share of them that must have changed."""

    def refusals(self, bounds: Bounds, of: str) -> list[str]:
        """Return which bounds are broken; ``of`` says which products these are."""
        found = []
        share = self.abstained / self.products if self.products else 0.0
        if self.products >= bounds.min_products and share > bounds.max_abstained_share:
            found.append(
                f"{self.abstained:,} of {self.products:,} {of} ({share:.1%}) would be "
                f"withheld, above score.max_abstained_share = {bounds.max_abstained_share:g}"
            )
        if self.compared >= bounds.min_products and self.drift > bounds.max_drift:
            found.append(
                f"the mix of categories over {self.compared:,} {of} would move by "
                f"{self.drift:.1%}, above score.max_drift = {bounds.max_drift:g}"
            )
        return found


@dataclass(frozen=True)
class NightFigures:
    """What a run would publish, counted."""

    whole: Mix
    """All products in scope, also those that keep the decision that they had."""

    made: Mix
    """Those whose decision is new: of a few among many, ``whole`` says nothing."""

    new: int = 0
    """Products with an image that had no decision, or none of an image."""

    new_withheld: int = 0
    withheld_before: float = 0.0
    """Share of the products compared whose category is withheld in what is published."""

    foreign: int = 0
    """Products whose category is in no tree that the warehouse knows them by."""

    def refusals(self, bounds: Bounds) -> list[str]:
        """Return what breaks a bound, for people; empty when all hold."""
        found = []
        if self.foreign:
            found.append(f"{self.foreign:,} products would get a category outside the taxonomy")
        found += self.whole.refusals(bounds, "products")
        if self.made != self.whole:
            found += self.made.refusals(bounds, "products that are decided anew")
        if min(self.new, self.whole.compared) >= max(bounds.min_products, 1):
            share = self.new_withheld / self.new
            if share - self.withheld_before > bounds.max_drift:
                found.append(
                    f"{self.new_withheld:,} of {self.new:,} new products ({share:.1%}) would be "
                    f"withheld, where {self.withheld_before:.1%} of the published are: more apart "
                    f"than score.max_drift = {bounds.max_drift:g}"
                )
        return found

    def overlooked(self, bounds: Bounds) -> list[str]:
        """Return what is beyond a bound, of too few products to be refused."""
        held_to = self.refusals(bounds)
        strict = self.refusals(replace(bounds, min_products=0))
        return [problem for problem in strict if problem not in held_to]


def count_night(
    decisions: DataFrame,
    published: DataFrame,
    known: Collection[str],
    kept: DataFrame | None = None,
) -> NightFigures:
    """Count what decisions would change.

    Args:
        decisions: That would be published.
        published: What is. A decision of no image is none to compare with: its product's first
            images are not a change of mind.
        known: Ids of all categories that decisions may have; with none of them no category is
            foreign.
        kept: Those of ``published`` that were as good as made again, and count as such. When there
            are none, those that this model had decided before do not count as made.
    """
    before = published.select(
        "product_id", _compared().alias("before"), _model().alias("model_before")
    )
    made = ~_model().eqNullSafe(F.col("model_before")) if kept is None else F.lit(True)
    pairs = decisions.join(before, "product_id", "left").select(
        "before", *_outcome(), made.alias("is_made")
    )
    if kept is not None:
        same = kept.select(_compared().alias("before"), *_outcome(), F.lit(False).alias("is_made"))
        pairs = pairs.unionByName(same)
    # As many rows as there are pairs of categories, whatever the number of products.
    counted = pairs.groupBy(*pairs.columns).agg(F.count("*").alias("products")).collect()
    compared = [pair for pair in counted if pair["before"] is not None]
    withheld = [pair for pair in compared if pair["before"] == WITHHELD]
    new = [pair for pair in counted if pair["before"] is None and pair["has_image"]]
    allowed = {WITHHELD, *known}
    return NightFigures(
        whole=_mix_of(counted),
        made=_mix_of([pair for pair in counted if pair["is_made"]]),
        new=_products(new),
        new_withheld=_products([pair for pair in new if pair["after"] == WITHHELD]),
        withheld_before=_products(withheld) / max(_products(compared), 1),
        foreign=_products([pair for pair in counted if known and pair["after"] not in allowed]),
    )


def _mix_of(pairs: Sequence[Row]) -> Mix:
    moves = Counter[str]()
    compared = [pair for pair in pairs if pair["before"] is not None]
    for pair in compared:
        moves[pair["before"]] -= pair["products"]
        moves[pair["after"]] += pair["products"]
    moved = sum(map(abs, moves.values())) / 2
    return Mix(
        products=_products(pairs),
        abstained=_products([pair for pair in pairs if pair["decision"] == ABSTAINED]),
        compared=_products(compared),
        drift=moved / _products(compared) if moved else 0.0,
    )


def _products(pairs: Sequence[Row]) -> int:
    return sum(pair["products"] for pair in pairs)


def _outcome() -> tuple[Column, ...]:
    return _category().alias("after"), F.col("decision"), _has_image().alias("has_image")


def _compared() -> Column:
    return F.when(_has_image(), _category())


def _category() -> Column:
    return F.coalesce(F.col("category_id"), F.lit(WITHHELD))


def _has_image() -> Column:
    return ~F.col("reason").eqNullSafe(NO_USABLE_IMAGE)


def _model() -> Column:
    return F.struct("model_name", "model_version")

"""Whether a night's decisions may be published: what would change, against bounds."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch.config import ScoreSettings
from catalog_batch.score.transforms import ABSTAINED

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
class NightFigures:
    """What a run would publish, counted."""

    products: int
    abstained: int
    compared: int
    """Products that have a decision already."""

    drift: float
    """Half the sum of the differences between the shares of categories before and after, over the
    products compared: the least share of them that must have changed."""

    foreign: int
    """Products whose category is in no tree that the warehouse knows them by."""

    def refusals(self, bounds: Bounds) -> list[str]:
        """Return what breaks a bound, for people; empty when all hold."""
        found = []
        if self.foreign:
            found.append(f"{self.foreign:,} products would get a category outside the taxonomy")
        share = self.abstained / self.products if self.products else 0.0
        if self.products >= bounds.min_products and share > bounds.max_abstained_share:
            found.append(
                f"{self.abstained:,} of {self.products:,} products ({share:.1%}) would be "
                f"withheld, above score.max_abstained_share = {bounds.max_abstained_share:.1%}"
            )
        if self.compared >= bounds.min_products and self.drift > bounds.max_drift:
            found.append(
                f"the mix of categories over {self.compared:,} products would move by "
                f"{self.drift:.1%}, above score.max_drift = {bounds.max_drift:.1%}"
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
        published: What is.
        known: Ids of all categories that decisions may have; with none of them no category is
            foreign.
        kept: Those of ``published`` that were as good as made again, and count as such.
    """
    before = published.select("product_id", _category().alias("before"))
    after = decisions.select("product_id", "decision", _category().alias("after"))
    paired = after.join(before, "product_id", "left").drop("product_id")
    if kept is not None:
        same = kept.select("decision", _category().alias("after"), _category().alias("before"))
        paired = paired.unionByName(same)
    # As many rows as there are pairs of categories, whatever the number of products.
    pairs = paired.groupBy("before", "after", "decision").count().collect()
    allowed = {WITHHELD, *known}
    mix = Counter[str]()
    totals = Counter[str]()
    for pair in pairs:
        products = int(pair["count"])
        totals["products"] += products
        totals["abstained"] += products * (pair["decision"] == ABSTAINED)
        totals["foreign"] += products * bool(known and pair["after"] not in allowed)
        if pair["before"] is not None:
            totals["compared"] += products
            mix[pair["before"]] -= products
            mix[pair["after"]] += products
    moved = sum(map(abs, mix.values())) / 2
    return NightFigures(
        products=totals["products"],
        abstained=totals["abstained"],
        compared=totals["compared"],
        drift=moved / totals["compared"] if moved else 0.0,
        foreign=totals["foreign"],
    )


def _category() -> Column:
    return F.coalesce(F.col("category_id"), F.lit(WITHHELD))

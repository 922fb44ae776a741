"""Which images a run scores, and which products it may decide."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch.errors import BadInputError
from catalog_batch.spans import within
from catalog_batch.tables import PRODUCT_IMAGES

DAY = 24 * 3600 * 1_000_000
"""In microseconds."""


@dataclass(frozen=True)
class Scope:
    """What of the catalogue a run may touch: all of it, unless it is narrowed."""

    max_images: int | None = None
    """Most images to score; the newest first, the rest is for the next run."""

    since: datetime | None = None
    """Only images that were stored at this time or later, UTC."""

    products: tuple[str, ...] | None = None
    """Only these products and their images."""

    rescore: bool = False
    """Score images again that the model has scored before, those of longest ago first."""

    shadow: bool = False
    """Write decisions beside the published ones, for comparison, and never among them."""

    failed: bool = False
    """Score only images again that the model could not score, those tried longest ago first."""

    @property
    def is_again(self) -> bool:
        """Whether images may have a prediction of the model already."""
        return self.rescore or self.failed

    @property
    def is_everything(self) -> bool:
        """Whether a run that leaves no image has done all there was to do."""
        return self.since is None and self.products is None and not (self.is_again or self.shadow)

    @property
    def is_only_new(self) -> bool:
        """Whether a run does nothing when one of everything has nothing to do.

        Named products are looked up all the same: nobody may know them.
        """
        return self.products is None and not (self.is_again or self.shadow)


def read_product_ids(path: Path) -> tuple[str, ...]:
    """Read a file with one product id a line; empty lines are passed over.

    Raises:
        BadInputError: When it cannot be read as UTF-8 text, or names no product.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"The list of products {str(path)!r} cannot be read: {error}. Give a text file with "
            "one product id a line."
        ) from error
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise BadInputError(
            f"The list of products {str(path)!r} is empty. Give one product id a line."
        )
    return found


def require_shadow(model: str, scope: Scope) -> None:
    """Check that a model which was not promoted is not published.

    Raises:
        BadInputError: For a challenger without ``shadow``.
    """
    if model.endswith("@challenger") and not scope.shadow:
        raise BadInputError(
            f"{model!r} was not promoted, and its predictions are not published. Give --shadow to "
            "score it beside the champion, or promote it first."
        )


def of_products(rows: DataFrame, products: Sequence[str] | None) -> DataFrame:
    """Keep the rows of some products; all of them for None."""
    if products is None:
        return rows
    session = rows.sparkSession
    named = session.createDataFrame([(each,) for each in products], "product_id string")
    return rows.join(F.broadcast(named), "product_id", "left_semi")


def select_images(
    images: DataFrame, links: DataFrame, scored: DataFrame, scope: Scope
) -> DataFrame:
    """Return the images in scope that a link shows, in the order they should be scored.

    No image's bytes are read.

    Args:
        images: With ``image_id`` and ``ingested_at``.
        links: Listed ones, of the products in scope.
        scored: The model's predictions.
        scope: Of the run; ``max_images`` is not applied here.

    Returns:
        ``image_id``, ``ingested_at``, and ``place``, by which the first ones sort first.
    """
    wanted = images.select("image_id", "ingested_at").join(links, "image_id", "left_semi")
    if scope.since is not None:
        wanted = wanted.where(F.col("ingested_at") >= F.lit(scope.since))
    if scope.failed:
        failed = scored.where("failure IS NOT NULL").select("image_id", "scored_at")
        place = F.unix_micros("scored_at")
        return wanted.join(failed, "image_id").withColumn("place", place).drop("scored_at")
    if not scope.rescore:
        wanted = wanted.join(scored.select("image_id"), "image_id", "left_anti")
        return wanted.withColumn("place", -F.unix_micros("ingested_at"))
    known = scored.select("image_id", "scored_at")
    # Those that were never scored sort before all that were.
    place = F.coalesce(F.unix_micros("scored_at"), F.lit(0))
    return wanted.join(known, "image_id", "left").withColumn("place", place).drop("scored_at")


def first_of(wanted: DataFrame, most: int) -> DataFrame:
    """Keep the first ``most`` of what ``select_images`` gave, the same ones each time."""
    return wanted.orderBy("place", F.desc("ingested_at"), "image_id").limit(most)


def count_by_day(wanted: DataFrame) -> dict[int, int]:
    """Count images by the day on which they came, in days since 1970; of ``select_images``."""
    day = F.floor(F.unix_micros("ingested_at") / DAY)
    return {row[0]: row[1] for row in wanted.groupBy(day.alias("day")).count().collect()}


def contents_of(images: DataFrame, wanted: DataFrame, days: Collection[int]) -> DataFrame:
    """Return the id, the time of storing and the content of wanted images.

    A night's images are in the newest files: of files without an image of the days on which those
    wanted came, not even the rows are looked at.

    Args:
        images: The table.
        wanted: What ``select_images`` gave, or a part of it; one image at the least.
        days: On which these came.
    """
    return (
        images.where(stored_on(days, F.col("ingested_at")))
        .select("image_id", "ingested_at", "content")
        .join(wanted.select("image_id"), "image_id", "left_semi")
    )


def stored_on(days: Collection[int], ingested_at: Column) -> Column:
    """Return whether an image came on one of these days, or of many between the first and last."""
    return within(ingested_at, [(day * DAY, (day + 1) * DAY) for day in days])


def changed_products(
    links: DataFrame,
    products: DataFrame,
    predictions: DataFrame,
    published: DataFrame,
    runs: Collection[str],
    links_before: DataFrame | None = None,
) -> DataFrame:
    """Return the ids of products to which some runs did anything, or to an image they show.

    Args:
        links: All, delisted ones too.
        products: All.
        predictions: The model's.
        published: Decisions: a run of other settings, or of another model, may have made some.
        runs: By which rows are stamped.
        links_before: All of before these runs, where some were deleted since.
    """
    is_theirs = F.col("run_id").isin([*runs])
    answered = predictions.where(is_theirs).select("image_id")
    found = [
        links.where(is_theirs),
        links.join(answered, "image_id", "left_semi"),
        products.where(is_theirs),
        published.where(is_theirs),
    ]
    if links_before is not None:
        found.append(links_before.join(links, [*PRODUCT_IMAGES.key], "left_anti"))
    return reduce(DataFrame.union, [rows.select("product_id") for rows in found]).distinct()


def unfinished_products(links: DataFrame, scored: DataFrame) -> DataFrame:
    """Return the ids of products that show an image without a prediction.

    What a model has seen half of is not decided by it: the other half may say something else.

    Args:
        links: Listed ones.
        scored: The model's predictions, failures among them.
    """
    return (
        links.join(scored.select("image_id"), "image_id", "left_anti")
        .select("product_id")
        .distinct()
    )

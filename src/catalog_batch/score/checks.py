"""What must hold of a night before it is published."""

import logging
from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import ScoreSettings
from catalog_batch.errors import GateRefusedError, ReconciliationError
from catalog_batch.runs import Run
from catalog_batch.score.gate import Bounds, count_night
from catalog_batch.warehouse import Warehouse

_SHARES = ("score.max_abstained_share", "score.max_drift")
_BESIDE_PUBLISHED = (
    "SELECT published.category_path AS was, refused.category_path AS would_be, refused.decision, "
    "count(*) AS products FROM parquet.`{}` AS refused LEFT JOIN product_predictions AS published "
    "ON published.product_id = refused.product_id GROUP BY 1, 2, 3 ORDER BY 4 DESC"
)

logger = logging.getLogger(__name__)


def check_calls(staged: DataFrame, pending: int, run: Run) -> int:
    """Return how many images failed, after making sure that each has just one row."""
    counted = staged.agg(
        F.count("*").alias("rows"),
        F.count_distinct("image_id").alias("images"),
        F.count("failure").alias("failed"),
        F.min("answered_at").alias("first_answer"),
    ).collect()[0]
    if not counted["rows"] == counted["images"] == pending:
        is_twice = counted["rows"] == pending > counted["images"]
        remedy = (
            "The table images has an id twice, as two ingests on two machines may leave it: look "
            "for image_id with count(*) > 1, and delete all rows but one."
            if is_twice
            else "Run again; if it repeats, report it as a bug."
        )
        raise ReconciliationError(
            f"{pending} images were to be scored, but {counted['rows']} rows for "
            f"{counted['images']} images came back. Nothing was published. {remedy}"
        )
    run.measures["start_up_seconds"] = round(
        counted["first_answer"] - run.started_at.timestamp(), 2
    )
    return int(counted["failed"])


def pass_failures(staged: DataFrame, failed: int, pending: int, settings: ScoreSettings) -> None:
    """Refuse a night of many failures: ingest has decoded each of these images before.

    The next run does not try them again, so it must be the images' fault and not the executor's. Of
    too few images to refuse them the log warns.
    """
    if failed <= settings.max_failed_share * pending:
        return
    counted = staged.where("failure IS NOT NULL").groupBy("failure").count().collect()
    reasons = ", ".join(f"{row['count']} {row['failure']}" for row in sorted(counted))
    problem = (
        f"{failed} of {pending} images could not be scored ({reasons}), and "
        f"score.max_failed_share is {settings.max_failed_share}. All were decoded when they were "
        "ingested: look at the executors' Pillow and at the model"
    )
    if pending < settings.min_gate_products:
        logger.warning(
            "%s. Not refused, for these are fewer images than score.min_gate_products = %d; "
            "catalog-batch score --failed scores them again.",
            problem,
            settings.min_gate_products,
        )
        return
    raise GateRefusedError(
        f"{problem}, or raise the bound with --set if this is meant. Nothing was published, and "
        "they are scored again by the next run."
    )


def check_decisions(decisions: DataFrame) -> int:
    """Return how many there are, after making sure that each product has just one row."""
    counted = decisions.agg(
        F.count("*").alias("rows"), F.count_distinct("product_id").alias("products")
    ).collect()[0]
    if counted["rows"] != counted["products"]:
        raise ReconciliationError(
            f"{counted['rows']} decisions were made for {counted['products']} products. Nothing "
            "was published. Run again; if it repeats, report it as a bug."
        )
    return int(counted["rows"])


def pass_gate(
    warehouse: Warehouse,
    decisions: DataFrame,
    kept: DataFrame | None,
    settings: ScoreSettings,
    run: Run,
) -> None:
    """Refuse decisions that would change too much, and keep them in staging for people to look at.

    Args:
        warehouse: With what is published.
        decisions: That would be published.
        kept: Rows of what is published that were as good as made again; None when all were made.
        settings: The bounds.
        run: Gets the drift as a measure.

    Raises:
        GateRefusedError: Naming each bound that is broken.
    """
    figures = count_night(
        decisions,
        warehouse.read(tables.PRODUCT_PREDICTIONS),
        known_categories(warehouse, decisions, kept),
        kept,
    )
    run.measures["drift"] = round(figures.whole.drift, 4)
    bounds = Bounds.of(settings)
    problems = figures.refusals(bounds)
    if not problems:
        if figures.whole.abstained == figures.whole.products > 0:
            logger.warning(
                "None of %d products gets a category: every decision is abstained. Look at its "
                "reasons, and at score.min_confidence: catalog-batch sql 'SELECT reason, count(*), "
                "avg(confidence) FROM product_predictions GROUP BY 1'",
                figures.whole.products,
            )
        for problem in figures.overlooked(bounds):
            logger.warning(
                "%s; not refused, for these are fewer products than score.min_gate_products = %d",
                problem,
                bounds.min_products,
            )
        return
    refused = warehouse.keep_staged(f"{run.run_id}-decisions", f"refused-{run.run_id}")
    raise GateRefusedError(
        f"{'; '.join(problems)}. No decision was published, the old ones are served. "
        f"{_remedy(problems, bool(figures.foreign))} Those refused are kept: catalog-batch sql "
        f"'{_BESIDE_PUBLISHED.format(refused)}'"
    )


def _remedy(problems: Sequence[str], is_foreign: bool) -> str:
    if is_foreign:
        return (
            "Score with a model that was trained on this warehouse's categories, or go back to "
            "one: catalog-batch rollback."
        )
    broken = [name for name in _SHARES if any(name in problem for problem in problems)]
    passing = " ".join(f"--set {name}=1" for name in broken)
    return (
        "Look at the model and at last night's images. If this is meant, let it pass this once: "
        f"catalog-batch score {passing}, with this model; what was scored is not scored again."
    )


def known_categories(
    warehouse: Warehouse, decisions: DataFrame, kept: DataFrame | None
) -> list[str]:
    """Return the ids of all categories of the newest tree, and of those that decisions are of.

    What was split or withdrawn is in an older tree alone, and keeps its category until it is scored
    by a model of the newest.
    """
    categories = warehouse.read_or_empty(tables.CATEGORIES)
    trees = [categories.agg(F.max("taxonomy_version").alias("taxonomy_version"))]
    trees += [rows.select("taxonomy_version") for rows in (decisions, kept) if rows is not None]
    wanted = F.broadcast(reduce(DataFrame.union, trees).distinct())
    known = categories.join(wanted, "taxonomy_version", "left_semi")
    return [row["category_id"] for row in known.select("category_id").distinct().collect()]

"""What became of a manifest: rows by outcome, figures of the pass, the gate before publishing."""

from collections import Counter
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch.config import IngestSettings
from catalog_batch.errors import ReconciliationError
from catalog_batch.ingest.policy import INGESTED, REJECTED, TO_DO, UNCHANGED
from catalog_batch.ingest.transforms import KEY


@dataclass(frozen=True)
class Delisting:
    """What a full manifest no longer names, beside what is listed before it."""

    products: int = 0
    images: int = 0
    listed_products: int = 0
    listed_images: int = 0

    @property
    def share(self) -> float:
        """The larger share of the two that would go."""
        return max(
            self.products / max(1, self.listed_products), self.images / max(1, self.listed_images)
        )


@dataclass(frozen=True)
class Outcomes:
    """Rows of the manifest by outcome."""

    ingested: int
    duplicate: int
    unchanged: int
    rejected: dict[str, int]
    repeated: int
    delisting: Delisting = Delisting()
    """What a full manifest no longer names: no rows of it."""

    measures: dict[str, float] = field(default_factory=dict, compare=False)
    """Bytes read and stored, images decoded, milliseconds of decoding at the median and 95 %."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows by outcome, the reasons of rejection added up."""
        return {
            "ingested": self.ingested,
            "duplicate": self.duplicate,
            "unchanged": self.unchanged,
            "repeated": self.repeated,
            "rejected": sum(self.rejected.values()),
        }

    @property
    def total(self) -> int:
        """All rows that have an outcome."""
        return sum(self.counts.values())


def count_plan(plan: DataFrame, repeated: int) -> dict[str, int]:
    """Count the rows of a plan by what is to be done, the reasons of rejection apart."""
    rows = plan.groupBy("outcome", "reason").count().collect()
    counts = Counter({TO_DO: 0, UNCHANGED: 0, REJECTED: 0, "repeated": repeated})
    for row in rows:
        counts[row["outcome"]] += row["count"]
    reasons = {row["reason"]: row["count"] for row in rows if row["reason"]}
    return {**counts, **dict(sorted(reasons.items()))}


def count_outcomes(outcomes: DataFrame, new_images: DataFrame, repeated: int) -> Outcomes:
    """Count rows by outcome and reason, and sum up the pass that decoded them."""
    counted = outcomes.groupBy("outcome", "reason").count().collect()
    by_outcome: Counter[str] = Counter()
    for row in counted:
        by_outcome[row["outcome"]] += row["count"]
    ingested = new_images.count()
    return Outcomes(
        ingested=ingested,
        duplicate=by_outcome[INGESTED] - ingested,
        unchanged=by_outcome[UNCHANGED],
        rejected={row["reason"]: row["count"] for row in counted if row["outcome"] == REJECTED},
        repeated=repeated,
    )


def measure_pass(decoded: DataFrame) -> dict[str, float]:
    """Return the figures of the pass that read and decoded images."""
    decode_ms = F.percentile_approx("decode_ms", [0.5, 0.95], 1000)
    row = decoded.select(
        F.count("decode_ms").alias("images_decoded"),
        F.sum("bytes_read").alias("bytes_read"),
        F.sum("stored_bytes").alias("bytes_encoded"),
        decode_ms[0].alias("decode_ms_p50"),
        decode_ms[1].alias("decode_ms_p95"),
    ).first()
    assert row is not None  # An aggregate over no rows is a row all the same.
    return {name: round(float(value or 0), 3) for name, value in row.asDict().items()}


def reconcile(outcomes: Outcomes, rows_in: int) -> None:
    """Check that every row of the manifest has an outcome.

    Raises:
        ReconciliationError: When it has not; nothing is published then.
    """
    if outcomes.total != rows_in:
        raise ReconciliationError(
            f"The manifest has {rows_in} rows, but {outcomes.total} have an outcome: {outcomes}. "
            "Nothing was published. Run again; if it repeats, report it as a bug."
        )


def require_each_key_once(rows: DataFrame, outcomes: DataFrame) -> None:
    """Check that the rows with an outcome are the rows of the manifest: none lost, none twice.

    Raises:
        ReconciliationError: When they are not; nothing is published then.
    """
    both = rows.select(*KEY, F.lit(1).alias("more")).unionByName(
        outcomes.select(*KEY, F.lit(-1).alias("more"))
    )
    odd = both.groupBy(*KEY).agg(F.sum("more").alias("more")).where("more <> 0").limit(5).collect()
    if odd:
        raise ReconciliationError(
            f"These rows have no outcome, or two: {[tuple(row)[:2] for row in odd]}. Nothing was "
            "published. Run again; if it repeats, report it as a bug."
        )


def gate_problem(outcomes: Outcomes, rows_in: int, settings: IngestSettings) -> str | None:
    """Say why these outcomes must not be published, or None."""
    rejected = outcomes.counts["rejected"]
    if rejected > settings.max_rejected_share * rows_in:
        return (
            f"{rejected:,} of {rows_in:,} rows are rejected ({rejected / rows_in:.0%}), more than "
            f"ingest.max_rejected_share = {settings.max_rejected_share:g} allows"
        )
    gone = outcomes.delisting
    if gone.share > settings.max_delisted_share:
        return (
            f"The full manifest would delist {gone.products:,} of {gone.listed_products:,} "
            f"products and {gone.images:,} of {gone.listed_images:,} images, more than "
            f"ingest.max_delisted_share = {settings.max_delisted_share:g} allows: was it cut short?"
        )
    return None

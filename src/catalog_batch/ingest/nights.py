"""The order of nights: which manifest is newer, and which columns the one before had."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.drift import check_drift
from catalog_batch.ingest.sources import shown_uri


@dataclass(frozen=True)
class Night:
    """A manifest's place among those that were ingested."""

    night: date
    uri: str
    """Where the manifest was read, without anything secret."""

    is_full: bool
    is_late: bool
    """A newer night was ingested: what is known is newer than what this manifest says of it."""

    is_behind_full: bool
    """A newer full manifest was ingested: what it did not name is delisted already."""

    was_full: bool = False
    """This manifest was ingested before, as a full one."""

    garbled_rows: int = 0
    """Rows that could not be parsed: nobody knows what they name."""

    @property
    def delists(self) -> bool:
        """Whether what the manifest does not name is delisted."""
        return self.is_full and not self.is_late and not self.garbled_rows


def choose_night(past: DataFrame, named: date | None, today: date) -> date:
    """Return the night that was named, or else today.

    Unless named, a night is never late: a clock that was ahead yesterday must not make all that
    comes today seem old.

    Raises:
        ManifestError: When the named night lies in the future: all that comes until then would be
            late.
    """
    if named is None:
        newest = past.agg(F.max("night")).first()
        return max(today, newest[0]) if newest and newest[0] else today
    if named > today + timedelta(days=1):
        raise ManifestError(
            f"--night {named} lies in the future: every manifest until then would count as late. "
            f"Today is {today}."
        )
    return named


def place_night(past: DataFrame, night: date, uri: str, *, is_full: bool) -> Night:
    """Find the place of a manifest among ``manifests``."""
    shown = shown_uri(uri)
    is_newer = F.col("night") > F.lit(night)
    is_same = (F.col("night") == F.lit(night)) & (F.col("uri") == shown)
    row = past.agg(
        F.count_if(is_newer).alias("newer"),
        F.count_if(is_newer & F.col("is_full")).alias("newer_full"),
        F.count_if(is_same & F.col("is_full")).alias("same_full"),
    ).first()
    assert row is not None  # An aggregate over no rows is a row all the same.
    return Night(
        night, shown, is_full, row["newer"] > 0, row["newer_full"] > 0, row["same_full"] > 0
    )


def check_columns(past: DataFrame, night: date, columns: Mapping[str, str]) -> None:
    """Hold a manifest's columns against those of the newest one up to its night.

    Raises:
        ManifestError: When a known column is gone or has another type, with the difference.
    """
    earlier = past.where(F.col("night") <= F.lit(night))
    newest = earlier.orderBy(F.desc("night"), F.desc("accepted_at")).select("columns").first()
    check_drift(newest["columns"] if newest else None, columns)

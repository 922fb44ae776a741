"""The order of nights: which manifest is newer, and which columns the one before had."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit, urlunsplit

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch.ingest.drift import check_drift


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


def place_night(past: DataFrame, night: date, uri: str, *, is_full: bool) -> Night:
    """Find the place of a manifest among ``manifests``."""
    newer = past.where(F.col("night") > F.lit(night))
    row = newer.agg(F.count("*").alias("all"), F.count_if("is_full").alias("full")).first()
    assert row is not None  # An aggregate over no rows is a row all the same.
    return Night(night, without_secrets(uri), is_full, row["all"] > 0, row["full"] > 0)


def check_columns(past: DataFrame, columns: Mapping[str, str]) -> None:
    """Hold a manifest's columns against those of the newest one that was ingested.

    Raises:
        ManifestError: When a known column is gone or has another type, with the difference.
    """
    newest = past.orderBy(F.desc("night"), F.desc("accepted_at")).select("columns").first()
    check_drift(newest["columns"] if newest else None, columns)


def without_secrets(uri: str) -> str:
    """Return a location without user, password and query."""
    if "://" not in uri:
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

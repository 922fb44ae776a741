"""Look at every image of a manifest without opening one: what is known already, what is to do?"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from catalog_batch.imaging import Reason, Rejection
from catalog_batch.import_path import forget_archives
from catalog_batch.ingest.policy import REJECTED, TO_DO, UNCHANGED, SourcePolicy
from catalog_batch.ingest.reading import read_ahead
from catalog_batch.ingest.sources import ImageRoot, SourceFile

# Columns that with_look reads.
INPUT_COLUMNS = (
    "product_id",
    "source_uri",
    "sha256",
    "defect",
    "content_file",
    "content_row",
    "known_image_id",
    "known_reason",
    "known_attempts",
    "known_sha256",
    "known_bytes",
    "known_modified_at",
    "refused_bytes",
    "refused_modified_at",
)
PLAN_SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("source_uri", pa.string()),
        ("outcome", pa.string()),
        ("attempts", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source_bytes", pa.int64()),
        ("source_modified_at", pa.timestamp("us", "UTC")),
        ("image_id", pa.string()),
        ("sha256", pa.string()),
        ("known_image_id", pa.string()),
        ("known_attempts", pa.int32()),
        ("path", pa.string()),
        ("member", pa.string()),
        ("content_file", pa.string()),
        ("content_row", pa.int64()),
    ]
)
_ROWS_PER_BATCH = 1000


def with_look(rows: DataFrame, policy: SourcePolicy) -> DataFrame:
    """Tell what is to do for every row; one row out for each row in.

    Args:
        rows: Frame with ``INPUT_COLUMNS``.
        policy: Where images lie and how large they may be.

    Returns:
        Frame with the columns of ``PLAN_SCHEMA``. ``outcome`` is ``unchanged``, ``rejected`` or
        ``to_do``; ``attempts`` is null where an earlier rejection is merely remembered.
    """
    return rows.select(*INPUT_COLUMNS).mapInArrow(
        partial(look_at_batches, policy), from_arrow_schema(PLAN_SCHEMA)
    )


def look_at_batches(
    policy: SourcePolicy, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Look at the rows of Arrow batches, several at once where the storage is remote."""
    forget_archives()
    root = ImageRoot(policy.root)
    rows = (row for batch in batches for row in batch.to_pylist())
    in_flight = 1 if root.is_local else policy.reads_in_flight
    plans = (
        plan
        for _, plan in read_ahead(
            rows, lambda _: 0, lambda row: look_at(row, root, policy), in_flight, 1
        )
    )
    while chunk := list(islice(plans, _ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(chunk, schema=PLAN_SCHEMA)


def look_at(row: dict[str, Any], root: ImageRoot, policy: SourcePolicy) -> dict[str, Any]:
    """Return the plan for one manifest row, as a row of ``PLAN_SCHEMA``."""
    plan = {name: row[name] for name in _CARRIED}
    if row["defect"]:
        return plan | _rejected(Rejection(Reason.BAD_ROW, row["defect"]), row, None)
    if row["known_image_id"] and (
        policy.only_new or row["known_image_id"] == _lower(row["sha256"])
    ):
        # The manifest itself says that these are the bytes that are stored, or is older than them.
        return plan | _unchanged(row)
    if row["content_file"]:
        return plan | {"outcome": TO_DO}
    file = root.find(row["source_uri"])
    if isinstance(file, Rejection):
        return plan | _rejected(file, row, None)
    # A plain file that was found had only been away, though its size and time are the same.
    was_away = row["known_reason"] in (Reason.MISSING, Reason.OUTSIDE_ROOT) and not file.member
    is_known = row["known_reason"] and not was_away
    if is_known and _is_refused_file(row, file) and _is_remembered(row, policy):
        remembered = Rejection(Reason(row["known_reason"]), "")
        return plan | _rejected(remembered, row, file) | {"attempts": None}
    if row["known_image_id"] and _is_shown_file(row, file) and not row["sha256"]:
        return plan | _unchanged(row)
    if file.size is not None and file.size > policy.max_source_bytes:
        return plan | _rejected(Rejection(Reason.TOO_LARGE, f"{file.size} bytes"), row, file)
    return plan | _located(file) | {"outcome": TO_DO, "path": file.path, "member": file.member}


_CARRIED = (
    "product_id",
    "source_uri",
    "sha256",
    "known_image_id",
    "known_attempts",
    "content_file",
    "content_row",
)


def _lower(checksum: str | None) -> str | None:
    return checksum.lower() if checksum else None


def _is_remembered(row: dict[str, Any], policy: SourcePolicy) -> bool:
    is_same_checksum = _lower(row["sha256"]) == _lower(row["known_sha256"])
    return is_same_checksum and row["known_reason"] not in policy.retried


def _is_shown_file(row: dict[str, Any], file: SourceFile) -> bool:
    """Tell whether it is the file whose image is stored."""
    return _is_file(file, row["known_bytes"], row["known_modified_at"])


def _is_refused_file(row: dict[str, Any], file: SourceFile) -> bool:
    """Tell whether it is the file that was rejected."""
    return _is_file(file, row["refused_bytes"], row["refused_modified_at"])


def _is_file(file: SourceFile, size: int | None, modified_at: datetime | None) -> bool:
    # The size of a shard's member is not known before the shard is opened.
    return file.size in (None, size) and modified_at == file.modified_at


def _unchanged(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "outcome": UNCHANGED,
        "image_id": row["known_image_id"],
        "source_bytes": row["known_bytes"],
        "source_modified_at": row["known_modified_at"],
    }


def _rejected(rejection: Rejection, row: dict[str, Any], file: SourceFile | None) -> dict[str, Any]:
    # The same finding about the same file, or about none, is no new attempt.
    is_same_file = file is None or _is_refused_file(row, file)
    is_same_finding = is_same_file and row["known_reason"] == rejection.reason
    return _located(file) | {
        "outcome": REJECTED,
        "attempts": None if is_same_finding else (row["known_attempts"] or 0) + 1,
        "reason": str(rejection.reason),
        "detail": rejection.detail,
    }


def _located(file: SourceFile | None) -> dict[str, Any]:
    if file is None:
        return {"source_bytes": None, "source_modified_at": None}
    return {"source_bytes": file.size, "source_modified_at": file.modified_at}

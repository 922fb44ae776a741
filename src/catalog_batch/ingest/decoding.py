"""The part of ingest that runs on the executors: locate, read, check and decode each image."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from catalog_batch.imaging import DecodePolicy, Reason, Rejection, StoredImage, decode_image
from catalog_batch.ingest.sources import ImageRoot, SourceFile

STORED = "stored"
UNCHANGED = "unchanged"
REJECTED = "rejected"

# Columns that with_outcomes reads, and what it returns.
INPUT_COLUMNS = (
    "product_id",
    "source_uri",
    "sha256",
    "defect",
    "known_image_id",
    "known_reason",
    "known_attempts",
    "known_bytes",
    "known_modified_at",
)
_OUTPUT = pa.schema(
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
        ("content", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_format", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("is_animated", pa.bool_()),
    ]
)
OUTPUT_DDL = (
    "product_id string, source_uri string, outcome string, attempts int, reason string, "
    "detail string, source_bytes bigint, source_modified_at timestamp, image_id string, "
    "content binary, width int, height int, source_format string, source_width int, "
    "source_height int, is_animated boolean"
)
_ROWS_PER_BATCH = 64
# Found in a file's content, and so found again until the file changes. All else may change while
# size and time stay: a permission, the manifest's checksum, the sizes allowed.
_LASTING_REASONS = frozenset(
    {
        Reason.EMPTY,
        Reason.NOT_AN_IMAGE,
        Reason.FORMAT_NOT_ALLOWED,
        Reason.TRUNCATED,
        Reason.UNDECODABLE,
    }
)


@dataclass(frozen=True)
class SourcePolicy:
    """What is read, and how it is decoded."""

    root: str
    max_source_bytes: int
    decode: DecodePolicy


def with_outcomes(rows: DataFrame, policy: SourcePolicy) -> DataFrame:
    """Give every row its outcome, and a stored row its image; one row out for each row in.

    Args:
        rows: Frame with ``INPUT_COLUMNS``.
        policy: Where images are read and what is accepted.

    Returns:
        Frame with the columns of ``OUTPUT_DDL``. ``content`` is null unless stored; ``attempts`` is
        null unless the image was tried and rejected now, rather than remembered from before.
    """
    return rows.select(*INPUT_COLUMNS).mapInArrow(partial(process_batches, policy), OUTPUT_DDL)


def process_batches(
    policy: SourcePolicy, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Process Arrow batches lazily; the root is opened once for the whole partition."""
    root = ImageRoot(policy.root)
    rows = (row for batch in batches for row in batch.to_pylist())
    outcomes = (outcome_of(row, root, policy) for row in rows)
    while chunk := list(islice(outcomes, _ROWS_PER_BATCH)):
        yield pa.RecordBatch.from_pylist(chunk, schema=_OUTPUT)


def outcome_of(row: dict[str, Any], root: ImageRoot, policy: SourcePolicy) -> dict[str, Any]:
    """Return the outcome of one manifest row, as a row of ``OUTPUT_DDL``."""
    result = {"product_id": row["product_id"], "source_uri": row["source_uri"]}
    if row["defect"]:
        return result | _rejected(Rejection(Reason.BAD_ROW, row["defect"]), row, None)
    file = root.find(row["source_uri"])
    if isinstance(file, Rejection):
        return result | _rejected(file, row, None)
    if _is_known(row, file):
        return result | _remembered(row, file)
    return result | _fresh(row, file, root, policy)


def _is_known(row: dict[str, Any], file: SourceFile) -> bool:
    """Return whether the file is the one that an earlier run has dealt with."""
    if not _is_same_file(row, file):
        return False
    if row["known_reason"] and row["known_reason"] not in _LASTING_REASONS:
        return False
    expected = row["sha256"]
    return not (expected and row["known_image_id"] and expected.lower() != row["known_image_id"])


def _is_same_file(row: dict[str, Any], file: SourceFile) -> bool:
    is_same_size = row["known_bytes"] is not None and row["known_bytes"] == file.size
    return is_same_size and row["known_modified_at"] == file.modified_at


def _remembered(row: dict[str, Any], file: SourceFile) -> dict[str, Any]:
    if row["known_reason"]:
        rejection = Rejection(Reason(row["known_reason"]), "")
        return _rejected(rejection, row, file) | {"attempts": None}
    return _located(file) | {"outcome": UNCHANGED, "image_id": row["known_image_id"]}


def _fresh(
    row: dict[str, Any], file: SourceFile, root: ImageRoot, policy: SourcePolicy
) -> dict[str, Any]:
    if file.size > policy.max_source_bytes:
        return _rejected(Rejection(Reason.TOO_LARGE, f"{file.size} bytes"), row, file)
    content = root.read(file)
    if isinstance(content, Rejection):
        return _rejected(content, row, file)
    # What was read counts, should the file have changed since it was found.
    file = replace(file, size=len(content))
    image_id = hashlib.sha256(content).hexdigest()
    expected = (row["sha256"] or image_id).lower()
    if expected != image_id:
        detail = f"manifest says {expected[:12]}, the bytes have {image_id[:12]}"
        return _rejected(Rejection(Reason.CHECKSUM_MISMATCH, detail), row, file)
    if image_id == row["known_image_id"]:
        # Touched, copied or uploaded again: other time, same bytes.
        return _located(file) | {"outcome": UNCHANGED, "image_id": image_id}
    decoded = decode_image(content, policy.decode)
    if isinstance(decoded, Rejection):
        return _rejected(decoded, row, file)
    return _stored(decoded, image_id, file)


def _stored(image: StoredImage, image_id: str, file: SourceFile) -> dict[str, Any]:
    return _located(file) | {"outcome": STORED, "image_id": image_id, **vars(image)}


def _rejected(rejection: Rejection, row: dict[str, Any], file: SourceFile | None) -> dict[str, Any]:
    # The same finding about the same file, or about none, is no new attempt.
    is_same_file = file is None or _is_same_file(row, file)
    is_same_finding = is_same_file and row["known_reason"] == rejection.reason
    return _located(file) | {
        "outcome": REJECTED,
        "attempts": None if is_same_finding else (row["known_attempts"] or 0) + 1,
        "reason": str(rejection.reason),
        "detail": rejection.detail,
    }


def _located(file: SourceFile | None) -> dict[str, int | datetime | None]:
    if file is None:
        return {"source_bytes": None, "source_modified_at": None}
    return {"source_bytes": file.size, "source_modified_at": file.modified_at}

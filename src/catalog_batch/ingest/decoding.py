"""The part of ingest that opens images: read, check, decode and measure, in a killable child."""

import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from catalog_batch.imaging import Reason
from catalog_batch.import_path import forget_archives
from catalog_batch.ingest.decoder import Task, rejection, start_decoder
from catalog_batch.ingest.isolation import IsolatedWorker, Limits, Lost
from catalog_batch.ingest.policy import REJECTED, SourcePolicy
from catalog_batch.ingest.sources import SourceFile
from catalog_batch.ingest.staged_images import StagedImages

OUTCOME_SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("source_uri", pa.string()),
        ("outcome", pa.string()),
        ("attempts", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source_bytes", pa.int64()),
        ("source_modified_at", pa.timestamp("us", "UTC")),
        ("bytes_read", pa.int64()),
        ("image_id", pa.string()),
        ("stored_bytes", pa.int64()),
        ("decode_ms", pa.float64()),
        ("staged_file", pa.string()),
    ]
)
OUTCOME_TYPE = from_arrow_schema(OUTCOME_SCHEMA)

_T = TypeVar("_T")


def with_outcomes(rows: DataFrame, policy: SourcePolicy, staging: str) -> DataFrame:
    """Read and decode every row of a plan that is to do; one narrow row out for each row in.

    Args:
        rows: Rows of ``looking.PLAN_SCHEMA`` with the outcome ``to_do``.
        policy: Where images are read and what is accepted.
        staging: Folder or URI; the stored images of a task become one Parquet file there.

    Returns:
        Frame with the columns of ``OUTCOME_SCHEMA``; ``staged_file`` names the file that holds the
        image of an ingested row.
    """
    return rows.mapInArrow(partial(process_batches, policy, staging), OUTCOME_TYPE)


def process_batches(
    policy: SourcePolicy, staging: str, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Decode the rows of Arrow batches; images go to a file, what was found of them is yielded."""
    forget_archives()
    rows = (row for batch in batches for row in batch.to_pylist())
    # An attempt that fails leaves a file that no row names.
    with StagedImages(f"{staging}/{uuid.uuid4().hex}.parquet") as staged:
        for chunk in _chunks(decoded_rows(rows, decoder(policy), policy), policy.batch_images):
            staged.add([row for row in chunk if row["content"]])
            narrow = [
                {**row, "staged_file": staged.uri if row["content"] else None} for row in chunk
            ]
            yield pa.RecordBatch.from_pylist(narrow, schema=OUTCOME_SCHEMA)


@lru_cache(maxsize=1)
def decoder(policy: SourcePolicy) -> IsolatedWorker[Task, dict[str, Any]]:
    """Return this process's child; Spark uses its Python workers, and so the child, again."""
    limits = Limits(
        memory_bytes=policy.decoder_memory_mib * 2**20,
        cpu_seconds=policy.image_cpu_seconds,
        wall_seconds=policy.batch_wall_seconds,
    )
    return IsolatedWorker(partial(start_decoder, policy), limits)


def decoded_rows(
    rows: Iterable[dict[str, Any]],
    worker: IsolatedWorker[Task, dict[str, Any]],
    policy: SourcePolicy,
) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each row of a plan, in order, with ``content`` for an ingested one."""
    waiting: list[dict[str, Any]] = []

    def batches() -> Iterator[list[Task]]:
        for chunk in _chunks(rows, policy.batch_images):
            waiting.extend(chunk)
            yield [_task(row) for row in chunk]

    for _, found in worker.map(batches()):
        row = waiting.pop(0)
        result = (
            rejection(Reason(found.failure), found.detail) if isinstance(found, Lost) else found
        )
        yield _outcome(row, result)


def _outcome(row: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Put what was found beside what the plan knew of the row."""
    is_rejected = found["outcome"] == REJECTED
    known = {
        "product_id": row["product_id"],
        "source_uri": row["source_uri"],
        "source_bytes": row["source_bytes"],
        "source_modified_at": row["source_modified_at"],
        "attempts": _attempts(row) if is_rejected else None,
        "content": None,
    }
    return known | found


def _attempts(row: dict[str, Any]) -> int:
    known: int = row["known_attempts"] or 0
    # Inline bytes are read to be known at all: reading the same ones again is no new attempt.
    return max(known, 1) if row["content_file"] else known + 1


def _task(row: dict[str, Any]) -> Task:
    file = None
    if row["content_file"] is None:
        size, modified_at = row["source_bytes"], row["source_modified_at"]
        file = SourceFile(row["path"], size, modified_at, row["member"])
    return Task(
        file,
        row["content_file"],
        row["content_row"],
        row["sha256"],
        row["known_image_id"],
        row["source_modified_at"],
    )


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk

"""Small tables written without a JVM: ``run_log`` and ``models``.

Training has no Spark session, and one row does not deserve one. The tables themselves are created
by the first Spark job from the same DDL as all others.
"""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from catalog_batch.errors import LockHeldError, MissingTableError


def exists(root: str, table: str) -> bool:
    """Return whether the warehouse at ``root`` has the table."""
    return DeltaTable.is_deltatable(f"{root}/{table}")


def upsert_rows(
    root: str, table: str, key: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """MERGE rows by key into a table; columns that a row does not name become null.

    Raises:
        MissingTableError: When no Spark job has created the table yet.
    """
    if not exists(root, table):
        raise MissingTableError(
            f"Table {table!r} is not in the warehouse {root!r}. "
            "Run ingest first, or check --warehouse."
        )
    with held_lock(lock_folder(root) / f"table-{table}.lock", wait=True):
        target = DeltaTable(f"{root}/{table}")
        schema = pa.schema(target.schema().to_arrow())
        batch = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        (
            target.merge(
                batch,
                " AND ".join(f"target.{name} = source.{name}" for name in key),
                source_alias="source",
                target_alias="target",
            )
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute()
        )


def lock_folder(root: str) -> Path:
    """Return the folder of lock files: in the warehouse, or beside the user's cache for a URI.

    A lock file only keeps processes of one machine apart. On an object store the scheduler must see
    to it that a job does not run twice at a time.
    """
    if "://" not in root or root.startswith("file://"):
        return Path(root.removeprefix("file://")) / "_locks"
    return Path.home() / ".cache" / "catalog-batch" / "locks" / root.replace("/", "_")


@contextmanager
def held_lock(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system releases it when the process dies.

    Raises:
        LockHeldError: When another process holds it and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LockHeldError(
                f"Another run holds {str(path)!r}. Wait until it ends; the lock goes with its "
                "process."
            ) from error
        yield

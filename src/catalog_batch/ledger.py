"""Tables without a JVM: what their logs tell, and small ones that are written.

Those are ``run_log``, ``models`` and what evaluation found.

Training has no Spark session, and one row does not deserve one. The tables themselves are created
by the first Spark job from the same DDL as all others.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from pyarrow.fs import FileType

from catalog_batch.errors import LockHeldError, MissingTableError
from catalog_batch.locations import plain_path


def exists(root: str, table: str) -> bool:
    """Return whether the warehouse at ``root`` has the table."""
    return DeltaTable.is_deltatable(f"{root}/{table}")


def require(root: str, table: str) -> None:
    """Refuse a warehouse without a table.

    Raises:
        MissingTableError: Naming both.
    """
    if not exists(root, table):
        raise MissingTableError(
            f"Table {table!r} is not in the warehouse {root!r}. "
            "Run ingest first, or check --warehouse."
        )


def table_version(root: str, table: str) -> int | None:
    """Return the newest version of a table, None when it has not been created."""
    if not exists(root, table):
        return None
    return DeltaTable(f"{root}/{table}").version()


def last_stamp(root: str, table: str) -> dict[str, str]:
    """Return what a table's newest commit was stamped with, empty when it was not by us."""
    [commit] = DeltaTable(f"{root}/{table}").history(1)
    return stamp_of(commit)


def is_empty(root: str, table: str) -> bool:
    """Return whether a table has no file of rows, or is not there."""
    return not (exists(root, table) and DeltaTable(f"{root}/{table}").file_uris())


def bytes_per_row(root: str, table: str, version: int | None = None) -> int:
    """Return the mean size of a row in the files of a table; where its log counts none, of all."""
    files = pa.table(DeltaTable(f"{root}/{table}", version).get_add_actions(flatten=True))
    rows, size = pc.sum(files["num_records"]).as_py(), pc.sum(files["size_bytes"]).as_py()
    return int(size or 0) // max(rows or 0, 1)


_KEEPS_ROWS = {"OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "ADD COLUMNS"}


@dataclass(frozen=True)
class Writes:
    """Who wrote a table's rows after a version; those they inserted or changed bear their stamp."""

    runs: frozenset[str] = frozenset()
    jobs: frozenset[str] = frozenset()
    has_deleted: bool = False
    """Whether some deleted rows, of which only the version before tells."""


def writes_since(root: str, table: str, version: int) -> Writes | None:
    """Return who inserted, changed or deleted rows after a version.

    None where the log does not tell: a commit without a stamp, rows that were replaced, or a log
    that no longer goes back so far.
    """
    source = DeltaTable(f"{root}/{table}")
    later = range(version + 1, source.version() + 1)
    commits = source.history(len(later)) if later else []
    if source.version() < version or [c["version"] for c in reversed(commits)] != [*later]:
        return None
    written = [commit for commit in commits if commit["operation"] not in _KEEPS_ROWS]
    stamps = [stamp_of(commit) for commit in written]
    if not all(map(_is_by_row, written)) or not all("run_id" in stamp for stamp in stamps):
        return None
    return Writes(
        frozenset(stamp["run_id"] for stamp in stamps),
        frozenset(stamp.get("job", "") for stamp in stamps),
        has_deleted=any(map(_rows_deleted, written)),
    )


def _is_by_row(commit: Mapping[str, Any]) -> bool:
    if commit["operation"] == "MERGE":
        return _rows_deleted(commit) is not None
    return bool(commit.get("operationParameters", {}).get("mode") == "Append")


def _rows_deleted(commit: Mapping[str, Any]) -> int | None:
    deleted = commit.get("operationMetrics", {}).get("numTargetRowsDeleted")
    return None if deleted is None else int(deleted)


def is_readable(root: str, table: str, version: int) -> bool:
    """Return whether an earlier version is there, its log and all its files, as until a VACUUM."""
    try:
        then = DeltaTable(f"{root}/{table}", version=version).to_pyarrow_dataset()
    except DeltaError:
        return False
    return all(file.type == FileType.File for file in then.filesystem.get_file_info(then.files))


def stamp_of(commit: Mapping[str, Any]) -> dict[str, str]:
    """Return what a commit of a table's history was stamped with, empty when not by us."""
    try:
        stamp = json.loads(commit.get("userMetadata") or "{}")
    except json.JSONDecodeError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def find_rows(
    root: str, table: str, columns: Sequence[str], values: Mapping[str, str | int]
) -> Iterator[dict[str, Any]]:
    """Yield columns of the rows with these values by column; none when a column is missing."""
    if not exists(root, table):
        return
    source = DeltaTable(f"{root}/{table}")
    schema = pa.schema(source.schema().to_arrow())
    if not {*columns, *values} <= set(schema.names):
        return
    asked = pa.schema([schema.field(column) for column in dict.fromkeys((*columns, *values))])
    yield from _stored_rows(source, asked, values)


def append_rows(root: str, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a table; columns that a row does not name become null.

    Raises:
        MissingTableError: When no Spark job has created the table yet.
    """
    with _locked_table(root, table) as target:
        write_deltalake(target, _as_arrow(rows, target), mode="append")


def replace_rows(
    root: str,
    table: str,
    rows: Sequence[Mapping[str, Any]],
    among: Mapping[str, str | int] | None = None,
) -> bool:
    """Make the table hold just these rows; return whether it held others, in any order.

    Args:
        root: Of the warehouse.
        table: Its name.
        rows: All that it shall hold.
        among: Values by column: rows with other values stay as they are.

    Raises:
        MissingTableError: When no Spark job has created the table yet.
    """
    equals = among or {}
    with _locked_table(root, table) as target:
        wanted = _as_arrow(rows, target)
        stored = [*_stored_rows(target, wanted.schema, equals)]
        # OPTIMIZE may have changed the order of a table's rows.
        if sorted(stored, key=repr) == sorted(wanted.to_pylist(), key=repr):
            return False
        predicate = " AND ".join(f"{name} = {_literal(value)}" for name, value in equals.items())
        write_deltalake(target, wanted, mode="overwrite", predicate=predicate or None)
        return True


@contextmanager
def _locked_table(root: str, table: str) -> Iterator[DeltaTable]:
    require(root, table)
    with held_lock(lock_folder(root) / f"table-{table}.lock", wait=True):
        yield DeltaTable(f"{root}/{table}")


def _as_arrow(rows: Sequence[Mapping[str, Any]], target: DeltaTable) -> pa.Table:
    schema = pa.schema(target.schema().to_arrow())
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _stored_rows(
    source: DeltaTable, schema: pa.Schema, equals: Mapping[str, str | int]
) -> Iterator[dict[str, Any]]:
    # By the store that delta-rs read the log from: pyarrow's own knows no s3a.
    rows = source.to_pyarrow_dataset(schema=schema)
    conditions = [pc.field(column) == value for column, value in equals.items()]
    wanted = reduce(and_, conditions) if conditions else None
    for batch in rows.to_batches(filter=wanted):
        yield from batch.to_pylist()


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def lock_folder(root: str) -> Path:
    """Return the folder of lock files: in the warehouse, or beside the user's cache for a URI.

    A lock file only keeps processes of one machine apart. On an object store the scheduler must see
    to it that a job does not run twice at a time.
    """
    if "://" not in root or root.startswith("file://"):
        return Path(plain_path(root)) / "_locks"
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

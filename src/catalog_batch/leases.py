"""Leases: files by which readers of old table versions keep VACUUM from deleting them.

A training run reads one version for hours or days, without a lock that would keep the next build
of the table out. It leaves ``_leases/<table>-<holder>.json`` in the warehouse instead, says again
with every epoch that it is alive, and takes the file away at the end. A holder that died keeps its
lease until the time in the file.

Leases are written into folders alone, mounted ones included: training cannot read its table from
anywhere else. They are read wherever pyarrow reads, so that a bucket's maintenance heeds the
leases of trainings that have it mounted.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pyarrow import fs

from catalog_batch import ledger
from catalog_batch.errors import BadInputError
from catalog_batch.locations import plain_path
from catalog_batch.runs import Clock

logger = logging.getLogger(__name__)

FOLDER = "_leases"


@dataclass(frozen=True)
class Lease:
    """Who reads which version of a table, and until when its files must stay."""

    table: str
    holder: str
    version: int | None
    """None stands for whichever version was the newest when the holder began."""

    until: datetime | None
    """None when the file cannot be read: the lease holds until somebody removes it."""

    def is_live(self, now: datetime) -> bool:
        """Return whether the table's files must stay; on doubt they do."""
        return self.until is None or now < self.until


@contextmanager
def held_lease(
    root: str, table: str, version: int | None, holder: str, hours: float, clock: Clock
) -> Iterator[Callable[[], None]]:
    """Hold a lease on a table inside the block; yield what renews it for as long again.

    Args:
        root: Folder of the warehouse.
        table: Name of the table whose files must stay, all versions of it.
        version: Which version is read, for whoever looks at the file.
        holder: Name of the reader; the same name again takes over the lease it left behind.
        hours: How long the lease outlives its last renewal.
        clock: Tells the time, UTC.

    Raises:
        BadInputError: When the warehouse is no folder.
    """
    path = _local_folder(root) / f"{table}-{holder}.json"

    def renew() -> None:
        until = clock() + timedelta(hours=hours)
        # Not while the table is vacuumed: a reader that begins then would lose its files.
        with table_lock(root, table):
            _write(path, Lease(table, holder, version, until))

    renew()
    try:
        yield renew
    finally:
        path.unlink(missing_ok=True)


def live_leases(root: str, table: str, now: datetime) -> list[Lease]:
    """Return the leases on a table that have not expired, by holder.

    A file that cannot be read counts as live: nothing is deleted on doubt.

    Raises:
        OSError: When the warehouse's leases cannot be listed.
    """
    files, folder = _filesystem(root)
    found = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = sorted(
        info.base_name
        for info in found
        if info.base_name.startswith(f"{table}-") and info.extension == "json"
    )
    leases = [_read(files, f"{folder}/{name}", table) for name in names]
    return [lease for lease in leases if lease.is_live(now)]


@contextmanager
def table_lock(root: str, table: str) -> Iterator[None]:
    """Wait for and hold the lock under which a table is leased, vacuumed or written by ``ledger``.

    Like every lock file it keeps processes of one machine apart, or of all machines that mount
    the warehouse from a server with locks.
    """
    with ledger.held_lock(ledger.lock_folder(root) / f"table-{table}.lock", wait=True):
        yield


def _write(path: Path, lease: Lease) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(json.dumps(vars(lease), default=datetime.isoformat), encoding="utf-8")
    os.replace(unfinished, path)


def _read(files: fs.FileSystem, path: str, table: str) -> Lease:
    try:
        with files.open_input_stream(path) as stream:
            stored = json.loads(stream.read())
        until = datetime.fromisoformat(stored["until"])
        if until.tzinfo is None:
            raise ValueError("its time has no zone")
        return Lease(table, stored["holder"], stored["version"], until)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(
            "lease %s cannot be read (%s) and counts as live; remove it if its reader is gone",
            path,
            error,
        )
        holder = Path(path).stem.removeprefix(f"{table}-")
        return Lease(table, holder, version=None, until=None)


def _local_folder(root: str) -> Path:
    if "://" in root and not root.startswith("file://"):
        raise BadInputError(
            f"Cannot hold a lease in {root!r}: it is no folder. Mount the storage, and give "
            "--warehouse the mounted folder."
        )
    return Path(plain_path(root)) / FOLDER


def _filesystem(root: str) -> tuple[fs.FileSystem, str]:
    if "://" not in root or root.startswith("file://"):
        return fs.LocalFileSystem(), str(_local_folder(root))
    files, path = fs.FileSystem.from_uri(root.replace("s3a://", "s3://", 1))
    return files, f"{path}/{FOLDER}"

"""Merge small files, cluster them by what is read, and delete what no version needs any more."""

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog_batch import leases, ledger, tables
from catalog_batch.config import MaintenanceSettings
from catalog_batch.errors import BadInputError, MissingTableError
from catalog_batch.maintenance import files
from catalog_batch.maintenance.files import DataFile, Rewritten
from catalog_batch.runs import Run, Status
from catalog_batch.tables import ALL_TABLES, Table
from catalog_batch.warehouse import Warehouse

logger = logging.getLogger(__name__)

JOB = "maintain-tables"

WRITERS = ("build-training-set", "ingest", "migrate-taxonomy", "score")
"""Jobs that write with Spark: their commits and an OPTIMIZE would refuse each other."""

CLUSTERED_BY = {
    tables.PRODUCTS.name: "product_id",
    tables.PRODUCT_IMAGES.name: "product_id",
    tables.LABELS.name: "product_id",
    tables.PRODUCT_PREDICTIONS.name: "product_id",
    tables.SHADOW_PREDICTIONS.name: "product_id",
    tables.REJECTED_IMAGES.name: "product_id",
    tables.IMAGE_PREDICTIONS.name: "image_id",
    tables.IMAGE_EMBEDDINGS.name: "image_id",
    tables.IMAGE_DUPLICATES.name: "image_id",
}
"""What a table is looked up by. Not ``images``: nights ask it for random hashes, which lie in every
file however they are sorted, and sorting would rewrite all bytes."""

NEVER_REWRITTEN = frozenset({tables.TRAINING_EXAMPLES.name})
"""Its order of rows and its row groups are what training pins."""

ENOUGH_SMALL_FILES = 8
"""New files below half the target that are worth a rewrite."""

ENOUGH_SMALL_SHARE = 0.1
"""The same, as a share of the table's files, where the whole table is sorted anew."""


@dataclass(frozen=True)
class TableCare:
    """What was done to a table, or would be."""

    files: int
    compacted: int
    added: int
    deleted: int
    leased_by: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    """Of all versions. A rewrite makes it larger until the old files pass the retention."""

    @property
    def is_change(self) -> bool:
        """Return whether anything was rewritten or deleted."""
        return bool(self.compacted or self.deleted)


def tables_named(names: Sequence[str]) -> list[Table]:
    """Return tables by name.

    Raises:
        BadInputError: For a name that no table has, with the nearest one.
    """
    by_name = {table.name: table for table in ALL_TABLES}
    for name in names:
        if name not in by_name:
            nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise BadInputError(f"There is no table {name!r}.{hint} Known: {sorted(by_name)}.")
    return [by_name[name] for name in names]


def maintain_tables(
    warehouse: Warehouse,
    settings: MaintenanceSettings,
    run: Run,
    only: Sequence[Table] | None = None,
    dry_run: bool = False,
) -> dict[str, TableCare]:
    """Compact the tables that need it, and delete files older than the retention.

    Args:
        warehouse: With tables of any age.
        settings: Size of files, and how long unused ones stay.
        run: Filled in with counts, versions, and in its details the care of each table.
        only: The tables to care for; all that exist unless given.
        dry_run: Say what would be done, and change nothing.

    Raises:
        LockHeldError: When a job that writes tables is at work.
        MissingTableError: When a table in ``only`` has not been created, or none at all.
    """
    wanted = only or [table for table in ALL_TABLES if warehouse.exists(table)]
    if not wanted:  # Said before a lock makes a folder of what may be a slip of the pen.
        raise MissingTableError(
            f"There is no table in the warehouse {warehouse.root!r}. Check --warehouse, or run "
            "ingest first."
        )
    with _writers_kept_out(warehouse.root, dry_run):
        staged = files.old_staging_folders(
            warehouse, run.started_at - timedelta(hours=settings.retention_hours)
        )
        with warehouse.stamped(run_id=run.run_id, job=JOB):
            care = {
                table.name: _care_for(warehouse, table, settings, run.started_at, dry_run)
                for table in wanted
            }
        for folder in [] if dry_run else staged:
            files.remove_folder(warehouse.spark, folder)
        run.table_versions = {table.name: warehouse.version(table) for table in wanted}
    _report(run, care, staged, dry_run)
    return care


@contextmanager
def _writers_kept_out(root: str, dry_run: bool) -> Iterator[None]:
    with ExitStack() as held:
        for job in () if dry_run else WRITERS:
            path = ledger.lock_folder(root) / f"job-{job}.lock"
            held.enter_context(ledger.held_lock(path, wait=False))
        yield


def _care_for(
    warehouse: Warehouse, table: Table, settings: MaintenanceSettings, now: datetime, dry_run: bool
) -> TableCare:
    warehouse.version(table)  # Refuses a table that is not there.
    with leases.table_lock(warehouse.root, table.name):
        found = files.data_files(warehouse, table)
        _, bytes_before = files.disk_usage(warehouse, table)
        rewritten = _compact(warehouse, table, found, settings.target_file_mib, dry_run)
        holders = _holders(warehouse.root, table, now)
        deleted = 0 if holders else _clean(warehouse, table, settings.retention_hours, dry_run)
        _, bytes_after = files.disk_usage(warehouse, table)
    care = TableCare(
        len(found),
        rewritten.removed,
        rewritten.added,
        deleted,
        holders,
        bytes_before,
        bytes_after,
    )
    _tell(table, care, dry_run)
    return care


def _compact(
    warehouse: Warehouse, table: Table, found: list[DataFile], target_mib: int, dry_run: bool
) -> Rewritten:
    if not needs_rewrite(table, found, target_mib * files.MIB):
        return Rewritten()
    cluster_by = CLUSTERED_BY.get(table.name)
    if dry_run:
        small = sum(_is_small(file, target_mib * files.MIB) for file in found)
        return Rewritten(removed=len(found) if cluster_by else small)
    return files.optimize(warehouse, table, cluster_by, target_mib)


def needs_rewrite(table: Table, found: Sequence[DataFile], target_bytes: int) -> bool:
    """Return whether enough small files came since the last OPTIMIZE to pay for another."""
    if table.name in NEVER_REWRITTEN:
        return False
    share = ENOUGH_SMALL_SHARE if table.name in CLUSTERED_BY else 0
    small = sum(file.is_new and _is_small(file, target_bytes) for file in found)
    return small >= max(ENOUGH_SMALL_FILES, share * len(found))


def _is_small(file: DataFile, target_bytes: int) -> bool:
    return file.size < target_bytes / 2


def _holders(root: str, table: Table, now: datetime) -> tuple[str, ...]:
    return tuple(lease.holder for lease in leases.live_leases(root, table.name, now))


def _clean(warehouse: Warehouse, table: Table, retention_hours: int, dry_run: bool) -> int:
    work = files.count_vacuumable if dry_run else files.vacuum
    return work(warehouse, table, retention_hours)


def _tell(table: Table, care: TableCare, dry_run: bool) -> None:
    tense = "would be " if dry_run else ""
    leased = f", leased by {', '.join(care.leased_by)}" if care.leased_by else ""
    logger.info(
        "%s: %s files, %s %scompacted, %s %sdeleted%s",
        table.name,
        care.files,
        care.compacted,
        tense,
        care.deleted,
        tense,
        leased,
    )


def _report(run: Run, care: dict[str, TableCare], staged: Sequence[str], dry_run: bool) -> None:
    run.counts = {
        "files_compacted": sum(one.compacted for one in care.values()),
        "files_added": sum(one.added for one in care.values()),
        "files_deleted": sum(one.deleted for one in care.values()),
        "tables_leased": sum(bool(one.leased_by) for one in care.values()),
        "staging_folders_removed": len(staged),
    }
    run.details = {
        "bytes_before": sum(one.bytes_before for one in care.values()),
        "bytes_after": sum(one.bytes_after for one in care.values()),
        "tables": {name: vars(one) for name, one in care.items() if one.is_change or one.leased_by},
    }
    is_change = bool(staged) or any(one.is_change for one in care.values())
    run.finish(Status.PUBLISHED if is_change and not dry_run else Status.NOTHING_TO_DO)

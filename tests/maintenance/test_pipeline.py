"""Tables with many small files before, few after, and the same rows."""

import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from catalog_batch import ledger, tables
from catalog_batch.config import MaintenanceSettings
from catalog_batch.errors import BadInputError, LockHeldError, MissingTableError
from catalog_batch.leases import held_lease
from catalog_batch.maintenance.files import DataFile
from catalog_batch.maintenance.pipeline import (
    JOB,
    maintain_tables,
    needs_rewrite,
    tables_named,
)
from catalog_batch.runs import Run, Status
from catalog_batch.tables import Table
from catalog_batch.train.snapshot import resolve_snapshot
from catalog_batch.warehouse import Warehouse

pytestmark = pytest.mark.end_to_end
# VACUUM asks the system's clock, so files are made old with respect to it.
NOW = datetime.now(UTC)
SETTINGS = MaintenanceSettings(target_file_mib=1)
Row = dict[str, Any]


def new_run() -> Run:
    return Run(f"{JOB}-1", JOB, NOW, config_hash="0" * 16)


def maintain(warehouse: Warehouse, *only: Table, dry_run: bool = False) -> Run:
    run = new_run()
    maintain_tables(warehouse, SETTINGS, run, only, dry_run)
    return run


def append_labels(warehouse: Warehouse, files: int, start: int = 0) -> None:
    """Append 20 labels, in as many files as told."""
    warehouse.create(tables.LABELS)
    rows = warehouse.spark.range(start, start + 20).selectExpr(
        "cast(id AS string) AS product_id",
        "'seller' AS source",
        "'c1' AS category_id",
        "timestamp '2026-01-01' AS labelled_at",
        "'r' AS run_id",
    )
    warehouse.append(rows.repartition(files), tables.LABELS)


def rows_of(warehouse: Warehouse, table: Table, version: int | None = None) -> list[Row]:
    rows = [row.asDict() for row in warehouse.read(table, version).collect()]
    return sorted(rows, key=lambda row: str(row[table.key[0]]))


def make_old(path: Path) -> Path:
    """Make a file as old as the retention, and an hour."""
    moment = time.time() - 169 * 3600
    os.utime(path, (moment, moment))
    return path


def orphan_in(warehouse: Warehouse, table: Table) -> Path:
    """Leave a file as a killed writer does, long ago."""
    path = Path(warehouse.path(table)) / "part-00000-orphan.parquet"
    path.write_bytes(b"never committed")
    return make_old(path)


@dataclass
class Kept:
    """A table before and after two runs of maintenance."""

    warehouse: Warehouse
    rows: list[Row]
    version: int
    first: Run
    second: Run


@pytest.fixture(scope="module")
def cared_for(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    warehouse = Warehouse(spark, str(tmp_path_factory.mktemp("cared_for")))
    append_labels(warehouse, files=6)
    append_labels(warehouse, files=6, start=20)
    rows = rows_of(warehouse, tables.LABELS)
    version = warehouse.version(tables.LABELS)
    first, second = maintain(warehouse), maintain(warehouse)
    return Kept(warehouse, rows, version, first, second)


def test_small_files_are_merged_and_readers_of_both_kinds_see_the_same_rows(
    cared_for: Kept,
) -> None:
    warehouse = cared_for.warehouse
    table = DeltaTable(warehouse.path(tables.LABELS))
    assert cared_for.first.status == Status.PUBLISHED
    assert cared_for.first.counts["files_compacted"] == 12
    assert len(table.file_uris()) == cared_for.first.counts["files_added"] == 1
    assert rows_of(warehouse, tables.LABELS) == cared_for.rows
    assert table.to_pyarrow_table().num_rows == len(cared_for.rows)
    assert table.version() == warehouse.version(tables.LABELS)
    assert warehouse.last_user_metadata(tables.LABELS) == {"run_id": f"{JOB}-1", "job": JOB}
    # What was read before can be read until the retention ends.
    assert rows_of(warehouse, tables.LABELS, cared_for.version) == cared_for.rows


def test_a_second_run_finds_nothing_to_do_and_makes_no_version(cared_for: Kept) -> None:
    assert cared_for.second.exit_code == 10
    assert cared_for.second.counts["files_compacted"] == 0
    assert cared_for.second.table_versions == cared_for.first.table_versions
    assert json.loads(cared_for.second.status_line())["status"] == "nothing_to_do"


def test_an_optimize_that_delta_can_no_longer_read_counts_as_none(warehouse: Warehouse) -> None:
    """Delta clears its log of a month ago up to a checkpoint, by whole days."""
    append_labels(warehouse, files=20)
    assert maintain(warehouse, tables.LABELS).status is Status.PUBLISHED
    log = Path(warehouse.path(tables.LABELS)) / "_delta_log"
    [merged] = [p for p in log.glob("*.json") if '"operation":"OPTIMIZE"' in p.read_text("utf-8")]
    for start in range(20, 240, 20):
        append_labels(warehouse, files=1, start=start)
    assert list(log.glob("*.checkpoint.parquet"))
    for path in log.glob("*.json"):
        if path.name < merged.name:
            path.unlink()
    warehouse.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
    before = rows_of(warehouse, tables.LABELS)
    assert maintain(warehouse, tables.LABELS).status is Status.PUBLISHED
    assert rows_of(warehouse, tables.LABELS) == before


def test_the_sessions_settings_are_as_before(cared_for: Kept) -> None:
    conf = cared_for.warehouse.spark.conf
    for name in ("optimize.maxFileSize", "optimize.minFileSize", "vacuum.logging.enabled"):
        assert conf.get(f"spark.databricks.delta.{name}", None) is None


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(warehouse: Warehouse) -> None:
    append_labels(warehouse, files=9)
    orphan = orphan_in(warehouse, tables.LABELS)
    run = maintain(warehouse, dry_run=True)
    assert (run.counts["files_compacted"], run.counts["files_deleted"]) == (9, 1)
    assert run.status == Status.NOTHING_TO_DO
    assert warehouse.version(tables.LABELS) == 1
    assert orphan.exists()


def test_a_lease_keeps_old_files_and_only_of_its_table(
    warehouse: Warehouse, capfd: pytest.CaptureFixture[str]
) -> None:
    warehouse.create(tables.LABELS, tables.TRAINING_EXAMPLES)
    orphans = [orphan_in(warehouse, table) for table in (tables.LABELS, tables.TRAINING_EXAMPLES)]
    with held_lease(warehouse.root, "training_examples", None, "night", 1, lambda: NOW):
        leased = maintain(warehouse)
    assert [path.exists() for path in orphans] == [False, True]
    assert leased.counts["tables_leased"] == 1
    assert leased.details["tables"]["training_examples"]["leased_by"] == ("night",)
    after = maintain(warehouse, tables.TRAINING_EXAMPLES)
    assert [path.exists() for path in orphans] == [False, False]
    assert (after.status, after.counts["files_deleted"]) == (Status.PUBLISHED, 1)
    assert capfd.readouterr().out == ""


def test_a_training_snapshot_of_an_older_version_survives_inside_the_retention(
    warehouse: Warehouse,
) -> None:
    warehouse.create(tables.TRAINING_EXAMPLES)
    for start in (0, 100):
        warehouse.overwrite(training_rows(warehouse, start), tables.TRAINING_EXAMPLES)
    version = warehouse.version(tables.TRAINING_EXAMPLES)
    uri = warehouse.path(tables.TRAINING_EXAMPLES)
    before = [resolve_snapshot(uri, number) for number in (version - 1, version)]
    run = maintain(warehouse)
    assert run.status == Status.NOTHING_TO_DO
    assert [resolve_snapshot(uri, number) for number in (version - 1, version)] == before


def training_rows(warehouse: Warehouse, start: int) -> Any:
    """Return ten rows in ten files, so that the table would be worth a rewrite."""
    category = "cast(id % 2 AS string)"
    return (
        warehouse.spark.range(start, start + 10)
        .selectExpr(
            "sha2(cast(id AS string), 256) AS image_id",
            "cast(id AS string) AS product_id",
            "cast('x' AS binary) AS content",
            "'t' AS title",
            "'d' AS description",
            f"{category} AS category_id",
            f"{category} AS category_path",
            "'g' AS group_id",
            "1 AS taxonomy_version",
            "'train' AS split",
        )
        .repartition(10, "product_id")
    )


def test_staging_folders_older_than_the_retention_are_removed(warehouse: Warehouse) -> None:
    warehouse.create(tables.LABELS)
    staging = Path(warehouse.root) / "_staging"
    old, fresh = staging / "refused-old" / "part.parquet", staging / "refused-new" / "part.parquet"
    for path in (old, fresh):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"rows")
    make_old(old)
    planned = maintain(warehouse, dry_run=True)
    assert old.exists()
    run = maintain(warehouse)
    assert [path.name for path in staging.iterdir()] == ["refused-new"]
    assert planned.counts == run.counts
    assert run.counts["staging_folders_removed"] == 1
    assert run.status == Status.PUBLISHED


def test_a_table_that_was_not_created_is_refused_by_name(warehouse: Warehouse) -> None:
    with pytest.raises(MissingTableError, match="images"):
        maintain(warehouse, tables.IMAGES)


def test_a_warehouse_that_is_not_there_is_refused_and_not_made(warehouse: Warehouse) -> None:
    with pytest.raises(MissingTableError, match=r"no table .*--warehouse"):
        maintain(warehouse)
    assert not Path(warehouse.root).exists()


@pytest.mark.parametrize("job", ["ingest", "build-training-set", "score"])
def test_maintenance_waits_for_no_job_that_writes(job: str, warehouse: Warehouse) -> None:
    warehouse.create(tables.LABELS)
    with (
        ledger.held_lock(ledger.lock_folder(warehouse.root) / f"job-{job}.lock", wait=False),
        pytest.raises(LockHeldError, match=f"job-{job}"),
    ):
        maintain(warehouse)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("table", "files", "wanted"),
    [
        (tables.IMAGES, [DataFile(1, True)] * 8, True),
        (tables.IMAGES, [DataFile(1, True)] * 7 + [DataFile(1, False)], False),
        (tables.IMAGES, [DataFile(MIB, True)] * 20, False),
        (tables.IMAGES, [DataFile(1, True)] * 8 + [DataFile(MIB, False)] * 90, True),
        (tables.PRODUCTS, [DataFile(1, True)] * 8 + [DataFile(MIB, False)] * 90, False),
        (tables.PRODUCTS, [DataFile(1, True)] * 10 + [DataFile(MIB, False)] * 90, True),
        (tables.TRAINING_EXAMPLES, [DataFile(1, True)] * 100, False),
    ],
)
def test_a_table_is_rewritten_when_enough_small_files_are_new(
    table: Table, files: list[DataFile], wanted: bool
) -> None:
    assert needs_rewrite(table, files, MIB) is wanted


def test_an_unknown_table_is_refused_with_the_nearest_one() -> None:
    assert tables_named(["images"]) == [tables.IMAGES]
    with pytest.raises(BadInputError, match="Did you mean 'products'"):
        tables_named(["images", "product"])

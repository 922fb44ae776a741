"""Locks between processes, and small tables written without a JVM."""

import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from delta.tables import DeltaTable as SparkTable
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame

from catalog_batch import ledger, tables
from catalog_batch.errors import LockHeldError, MissingTableError
from catalog_batch.warehouse import Warehouse

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOLD = """
import sys, time
from pathlib import Path
from catalog_batch.ledger import held_lock
with held_lock(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(120)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock, and wait until it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_a_lock_that_another_process_holds_is_refused_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "job.lock"
    process = holder(path)
    try:
        with pytest.raises(LockHeldError, match=r"job\.lock"), ledger.held_lock(path, wait=False):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with ledger.held_lock(path, wait=False):
        pass


def test_a_lock_is_refused_within_one_process_too_and_free_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "job.lock"
    once, twice = (ledger.held_lock(path, wait=False) for _ in range(2))
    with pytest.raises(LockHeldError), once, twice:
        raise AssertionError("the lock was given twice")
    with ledger.held_lock(path, wait=False):
        pass


def test_waiting_for_a_lock_takes_it_when_it_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / "table.lock", []

    def wait_for_it() -> None:
        with ledger.held_lock(path, wait=True):
            order.append("second")

    thread = threading.Thread(target=wait_for_it)
    with ledger.held_lock(path, wait=False):
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("root", ["/data/warehouse", "file:///data/warehouse"])
def test_locks_of_a_local_warehouse_lie_in_it(root: str) -> None:
    assert ledger.lock_folder(root) == Path("/data/warehouse/_locks")


def test_locks_of_a_warehouse_on_an_object_store_lie_in_the_cache() -> None:
    first, second = (ledger.lock_folder(f"s3://{bucket}/w") for bucket in "ab")
    assert first != second
    assert Path.home() / ".cache" in first.parents


def run_row(run_id: str, **columns: Any) -> dict[str, Any]:
    times = {"started_at": NOW, "finished_at": NOW}
    fixed = {"job": "train", "status": "published", "exit_code": 0, "config_hash": "0"}
    return {"run_id": run_id, **fixed, **times, **columns}


def test_spark_and_pyarrow_read_the_rows_that_were_appended(warehouse: Warehouse) -> None:
    warehouse.create(tables.RUN_LOG)
    failed = run_row("r1", status="failed", exit_code=1, counts={"stored": 3}, error="it's\nbad")
    ledger.append_rows(warehouse.root, "run_log", [failed])
    ledger.append_rows(warehouse.root, "run_log", [run_row("r2", rows_in=2)])
    found = {row["run_id"]: row.asDict() for row in warehouse.read(tables.RUN_LOG).collect()}
    assert set(found) == {"r1", "r2"}
    assert (found["r1"]["status"], found["r1"]["counts"]) == ("failed", {"stored": 3})
    assert found["r2"]["rows_in"] == 2
    assert found["r1"]["started_at"] == NOW.replace(tzinfo=None)
    by_pyarrow = DeltaTable(f"{warehouse.root}/run_log").to_pyarrow_table()
    assert set(by_pyarrow["run_id"].to_pylist()) == {"r1", "r2"}


def model_row(version: int, alias: str | None) -> dict[str, Any]:
    texts = {"architecture": "a", "training_table": "t", "git_commit": "g", "digest": "d"}
    numbers = {"training_table_version": 1, "taxonomy_version": 1, "version": version}
    named = {"model_name": "m", "alias": alias, "run_id": "r", "registered_at": NOW}
    return {**texts, **numbers, **named, "metrics": [("accuracy", 0.5)]}


def test_replacing_rows_by_the_same_rows_makes_no_version(warehouse: Warehouse) -> None:
    warehouse.create(tables.MODELS)
    assert ledger.replace_rows(warehouse.root, "models", [model_row(1, "champion")])
    assert not ledger.replace_rows(warehouse.root, "models", [model_row(1, "champion")])
    rows = [model_row(1, None), model_row(2, "champion")]
    assert ledger.replace_rows(warehouse.root, "models", rows)
    found = {row["version"]: row["alias"] for row in warehouse.read(tables.MODELS).collect()}
    assert found == {1: None, 2: "champion"}
    assert warehouse.version(tables.MODELS) == 2


def test_only_the_rows_of_one_model_version_are_replaced(warehouse: Warehouse) -> None:
    warehouse.create(tables.CONFUSION_MATRIX)

    def replace(version: int, *counts: int) -> bool:
        of_model = {"model_name": "a", "model_version": version}
        cell = {"split": "test", "true_category_id": "c", "run_id": "r"}
        rows = [
            {**of_model, **cell, "predicted_category_id": str(index), "rows": count}
            for index, count in enumerate(counts)
        ]
        return ledger.replace_rows(warehouse.root, "confusion_matrix", rows, among=of_model)

    assert [replace(1, 5, 2), replace(2, 7), replace(1, 5, 2)] == [True, True, False]
    assert replace(1, 4)
    found = warehouse.read(tables.CONFUSION_MATRIX).collect()
    assert sorted((row["model_version"], row["rows"]) for row in found) == [(1, 4), (2, 7)]
    assert warehouse.version(tables.CONFUSION_MATRIX) == 3


def test_a_row_that_breaks_a_constraint_is_refused(warehouse: Warehouse) -> None:
    warehouse.create(tables.RUN_LOG)
    with pytest.raises(Exception, match=r"(?i)status"):
        ledger.append_rows(warehouse.root, "run_log", [run_row("r1", status="excellent")])
    assert warehouse.read(tables.RUN_LOG).count() == 0


def test_a_missing_table_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingTableError, match=r"'run_log'.*Run ingest first"):
        ledger.append_rows(str(tmp_path), "run_log", [run_row("r1")])


def test_looking_for_a_table_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not ledger.exists("warehouse", "run_log")
    assert not ledger.exists(str(tmp_path / "other"), "run_log")
    assert list(tmp_path.iterdir()) == []


def test_the_mean_size_of_a_row_is_read_from_the_log_of_a_version(tmp_path: Path) -> None:
    root, folder = str(tmp_path), tmp_path / "images"
    write_deltalake(folder, pa.table({"content": [b"x" * 5000] * 4}))
    [first] = folder.glob("*.parquet")
    write_deltalake(folder, pa.table({"content": [bytes(8)] * 996}), mode="append")
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    assert ledger.bytes_per_row(root, "images", 0) == first.stat().st_size // 4
    assert ledger.bytes_per_row(root, "images") == size // 1000


def test_a_version_can_be_read_until_its_files_or_its_log_are_gone(tmp_path: Path) -> None:
    root, folder = str(tmp_path), tmp_path / "products"
    write_deltalake(folder, pa.table({"a": [1]}))
    write_deltalake(folder, pa.table({"a": [2]}), mode="overwrite")
    assert ledger.is_readable(root, "products", 0)
    DeltaTable(folder).create_checkpoint()
    log = folder / "_delta_log" / f"{0:020}.json"
    kept = log.read_bytes()
    log.unlink()
    assert not ledger.is_readable(root, "products", 0)
    log.write_bytes(kept)
    [gone] = DeltaTable(folder, version=0).file_uris()
    Path(gone.removeprefix("file://")).unlink()
    assert not ledger.is_readable(root, "products", 0)
    assert ledger.is_readable(root, "products", 1)


def test_the_runs_that_wrote_since_a_version_are_known_unless_rows_were_replaced(
    warehouse: Warehouse,
) -> None:
    root, table = warehouse.root, tables.PRODUCTS
    warehouse.create(table)
    spark = warehouse.spark

    def product(name: str, title: str = "") -> DataFrame:
        rows = [(name, title, None, None, None, None, {}, NOW, "r", None)]
        return spark.createDataFrame(rows, table.schema)

    with warehouse.stamped(run_id="first", job="ingest"):
        warehouse.append(product("p1"), table)
    with warehouse.stamped(run_id="second", job="ingest"):
        warehouse.upsert(product("p1", "changed"), table)
        warehouse.insert_new(product("p2"), table)

    def runs(version: int) -> frozenset[str]:
        writes = ledger.writes_since(root, "products", version)
        assert writes is not None
        assert writes.jobs <= {"ingest"}
        assert not writes.has_deleted
        return writes.runs

    assert runs(0) == {"first", "second"}
    assert runs(1) == {"second"}
    assert runs(3) == set()
    assert ledger.writes_since(root, "products", 4) is None

    SparkTable.forPath(spark, warehouse.path(table)).optimize().executeCompaction()
    assert runs(3) == set()
    with warehouse.stamped(run_id="third"):
        warehouse.delete(product("p2"), table)
    deleted = ledger.Writes(frozenset({"third"}), frozenset({""}), has_deleted=True)
    assert ledger.writes_since(root, "products", 3) == deleted
    with warehouse.stamped(run_id="fourth"):
        warehouse.overwrite(product("p3"), table)
    assert ledger.writes_since(root, "products", 5) is None
    warehouse.append(product("p4"), table)  # of nobody
    assert ledger.writes_since(root, "products", 6) is None

"""A run's lock, its row and its status line, however it ends."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from catalog_batch import ledger, tables
from catalog_batch.config import Settings
from catalog_batch.errors import (
    CatalogBatchError,
    GateRefusedError,
    LockHeldError,
    ManifestError,
    ModelRefusedError,
    ReconciliationError,
)
from catalog_batch.runs import Clock, Run, Status, open_run
from catalog_batch.warehouse import Warehouse

NOW = datetime(2026, 1, 1, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def logged(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """Make a warehouse with a run log."""
    warehouse = Warehouse(spark, str(tmp_path_factory.mktemp("runs")))
    warehouse.create(tables.RUN_LOG)
    yield warehouse


def row_of(warehouse: Warehouse, run: Run) -> dict[str, Any]:
    rows = warehouse.read(tables.RUN_LOG).where(f"run_id = '{run.run_id}'").collect()
    assert len(rows) == 1
    return dict(rows[0].asDict())


def test_a_published_run_is_logged_with_what_it_counted(logged: Warehouse, clock: Clock) -> None:
    with open_run("ingest", Settings(warehouse=logged.root), clock) as run:
        run.rows_in, run.rows_out = 5, 3
        run.counts, run.rejected = {"stored": 3, "rejected": 2}, {"empty": 2}
        run.table_versions, run.images_per_second = {"images": 7}, 12.5
        run.measures = {"decode_ms_p50": 2.5}
        run.details = {"accuracy": 0.9, "model": "catalogue/1"}
        run.finish(Status.PUBLISHED)
    row = row_of(logged, run)
    assert row.pop("finished_at") - row.pop("started_at") == timedelta(minutes=1)
    assert row == {
        "model": "catalogue/1",
        "run_id": run.run_id,
        "job": "ingest",
        "status": "published",
        "exit_code": 0,
        "rows_in": 5,
        "rows_out": 3,
        "counts": {"stored": 3, "rejected": 2},
        "rejected": {"empty": 2},
        "images_per_second": 12.5,
        "table_versions": {"images": 7},
        "config_hash": run.config_hash,
        "error": None,
        "measures": {"decode_ms_p50": 2.5},
        "made_of": None,
    }


@pytest.mark.parametrize(
    ("error", "status", "exit_code", "told"),
    [
        (ManifestError("no such file\nsecond line"), "refused", 20, "no such file"),
        (GateRefusedError("30 % undecodable"), "refused", 30, "30 % undecodable"),
        (ModelRefusedError("damaged"), "refused", 40, "damaged"),
        (ReconciliationError("2 rows lack"), "failed", 1, "2 rows lack"),
        (CatalogBatchError(""), "failed", 1, ""),
        (RuntimeError("a bug" * 200), "failed", 1, "RuntimeError: a bug"),
        (MemoryError(), "failed", 1, "MemoryError: "),
        (SystemExit(143), "stopped", 143, "stopped by a signal"),
        (KeyboardInterrupt(), "stopped", 130, "stopped by a signal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_run_that_ends_in_an_error_is_logged_and_the_error_goes_on(
    logged: Warehouse,
    clock: Clock,
    error: BaseException,
    status: str,
    exit_code: int,
    told: str,
) -> None:
    settings = Settings(warehouse=logged.root)
    with pytest.raises(type(error)), open_run("score", settings, clock) as run:
        run.rows_in = 4
        raise error
    row = row_of(logged, run)
    assert (row["status"], row["exit_code"], row["rows_in"]) == (status, exit_code, 4)
    assert row["error"].startswith(told)
    assert len(row["error"]) < 600 and "\n" not in row["error"]
    with open_run("score", settings, clock):  # the lock was released
        pass


def test_a_run_that_does_not_say_how_it_ended_has_failed(logged: Warehouse, clock: Clock) -> None:
    with open_run("score", Settings(warehouse=logged.root), clock) as run:
        pass
    assert row_of(logged, run)["status"] == "failed"


def test_a_second_run_of_the_same_job_is_refused_and_not_logged(
    logged: Warehouse, clock: Clock
) -> None:
    settings = Settings(warehouse=logged.root)
    before = logged.version(tables.RUN_LOG)
    with open_run("ingest", settings, clock):
        second = open_run("ingest", settings, clock)
        with pytest.raises(LockHeldError, match=r"job-ingest\.lock"), second:
            raise AssertionError("two runs at a time")
        with open_run("score", settings, clock):  # another job may run meanwhile
            pass
    assert logged.version(tables.RUN_LOG) == before + 2


def test_without_a_run_log_the_run_still_works_and_says_so(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "catalog_batch.runs")
    with open_run("ingest", Settings(warehouse=str(tmp_path)), clock) as run:
        run.finish(Status.PUBLISHED)
    assert f"run {run.run_id} is not logged" in caplog.text
    assert not ledger.exists(str(tmp_path), "run_log")


def test_a_run_that_cannot_even_look_for_its_log_is_no_success(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError("the bucket is away")

    with open_run("ingest", Settings(warehouse=str(tmp_path)), clock) as run:
        run.finish(Status.PUBLISHED)
        monkeypatch.setattr(ledger, "exists", refuse)
    assert run.exit_code == 1
    assert run.error == (
        "the run ended as published, and run_log was not written: the bucket is away"
    )


def test_a_job_leaves_nothing_where_there_is_no_warehouse(tmp_path: Path, clock: Clock) -> None:
    mistyped = tmp_path / "warehose"
    with open_run("score", Settings(warehouse=str(mistyped)), clock):
        pass
    assert not mistyped.exists()


def test_run_ids_are_in_order_of_time_and_differ_within_a_second(tmp_path: Path) -> None:
    settings = Settings(warehouse=str(tmp_path))
    ids = []
    for moment in (NOW, NOW, NOW + timedelta(seconds=1)):
        with open_run("ingest", settings, lambda moment=moment: moment) as run:
            ids.append(run.run_id)
    assert len(set(ids)) == 3
    assert ids[0].startswith("ingest-20260101T030405-")
    assert max(ids[:2]) < ids[2]


def test_the_status_line_is_one_line_of_json_without_empty_values() -> None:
    run = Run("ingest-1", "ingest", NOW, "0" * 16, finished_at=NOW + timedelta(seconds=2.5))
    run.finish(Status.NOTHING_TO_DO)
    run.rows_in, run.rows_out, run.counts = 0, None, {"stored": 0}
    run.details = {"model": "catalogue/1", "note": "two\nlines"}
    line = run.status_line()
    assert "\n" not in line
    assert json.loads(line) == {
        "job": "ingest",
        "status": "nothing_to_do",
        "exit_code": 10,
        "run_id": "ingest-1",
        "started_at": NOW.isoformat(),
        "seconds": 2.5,
        "rows_in": 0,
        "counts": {"stored": 0},
        "model": "catalogue/1",
        "note": "two\nlines",
    }


def test_a_runs_row_has_the_columns_of_the_run_log(spark: SparkSession) -> None:
    run = Run("ingest-1", "ingest", NOW, "0" * 16)
    assert set(run.row()) == set(tables.RUN_LOG.columns)

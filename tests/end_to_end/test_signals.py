"""A job that is stopped or killed leaves nothing that the next run cannot complete."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from tests.commands import BIN, Line, run_command

from catalog_batch import tables
from catalog_batch.tables import Table

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
PUBLISHED = (
    tables.PRODUCTS,
    tables.PRODUCT_IMAGES,
    tables.IMAGES,
    tables.REJECTED_IMAGES,
    tables.IMAGE_DUPLICATES,
    tables.LABELS,
)


def stop_when(
    is_time: Callable[[], bool],
    arguments: Sequence[str | Path],
    number: signal.Signals = signal.SIGTERM,
) -> tuple[int, dict[str, object]]:
    """Start a verb, send a signal when it is time, and return exit code and status line."""
    with tempfile.TemporaryFile("w+") as errors:
        job = subprocess.Popen(
            [BIN / "catalog-batch", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        while not is_time():
            assert job.poll() is None, "the job ended before it could be stopped"
            time.sleep(0.05)
        if number == signal.SIGKILL:
            os.killpg(job.pid, number)  # with Spark's JVM and workers, as when the machine goes
        else:
            job.send_signal(number)
        output, _ = job.communicate(timeout=60)
        errors.seek(0)
        # Spark would tell of each write that is aborted as of a crash.
        assert number == signal.SIGKILL or "Aborting job" not in errors.read()
    return job.returncode, json.loads(output.splitlines()[-1]) if output else {}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Ingest a few products undisturbed: each other ingest here is to end like this one."""
    folder = tmp_path_factory.mktemp("night")
    generated = run_command(["catalog-batch", "generate", folder / "catalogue", "--products=40"])
    night = Line(folder, [generated])
    night.commands.append(run_command(["catalog-batch", *ingest_of(night, night.warehouse)]))
    assert [command.exit_code for command in night.commands] == [0, 0], night
    return night


def ingest_of(night: Line, warehouse: Path) -> list[str | Path]:
    where = [night.manifest, "--images", night.images, "--warehouse", warehouse]
    # Every kind of bad image is a large share of so few.
    return ["ingest", *where, "--set=ingest.max_rejected_share=1"]


@pytest.mark.parametrize(
    ("number", "stage", "code"),
    [
        (signal.SIGTERM, "rows", 143),
        (signal.SIGINT, "decoded", 130),
        (signal.SIGKILL, "decoded", -signal.SIGKILL),
        (signal.SIGTERM, "ungrouped", 143),  # while tables are published
        (signal.SIGKILL, "ungrouped", -signal.SIGKILL),
    ],
)
def test_an_ingest_that_is_stopped_or_killed_is_completed_by_the_next_one(
    night: Line, tmp_path: Path, number: signal.Signals, stage: str, code: int
) -> None:
    staging = tmp_path / "_staging"
    ingest = ingest_of(night, tmp_path)
    exit_code, status = stop_when(lambda: any(staging.glob(f"*/{stage}")), ingest, number)
    assert exit_code == code
    if number == signal.SIGKILL:
        assert status == {}
    else:
        assert (status["status"], status["exit_code"]) == ("stopped", code)
        assert list(staging.iterdir()) == []
    assert_completed(night, tmp_path, ingest)


def assert_completed(night: Line, warehouse: Path, ingest: Sequence[str | Path]) -> None:
    """Run again; the tables are then those of a run that nothing disturbed."""
    again = run_command(["catalog-batch", *ingest])
    assert again.exit_code == 0, again.errors
    assert list((warehouse / "_staging").iterdir()) == []
    counts, whole = again.status["counts"], night.job("ingest").status["counts"]
    # What the stopped run had committed is a duplicate now, or unchanged where it was linked too.
    done = ("ingested", "duplicate", "unchanged")
    assert sum(counts[name] for name in done) == sum(whole[name] for name in done)
    assert {**counts, **dict.fromkeys(done)} == {**whole, **dict.fromkeys(done)}
    for table in PUBLISHED:
        assert content_of(table, warehouse) == content_of(table, night.warehouse), table.name


def content_of(table: Table, warehouse: Path) -> list[dict[str, Any]]:
    """Return all rows by their key, without image bytes and what says when and by whom."""
    stored = DeltaTable(f"{warehouse}/{table.name}")
    ignored = {"content", *table.stamps, *table.kept}
    columns = [field.name for field in stored.schema().fields if field.name not in ignored]
    rows = stored.to_pyarrow_table(columns=columns).to_pylist()
    return sorted(rows, key=lambda row: [row[name] for name in table.key])


@pytest.mark.parametrize(
    ("number", "moment", "code"),
    [
        (signal.SIGTERM, "_locks/job-score.lock", 143),  # while Spark's session is built
        (signal.SIGKILL, "_staging/score-*", -signal.SIGKILL),
        (signal.SIGTERM, "image_predictions/*.parquet", 143),  # while tables are published
        (signal.SIGKILL, "image_predictions/_delta_log/*1.json", -signal.SIGKILL),
        (signal.SIGKILL, "product_predictions/*.parquet", -signal.SIGKILL),
    ],
)
def test_a_scoring_that_is_stopped_or_killed_is_completed_by_the_next_one(
    line: Line, tmp_path: Path, number: signal.Signals, moment: str, code: int
) -> None:
    warehouse = shutil.copytree(line.warehouse, tmp_path / "warehouse")
    undisturbed = answers_of(warehouse)
    # What a gate refused is kept there; the other tests of this process may have left such.
    staged = set((warehouse / "_staging").iterdir())
    for table in (tables.IMAGE_PREDICTIONS, tables.PRODUCT_PREDICTIONS):
        shutil.rmtree(warehouse / table.name)
    (warehouse / "_locks" / "job-score.lock").unlink()
    score = ["score", "-w", warehouse, "--model", line.job("score").status["model"]]
    exit_code, status = stop_when(lambda: any(warehouse.glob(moment)), score, number)
    assert exit_code == code
    assert status.get("status") == (None if number == signal.SIGKILL else "stopped")
    again = run_command(["catalog-batch", *score])
    assert again.exit_code == 0, again.errors
    assert set((warehouse / "_staging").iterdir()) == staged
    assert answers_of(warehouse) == undisturbed


def answers_of(warehouse: Path) -> dict[str, tuple[Any, ...]]:
    """Return what is said of each image and product, without confidences.

    Those of an image differ in the last digit with the batch that it is in.
    """
    images = DeltaTable(str(warehouse / "image_predictions")).to_pyarrow_table().to_pylist()
    products = DeltaTable(str(warehouse / "product_predictions")).to_pyarrow_table().to_pylist()
    found = {
        row["image_id"]: (row["model_version"], row["failure"], *best_of(row["top_k"]))
        for row in images
    }
    found |= {row["product_id"]: (row["decision"], row["category_id"]) for row in products}
    assert len(found) == len(images) + len(products)
    return found


def best_of(top_k: list[dict[str, Any]]) -> list[str]:
    return [guess["category_id"] for guess in top_k[:1]]


def test_a_stopped_training_says_so(line: Line, tmp_path: Path) -> None:
    runs, registry = tmp_path / "runs", tmp_path / "registry"
    small = ["--set=train.weights=none", "--set=train.image_side=64", "--set=train.epochs=50"]
    where = [f"--set=runs={runs}", f"--set=registry={registry}", "--run-name=stopped"]
    # In a registry that lacks the warehouse's model no other is trained under its name.
    refused = run_command(["catalog-batch", "train", "-w", line.warehouse, *small, *where])
    assert refused.exit_code == 40, refused.errors
    assert "has no version of 'catalogue'" in refused.status["error"]
    where.append("--set=train.model_name=other")
    events = runs / "stopped" / "events.jsonl"

    def epochs() -> int:
        told = events.read_text(encoding="utf-8") if events.is_file() else ""
        return told.count('"event": "epoch"')

    train = ["train", "--warehouse", line.warehouse, *small, *where]
    # Ray's workers train, and Ray has a handler of its own for Ctrl-C.
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = epochs()
        exit_code, status = stop_when(lambda before=before: epochs() > before, train, number)
        assert (exit_code, status["status"], status["exit_code"]) == (code, "stopped", code)


def test_a_killed_training_goes_on_where_it_was(line: Line, tmp_path: Path) -> None:
    warehouse = shutil.copytree(line.warehouse, tmp_path / "warehouse")
    small = ["--set=train.weights=none", "--set=train.image_side=64", "--set=train.epochs=4"]
    train = ["train", "-w", warehouse, *small, "--set=train.patience=4", "--run-name=killed"]
    events = warehouse / "_runs" / "killed" / "events.jsonl"

    def told() -> list[dict[str, Any]]:
        lines = events.read_text(encoding="utf-8").splitlines() if events.is_file() else []
        return [json.loads(told) for told in lines]

    def epochs() -> list[int]:
        return [event["epoch"] for event in told() if event["event"] == "epoch"]

    assert stop_when(lambda: len(epochs()) == 2, train, signal.SIGKILL) == (-signal.SIGKILL, {})
    again = run_command(["catalog-batch", *train])
    assert again.exit_code == 0, again.errors
    [resumed] = [event for event in told() if event["event"] == "resumed"]
    # The epoch that was being trained is lost, and of a whole one the checkpoint at the most.
    assert resumed["epoch"] in (1, 2)
    assert epochs() == [0, 1, *range(resumed["epoch"], 4)]
    assert again.status["status"] == "published"
    # Beside the one of the README's commands.
    models = DeltaTable(f"{warehouse}/models").to_pyarrow_table(columns=["version", "run_id"])
    assert (2, "killed") in {(row["version"], row["run_id"]) for row in models.to_pylist()}

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.evaluate.samples import predictions_of, simulated

from catalog_batch.evaluate.judgement import Decider, Judgement, fit_decider, judge
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.rows import Row, evaluation_rows
from catalog_batch.registry import ModelVersion
from catalog_batch.resources import resource_folder
from catalog_batch.train.pipeline import publish_evaluation

ARROW = {
    "STRING": pa.string(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
}
TABLES = (
    "evaluation_metrics",
    "class_metrics",
    "confusion_matrix",
    "threshold_curve",
    "calibration_bins",
)


def schema_of(table: str) -> pa.Schema:
    """Read the columns of a table's DDL."""
    ddl = (resource_folder("schemas") / "tables" / f"{table}.sql").read_text(encoding="utf-8")
    found = re.findall(r"^  (\w+) ([A-Z]+)( NOT NULL)? COMMENT", ddl, re.MULTILINE)
    return pa.schema([pa.field(name, ARROW[kind], not required) for name, kind, required in found])


def judgement_of(validation: Predictions, test: Predictions) -> Judgement:
    decider = fit_decider(validation, 0.75)
    splits = {"validation": validation, "test": replace(test, split="test")}
    return judge(splits, decider, seed=1, resamples=20)


@pytest.fixture(scope="module")
def judgement() -> Judgement:
    return judgement_of(simulated(400, scale=2.0), simulated(300, scale=2.0, seed=1))


def model(version: int) -> ModelVersion:
    tags = {"training_run": f"run-{version}"}
    return ModelVersion("catalogue", version, (), Path("bundle"), "digest", {}, tags, 0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    for table in TABLES:
        DeltaTable.create(str(tmp_path / table), schema_of(table))
    return str(tmp_path)


def stored(root: str, table: str) -> list[dict[str, Any]]:
    rows = DeltaTable(f"{root}/{table}").to_pyarrow_table().to_pylist()
    return [dict(row) for row in rows]


def versions(root: str) -> dict[str, int]:
    return {table: DeltaTable(f"{root}/{table}").version() for table in TABLES}


def only(rows: list[Row], **wanted: Any) -> Row:
    [row] = [row for row in rows if wanted.items() <= row.items()]
    return row


def test_rows_have_the_columns_that_the_tables_have(judgement: Judgement) -> None:
    rows = evaluation_rows(judgement)
    assert sorted(rows) == sorted(TABLES)
    for table, found in rows.items():
        columns = {"model_name", "model_version", "run_id", *found[0]}
        assert columns == set(schema_of(table).names)
        assert {frozenset(row) for row in found} == {frozenset(found[0])}
        assert {row["split"] for row in found} == {"validation", "test"}


def test_no_two_rows_have_the_same_key(judgement: Judgement) -> None:
    keys = {
        "evaluation_metrics": ("name",),
        "class_metrics": ("category_id",),
        "confusion_matrix": ("true_category_id", "predicted_category_id"),
        "threshold_curve": ("threshold",),
        "calibration_bins": ("is_calibrated", "low"),
    }
    for table, rows in evaluation_rows(judgement).items():
        found = [tuple(row[name] for name in ("split", *keys[table])) for row in rows]
        assert len(set(found)) == len(found) > 0


def test_rows_say_what_the_judgement_says(judgement: Judgement) -> None:
    rows = evaluation_rows(judgement)
    accuracy = only(rows["evaluation_metrics"], split="test", name="accuracy")
    assert accuracy["value"] == judgement.metrics()["test_accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    accepted = only(rows["evaluation_metrics"], split="test", name="accepted_precision")
    assert accepted["value"] == judgement.metrics()["test_accepted_precision"]
    temperature = only(rows["evaluation_metrics"], name="temperature")
    assert temperature["value"] == judgement.decider.temperature == pytest.approx(2, rel=0.2)
    third = only(rows["class_metrics"], split="test", category_id="c2")
    assert third["category_path"] == "Department 0/Class 2"
    assert third["threshold"] == judgement.decider.thresholds["c2"]
    cells = [row["rows"] for row in rows["confusion_matrix"] if row["split"] == "test"]
    assert sum(cells) == 300


def test_calibration_is_told_before_and_after_temperature(judgement: Judgement) -> None:
    rows = evaluation_rows(judgement)
    of_test = [row for row in rows["evaluation_metrics"] if row["split"] == "test"]
    figures = {row["name"]: row["value"] for row in of_test}
    assert figures["calibration_error"] < figures["uncalibrated_calibration_error"]
    assert figures["calibrated_loss"] < figures["loss"]

    def error(is_calibrated: bool) -> float:
        wanted = {"split": "test", "is_calibrated": is_calibrated}
        found = [row for row in rows["calibration_bins"] if wanted.items() <= row.items()]
        gaps = (row["rows"] * abs(row["accuracy"] - row["mean_confidence"]) for row in found)
        return sum(gaps) / sum(row["rows"] for row in found)

    assert error(True) < error(False)


def test_publishing_twice_writes_once_and_another_version_keeps_the_first(
    judgement: Judgement, root: str
) -> None:
    publish_evaluation(root, model(1), judgement)
    first = {table: stored(root, table) for table in TABLES}
    assert set(versions(root).values()) == {1}
    publish_evaluation(root, model(1), judgement)
    assert set(versions(root).values()) == {1}
    publish_evaluation(root, model(2), judgement)
    for table in TABLES:
        rows = stored(root, table)
        of_first = [row for row in rows if row["model_version"] == 1]
        assert sorted(of_first, key=repr) == sorted(first[table], key=repr)
        assert len(rows) == 2 * len(of_first)
        assert {row["run_id"] for row in rows} == {"run-1", "run-2"}


def test_judging_a_version_anew_replaces_its_own_rows_only(judgement: Judgement, root: str) -> None:
    for version in (1, 2):
        publish_evaluation(root, model(version), judgement)
    kept = {table: [r for r in stored(root, table) if r["model_version"] == 2] for table in TABLES}
    other = judgement_of(simulated(200), predictions_of([], [], simulated(1).category_paths))
    publish_evaluation(root, model(1), other)
    for table in TABLES:
        rows = stored(root, table)
        assert sorted([r for r in rows if r["model_version"] == 2], key=repr) == sorted(
            kept[table], key=repr
        )
        # Of a split without rows only their number is told.
        told = [r for r in rows if r["model_version"] == 1 and r["split"] == "test"]
        assert [r["name"] for r in told] == (["rows"] if table == "evaluation_metrics" else [])


def test_a_split_without_rows_has_no_row_but_their_number() -> None:
    splits = {split: predictions_of([], [], split=split) for split in ("validation", "test")}
    judgement = judge(splits, Decider(1.0, {}), seed=1)
    assert judgement.metrics() == {}
    rows = evaluation_rows(judgement)
    assert [(row["split"], row["name"], row["value"]) for row in rows["evaluation_metrics"]] == [
        ("validation", "temperature", 1.0),
        ("validation", "rows", 0.0),
        ("test", "rows", 0.0),
    ]
    assert [table for table, found in rows.items() if found] == ["evaluation_metrics"]


def test_what_could_not_be_fitted_is_said() -> None:
    decider = fit_decider(simulated(20), 0.95)
    assert (decider.temperature, decider.thresholds) == (1.0, {})
    assert "20 validation rows are fewer than 50" in decider.reason
    assert "no thresholds: 20 validation products are too few" in decider.reason

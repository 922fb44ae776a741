"""A training table without validation or test rows: what that costs is said before anything."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.train.small import SMALL

from catalog_batch.config import TrainSettings
from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.train.trainer import plan_training, train_classifier

Write = Callable[..., Path]
MakeRows = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"train": 9, "validation": 6, "test": 6}, []),
        ({"train": 9, "validation": 6}, ["no test rows: no figure .*promote refuses.*test_share"]),
        ({"train": 9, "test": 6}, ["no validation rows: .*training loss.*validation_share"]),
        ({"train": 9}, ["no validation rows", "no test rows"]),
    ],
)
def test_what_a_run_without_a_split_goes_without_is_said(
    tmp_path: Path,
    write_table: Write,
    make_rows: MakeRows,
    caplog: pytest.LogCaptureFixture,
    rows: dict[str, int],
    said: list[str],
) -> None:
    table = write_table(tmp_path / "t", make_rows(rows))
    plan_training(str(table), None, TrainSettings(**SMALL), tmp_path / "runs", "night")
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(said)
    for warning, pattern in zip(warnings, said, strict=True):
        assert re.search(pattern, warning)


def test_a_run_of_training_rows_alone_has_a_model_and_no_figures(
    tmp_path: Path, write_table: Write, make_rows: MakeRows
) -> None:
    table = write_table(tmp_path / "t", make_rows({"train": 9}))
    settings = TrainSettings(**{**SMALL, "epochs": 1})
    model = train_classifier(str(table), None, settings, tmp_path / "runs", "night", "a", "2026")
    [epoch] = model.history
    assert (epoch.validation_rows, epoch.validation_loss) == (0, epoch.train_loss)
    spec = check_bundle(model.bundle_folder)
    assert (model.metrics, spec.temperature, spec.thresholds) == ({}, 1.0, {})

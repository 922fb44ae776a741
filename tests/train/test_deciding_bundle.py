"""The temperature and thresholds that validation rows give are those a bundle scores with."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.train.small import SMALL

from catalog_batch.config import TrainSettings
from catalog_batch.evaluate.judgement import fit_decider
from catalog_batch.evaluate.predictions import load_predictions
from catalog_batch.evaluate.thresholds import NEVER
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.train.trainer import train_classifier

TARGET = 0.6
"""Precision that this training reaches: three colours, and a sixth of the labels are wrong."""


def test_a_bundle_has_the_temperature_and_thresholds_of_its_validation_rows(
    tmp_path: Path, write_table: Callable[..., Path], make_rows: Callable[..., list[Any]]
) -> None:
    rows = make_rows({"train": 24, "validation": 204, "test": 54})
    mislabelled = [row for row in rows if row["split"] != "train"][::6]
    for row in mislabelled:
        row.update(category_id="bags", category_path="Bags")
    settings = TrainSettings(
        **{
            **SMALL,
            "architecture": "resnet18",
            "freeze": "backbone",
            "augmentation": "none",
            "target_precision": TARGET,
        }
    )
    model = train_classifier(
        str(write_table(tmp_path / "t", rows)), None, settings, tmp_path, "r", "abc", "2026"
    )
    found = {
        split: load_predictions(tmp_path / "r" / f"predictions-{split}.npz")
        for split in ("validation", "test")
    }
    spec = load_bundle(model.bundle_folder).spec
    fitted, of_test_rows = (fit_decider(of_split, TARGET) for of_split in found.values())
    assert found["validation"].rows == 204
    assert (spec.temperature, spec.thresholds) == (fitted.temperature, fitted.thresholds)
    assert spec.temperature != of_test_rows.temperature
    assert abs(math.log(spec.temperature)) > 0.05
    assert spec.thresholds.keys() == {"bags", "lamps", "shoes"}
    assert min(spec.thresholds.values()) < NEVER
    # What the report tells of acceptance is with these thresholds.
    assert model.judgement.decider == fitted
    assert model.metrics["validation_accepted_precision"] >= TARGET
    assert model.metrics["validation_accepted_share"] == pytest.approx(
        model.judgement.acceptance["validation"].overall.coverage
    )

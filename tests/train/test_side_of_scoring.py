"""A run whose pictures are larger in validation, test and scoring than in training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.small import SMALL

from catalog_batch.config import TrainSettings
from catalog_batch.errors import BadInputError
from catalog_batch.evaluate.predictions import load_predictions
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.train.readers import ShardReader
from catalog_batch.train.snapshot import resolve_snapshot
from catalog_batch.train.trainer import TrainedModel, plan_training, train_classifier


def train(table: Path, runs: Path, name: str, **changes: Any) -> TrainedModel:
    settings = TrainSettings(**{**SMALL, "test_image_side": 48, "epochs": 1, **changes})
    return train_classifier(
        str(table), None, settings, runs, name, git_commit="a", created_at="2026-01-02T03:04:05Z"
    )


def test_the_bundle_scores_at_the_side_that_its_figures_are_of(
    training_table: Path, tmp_path: Path
) -> None:
    model = train(training_table, tmp_path, "larger", augmentation="crop")
    bundle = load_bundle(model.bundle_folder)
    steps = bundle.spec.preprocessing
    assert (steps.side, steps.resize_side) == (48, 55)
    predictions = load_predictions(tmp_path / "larger" / "predictions-test.npz")
    snapshot = resolve_snapshot(str(training_table))
    reader = ShardReader(snapshot, steps, TrainSettings(batch_size=16))
    [batch] = reader.evaluation("test")
    with torch.inference_mode():
        logits = bundle.network(steps.normalise(batch.images))[batch.weights > 0]
    torch.testing.assert_close(torch.from_numpy(predictions.logits), logits, rtol=1e-4, atol=1e-5)


def test_a_head_fitted_on_features_has_the_figures_of_the_whole_network(
    training_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its last convolution is the head: features have the pictures' shape.
    fixed = {"architecture": "squeezenet1_1", "freeze": "backbone", "augmentation": "none"}
    probe = train(training_table, tmp_path, "probe", **fixed)
    whole = train(training_table, tmp_path, "whole", **fixed, features_gib=0)
    [of_probe], [of_whole] = probe.history, whole.history
    assert of_probe.train_loss == pytest.approx(of_whole.train_loss, rel=1e-4)
    assert of_probe.validation_loss == pytest.approx(of_whole.validation_loss, rel=1e-4)


def test_a_network_built_for_one_side_is_refused_before_anything_starts(
    write_table: Callable[..., Path], tmp_path: Path
) -> None:
    table = write_table(tmp_path / "t")
    settings = TrainSettings(
        **{**SMALL, "architecture": "vit_b_32", "image_side": 64, "test_image_side": 96}
    )
    with pytest.raises(BadInputError, match=r"side 64.*another network than for 96"):
        plan_training(str(table), None, settings, tmp_path / "runs", "refused")
    assert not (tmp_path / "runs").exists()

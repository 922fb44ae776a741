"""A run that goes on from the model of an earlier one, and weights that are refused before Ray."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from catalog_batch.config import TrainSettings
from catalog_batch.errors import BadInputError, ConfigError, ModelRefusedError
from catalog_batch.modeling.bundle import Bundle, load_bundle
from catalog_batch.train.trainer import TrainedModel, train_classifier

Write = Callable[..., Path]
MakeRows = Callable[..., list[dict[str, Any]]]


def train(table: Path, runs: Path, run_id: str, **changes: Any) -> TrainedModel:
    settings = TrainSettings(
        **{
            "architecture": "mobilenet_v3_small",
            "weights": "none",
            "head": "article",
            "image_side": 32,
            "batch_size": 8,
            "epochs": 1,
            "num_workers": 0,
            "cpus_per_worker": 1,
            "device": "cpu",
            "stall_seconds": 60,
            **changes,
        }
    )
    return train_classifier(
        str(table), None, settings, runs, run_id, git_commit="a", created_at="2026-01-02T03:04:05Z"
    )


def output_rows(bundle: Bundle) -> dict[str, Tensor]:
    weight = bundle.network.get_parameter("classifier.3.4.weight")
    ids = [label.category_id for label in bundle.spec.classes]
    return dict(zip(ids, weight, strict=True))


@pytest.fixture(scope="module")
def earlier(
    tmp_path_factory: pytest.TempPathFactory, write_table: Write, make_rows: MakeRows
) -> Path:
    """Train on the table without its lamps; returns the folder that holds table and run."""
    folder = tmp_path_factory.mktemp("earlier")
    rows = [row for row in make_rows() if row["category_id"] != "lamps"]
    train(write_table(folder / "t", rows), folder / "runs", "two-classes")
    return folder


def test_a_class_more_is_trained_on_top_of_an_earlier_bundle(
    earlier: Path,
    write_table: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.chdir(earlier / "runs")
    model = train(
        write_table(tmp_path / "t"),
        tmp_path / "runs",
        "three-classes",
        weights="two-classes/bundle",
        image_side=0,
        learning_rate=1e-9,
    )
    before = load_bundle(earlier / "runs" / "two-classes" / "bundle")
    after = load_bundle(model.bundle_folder)
    # Photos of one product are in several splits of these rows.
    assert "has seen the products of" in model.doubt and model.doubt in caplog.text
    assert load_bundle(model.bundle_folder).spec.doubt == model.doubt
    assert after.spec.head == before.spec.head == "article"
    # Side 32, as the bundle has it, and not the architecture's 224.
    assert after.spec.preprocessing == before.spec.preprocessing
    told = "pictures of side 32 out of 37, in scoring 32 out of 37, mean (0.485, 0.456, 0.406)"
    assert told in caplog.text
    assert [len(bundle.spec.classes) for bundle in (before, after)] == [2, 3]
    # With next to no learning rate the weights are still those that training started from.
    old, new = output_rows(before), output_rows(after)
    for category in ("bags", "shoes"):
        torch.testing.assert_close(new[category], old[category], rtol=0, atol=1e-6)


def test_a_run_keeps_its_doubt_when_the_bundle_it_started_from_is_gone(
    earlier: Path, write_table: Write, tmp_path: Path
) -> None:
    start = shutil.copytree(earlier / "runs" / "two-classes" / "bundle", tmp_path / "start")
    table = write_table(tmp_path / "t")
    model = train(table, tmp_path / "runs", "goes-on", weights=str(start))
    shutil.rmtree(start)
    again = train(table, tmp_path / "runs", "goes-on", weights=str(start))
    assert again.doubt == model.doubt != ""
    assert again.digest == model.digest


def test_a_run_is_not_gone_on_with_when_nobody_knows_how_its_pictures_are_prepared(
    earlier: Path, write_table: Write, tmp_path: Path
) -> None:
    start = shutil.copytree(earlier / "runs" / "two-classes" / "bundle", tmp_path / "start")
    table = write_table(tmp_path / "t")
    train(table, tmp_path / "runs", "goes-on", weights=str(start), image_side=0)
    shutil.rmtree(start)
    with pytest.raises(ConfigError, match="Put it back, or give a new --run-name"):
        train(table, tmp_path / "runs", "goes-on", weights=str(start), image_side=0)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"freeze": "features.99"}, BadInputError, "MobileNetV3 has no such layer"),
        ({"freeze": "classifier"}, BadInputError, "holds a head"),
        ({"weights": "."}, ModelRefusedError, "are missing"),
        ({"weights": "two-classes/bundle", "head": "linear"}, ModelRefusedError, "train.head"),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_ray_starts(
    earlier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_ray: None,
    changes: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    monkeypatch.chdir(earlier / "runs")
    with pytest.raises(error, match=match):
        train(earlier / "t", tmp_path, "refused", num_workers=2, **changes)
    assert not (tmp_path / "refused").exists()

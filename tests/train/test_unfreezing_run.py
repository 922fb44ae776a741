"""A run that thaws a block an epoch: what moves when, and that it goes on where it stopped."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.small import SMALL

from catalog_batch.config import TrainSettings
from catalog_batch.errors import CatalogBatchError
from catalog_batch.train import checkpoints, worker
from catalog_batch.train.events import PASSING
from catalog_batch.train.snapshot import resolve_snapshot
from catalog_batch.train.trainer import TrainedModel, train_classifier

Event = dict[str, Any]

SETTINGS = TrainSettings(
    **{**SMALL, "epochs": 3, "patience": 9, "freeze": "backbone", "unfreeze_every": 1}
)


@dataclass
class Undisturbed:
    table: Path
    model: TrainedModel
    weights: list[checkpoints.Weights]
    """At first, and after each epoch."""


def train(
    table: Path, runs: Path, on_event: Callable[[Event], None] = lambda event: None
) -> TrainedModel:
    when = "2026-01-02T03:04:05Z"
    return train_classifier(str(table), None, SETTINGS, runs, "run-1", "abc123", when, on_event)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    write_table: Callable[..., Path],
    make_rows: Callable[..., list[Any]],
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    table = write_table(folder / "t", make_rows({"train": 16, "validation": 6, "test": 3}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "KEPT", 9)
        model = train(table, folder / "runs")
    first = worker._network(SETTINGS, resolve_snapshot(str(table))).state_dict()
    saved = [folder / "runs" / "run-1" / f"checkpoint_{epoch:06d}" for epoch in (1, 2, 3)]
    later = [checkpoints.read_weights(checkpoint, checkpoints.MODEL) for checkpoint in saved]
    return Undisturbed(table, model, [first, *later])


def train_and_stop_after(epoch: int, table: Path, runs: Path) -> None:
    """End a run with an error right after it told of an epoch, counted from 0."""
    emit = worker.events.emit

    def emit_and_stop(folder: Path, event: str, **values: Any) -> None:
        emit(folder, event, **values)
        if (event, values.get("epoch")) == ("epoch", epoch):
            raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.events, "emit", emit_and_stop)
        with pytest.raises((OSError, CatalogBatchError), match="disk full"):
            train(table, runs)


def figures(model: TrainedModel) -> list[tuple[float, float, int]]:
    return [(r.train_loss, r.validation_loss, r.train_rows) for r in model.history]


def test_each_block_moves_from_its_own_epoch_on_and_not_before(undisturbed: Undisturbed) -> None:
    def moved(before: checkpoints.Weights, after: checkpoints.Weights) -> set[str]:
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        return {".".join(name.split(".")[:2]) for name in changed}

    first, *later = undisturbed.weights
    head, and_hidden, and_last = (
        moved(before, after) for before, after in zip([first, *later[:-1]], later, strict=True)
    )
    # Batch statistics of what is fixed stay too: they are among the weights.
    assert head == {"classifier.3"}
    assert and_hidden == {"classifier.3", "classifier.0"}
    assert and_last == {"classifier.3", "classifier.0", "features.12"}


def test_a_run_stopped_between_two_stages_repeats_the_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    train_and_stop_after(1, undisturbed.table, tmp_path)
    told: list[Event] = []
    resumed = train(undisturbed.table, tmp_path, told.append)
    device, resumed_at, *_ = told
    assert device["event"] == "device"
    assert resumed_at == {"event": "resumed", "checkpoint": "checkpoint_000002", "epoch": 2}
    assert figures(resumed) == figures(undisturbed.model)
    assert resumed.metrics == undisturbed.model.metrics


def test_a_damaged_newest_epoch_is_trained_again_from_the_one_before(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    train_and_stop_after(2, undisturbed.table, tmp_path)
    (tmp_path / "run-1" / "checkpoint_000003" / checkpoints.MODEL).write_bytes(b"cut off")
    told: list[Event] = []
    resumed = train(undisturbed.table, tmp_path, told.append)
    _device, refused, goes_on, features, *rest = [
        event for event in told if event["event"] not in PASSING
    ]
    assert refused == {
        "event": "checkpoint_refused",
        "checkpoint": "checkpoint_000003",
        "problem": "changed files ['model.safetensors']",
    }
    assert goes_on == {"event": "resumed", "checkpoint": "checkpoint_000002", "epoch": 2}
    assert features["event"] == "features" and not features["kept"]
    assert "train.unfreeze_every is 1" in features["reason"]
    assert [(event["event"], event.get("epoch")) for event in rest] == [
        ("epoch", 2),
        ("evaluated", None),
    ]
    assert figures(resumed) == figures(undisturbed.model)
    assert resumed.metrics == undisturbed.model.metrics

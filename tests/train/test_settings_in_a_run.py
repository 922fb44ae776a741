"""Each setting of the steps changes a whole run, and in a way of its own."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.small import SMALL
from torch import nn

from catalog_batch.config import TrainSettings
from catalog_batch.train import checkpoints, worker
from catalog_batch.train.cluster import run_workers
from catalog_batch.train.trainer import plan_training

DEFAULT = "the default"
SAME_AS_DEFAULT = "augmentation: article"

CASES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    SAME_AS_DEFAULT: {"augmentation": "article"},
    "augmentation: none": {"augmentation": "none"},
    "augmentation: crop": {"augmentation": "crop"},
    "test_image_side": {"test_image_side": 40},
    "augmentation: trivial": {"augmentation": "trivial"},
    "augmentation: rand": {"augmentation": "rand"},
    "colour_jitter": {"colour_jitter": 0.5},
    "erasing": {"erasing": 0.9},
    "mixing: mixup": {"mixing": "mixup"},
    "mixing: cutmix": {"mixing": "cutmix"},
    "mixing_alpha": {"mixing": "mixup", "mixing_alpha": 5.0},
    "loss": {"loss": "focal"},
    "focal_gamma": {"loss": "focal", "focal_gamma": 5.0},
    "label_smoothing": {"label_smoothing": 0.2},
    "class_weights": {"class_weights": "balanced"},
    "sampling": {"sampling": "balanced"},
    "clip_norm": {"optimizer": "sgd", "clip_norm": 1e-3},
    "optimizer": {"optimizer": "sgd"},
    "weight_decay": {"optimizer": "sgd", "weight_decay": 0.5},
    "accumulate_steps": {"accumulate_steps": 2},
    "schedule": {"schedule": "cosine"},
    "schedule: one_cycle": {"schedule": "one_cycle"},
    "backbone_rate": {"backbone_rate": 0.1},
    # Not 0.5: the mean of the two steps is where half of the second one leads, as by `schedule`.
    "ema_decay": {"ema_decay": 0.25},
    "precision": {"precision": "bf16"},
    "freeze": {"freeze": "backbone"},
    "freeze: up to a layer": {"freeze": "features.9"},
}
"""Two batches an epoch, so that a schedule has a second step to be seen in."""


def trained(table: Path, runs: Path, name: str, changes: dict[str, Any]) -> Path:
    """Train an epoch with the changed settings, without a bundle; returns the last checkpoint."""
    small = {**SMALL, "architecture": "squeezenet1_1", "epochs": 1, "shuffle_rows": 8}
    settings = TrainSettings(**{**small, **changes})
    planned = plan_training(str(table), None, settings, runs, name)
    run_workers(planned.settings, planned.snapshot, planned.folder)
    newest, _ = checkpoints.newest_whole(planned.folder)
    assert newest is not None
    return newest


def losses(checkpoint: Path) -> tuple[float, ...]:
    """Return the losses of training and validation, epoch by epoch."""
    history = checkpoints.read_state(checkpoint).history
    return tuple(loss for report in history for loss in (report.train_loss, report.validation_loss))


def test_each_setting_changes_the_losses_of_a_run_in_a_way_of_its_own(
    tmp_path: Path, write_table: Callable[..., Path], make_rows: Callable[..., list[Any]]
) -> None:
    rows = make_rows({"train": 18, "validation": 3})
    # Classes of unlike size, for what balances them.
    uneven = [row for row in rows if row["category_id"] != "lamps" or row["product_id"] in "p1 p4"]
    table = write_table(tmp_path / "t", uneven)
    alike: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for number, (name, changes) in enumerate(CASES.items()):
        alike[losses(trained(table, tmp_path / "runs", f"r{number}", changes))].append(name)
    assert [names for names in alike.values() if len(names) > 1] == [[DEFAULT, SAME_AS_DEFAULT]]


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_statistics_stay_those_of_the_start(
    tmp_path: Path, training_table: Path, frozen: bool
) -> None:
    changes = {"architecture": "mobilenet_v3_small", "freeze_statistics": frozen}
    last = trained(training_table, tmp_path, "r", changes)
    weights = checkpoints.read_weights(last, checkpoints.BEST)
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    assert [bool(mean.any()) for mean in means] == [not frozen] * len(means) != []


def test_a_compiled_run_trains_as_a_plain_one_and_compiles_anew_for_what_it_thaws(
    tmp_path: Path, training_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the C++ that is made of the graph: torch compiles that for minutes."""
    compiled: list[nn.Module] = []
    compile_network = nn.Module.compile

    def traced(network: nn.Module) -> None:
        compiled.append(network)
        compile_network(network, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    thawing = {"epochs": 2, "freeze": "backbone", "unfreeze_every": 1}
    plain = trained(training_table, tmp_path, "plain", thawing)
    assert compiled == []
    fast = trained(training_table, tmp_path, "fast", {**thawing, "compile": True})
    assert len(compiled) == 2
    assert losses(fast) == pytest.approx(losses(plain))
    names = [list(checkpoints.read_weights(c, checkpoints.BEST)) for c in (plain, fast)]
    assert names[0] == names[1]


def test_a_networks_weights_have_the_memory_order_of_the_pictures() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 2))
    worker._on_device(network, torch.device("cpu"))
    convolution, _, linear = network
    assert convolution.weight.stride() == (75, 1, 15, 3)
    assert linear.weight.is_contiguous()

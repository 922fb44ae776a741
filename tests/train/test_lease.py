"""Maintenance finds a training run's lease for as long as the run lives, and no longer."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from catalog_batch.config import Settings
from catalog_batch.errors import MissingTableError
from catalog_batch.leases import Lease, live_leases
from catalog_batch.runs import Run
from catalog_batch.train.pipeline import TABLE, train_and_register

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def settings_for_test(root: Path) -> Settings:
    return Settings.model_validate(
        {
            "warehouse": str(root),
            "train": {
                "architecture": "mobilenet_v3_small",
                "weights": "none",
                "image_side": 32,
                "batch_size": 8,
                "epochs": 1,
                "num_workers": 0,
                "device": "cpu",
            },
            "maintenance": {"lease_hours": 5},
        }
    )


def open_run() -> Run:
    return Run("run-1", "train", NOW, config_hash="0" * 16)


def test_a_training_run_holds_a_lease_that_it_renews_with_each_epoch(
    training_table: Path,
) -> None:
    root = training_table.parent
    times = iter(NOW + timedelta(hours=hour) for hour in range(100))
    seen: list[list[Lease]] = []

    def on_event(event: dict[str, Any]) -> None:
        seen.append(live_leases(str(root), TABLE, NOW))

    # Nobody has made the table of models here; by then the model is trained.
    with pytest.raises(MissingTableError, match="models"):
        train_and_register(
            settings_for_test(root), open_run(), 0, "night", on_event, lambda: next(times)
        )
    until = [NOW + timedelta(hours=hour + 5) for hour in (1, 2)]
    assert seen == [[Lease(TABLE, "night", 0, end)] for end in until]
    assert live_leases(str(root), TABLE, NOW) == []


def test_a_training_run_that_fails_holds_no_lease(
    training_table: Path,
) -> None:
    root = training_table.parent
    shutil.rmtree(training_table)
    with pytest.raises(MissingTableError, match="build-training-set"):
        train_and_register(settings_for_test(root), open_run(), clock=lambda: NOW)
    assert live_leases(str(root), TABLE, NOW) == []

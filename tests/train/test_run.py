"""A whole run: the lease it holds, and what it publishes at its end."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.commands import ROOT
from tests.empty_tables import create_table
from tests.promotion.shop import killed_where

from catalog_batch.config import Settings
from catalog_batch.errors import ConfigError, LockHeldError, MissingTableError
from catalog_batch.evaluate.rows import EVALUATION_TABLES
from catalog_batch.leases import Lease, held_lease, live_leases
from catalog_batch.ledger import held_lock
from catalog_batch.promotions_table import read_rows
from catalog_batch.registry import Registry
from catalog_batch.runs import Run, Status
from catalog_batch.train.events import PASSING
from catalog_batch.train.pipeline import TABLE, git_commit, train_and_register
from catalog_batch.train.trainer import LOCK, RUN, SEARCH, plan_training

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
                "cpus_per_worker": 1,
                "device": "cpu",
            },
            "maintenance": {"lease_hours": 5},
        }
    )


def open_run() -> Run:
    return Run("run-1", "train", NOW, config_hash="0" * 16)


@pytest.fixture
def root(training_table: Path) -> Path:
    """Return a warehouse with what training reads and, still empty, what it fills."""
    for name in ("models", "promotions", *EVALUATION_TABLES):
        create_table(training_table.parent, name)
    return training_table.parent


def test_a_training_run_holds_a_lease_that_it_renews_with_each_epoch(root: Path) -> None:
    times = iter(NOW + timedelta(hours=hour) for hour in range(100))
    seen: list[list[Lease]] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] not in PASSING:
            seen.append(live_leases(str(root), TABLE, NOW))

    run = open_run()
    train_and_register(settings_for_test(root), run, 0, "night", on_event, lambda: next(times))
    until = [NOW + timedelta(hours=hour + 5) for hour in range(1, 5)]
    assert seen == [[Lease(TABLE, "night", 0, end)] for end in until]
    assert live_leases(str(root), TABLE, NOW) == []
    assert (run.status, run.details["model"]) == (Status.PUBLISHED, "catalogue/1")


def test_a_run_leaves_a_report_and_figures_and_is_not_doubled(root: Path) -> None:
    runs = []
    settings = settings_for_test(root)
    followed = settings.train.model_copy(update={"trackers": ("mlflow", "tensorboard")})
    settings = settings.model_copy(update={"train": followed})
    for _ in range(2):
        runs.append(open_run())
        train_and_register(settings, runs[-1], 0, "night", clock=lambda: NOW)
        versions = {name: DeltaTable(str(root / name)).version() for name in EVALUATION_TABLES}
        runs[-1].details["versions"] = versions
    assert [run.status for run in runs] == [Status.PUBLISHED, Status.NOTHING_TO_DO]
    assert runs[0].details == runs[1].details
    page = Path(runs[0].details["report"]).read_text(encoding="utf-8")
    assert "<h1>catalogue/1</h1>" in page and "data:image/" in page
    rows = DeltaTable(str(root / "evaluation_metrics")).to_pyarrow_table().to_pylist()
    figures = {f"{row['split']}_{row['name']}": round(row["value"], 4) for row in rows}
    assert runs[0].details["metrics"].items() <= figures.items()
    curves = EventAccumulator(str(root / "_runs" / "night" / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("accuracy/validation")] == [0]
    assert "run/wait_share" in curves.Tags()["scalars"]
    files = [path.name for path in (root / "_registry" / "artefacts").rglob("*.*")]
    assert sorted(files) == ["augmentation.png", "model.json", "report.html"]


def test_a_later_model_is_compared_with_the_champion(root: Path) -> None:
    with killed_where(Registry, "set_alias", "champion"):
        train_and_register(settings_for_test(root), open_run(), 0, "first", clock=lambda: NOW)
    later = NOW + timedelta(minutes=1)
    train_and_register(settings_for_test(root), open_run(), 0, "first", clock=lambda: later)
    settings = settings_for_test(root)
    other = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 5})})
    run = open_run()
    train_and_register(other, run, 0, "second", clock=lambda: NOW)
    page = Path(run.details["report"]).read_text(encoding="utf-8")
    assert (run.details["model"], run.details["alias"]) == ("catalogue/2", "challenger")
    assert "catalogue/1" in page
    rows = read_rows(str(root), "catalogue")
    assert [(row["action"], row["version"], row["previous_version"]) for row in rows] == [
        ("interrupted", 1, None),  # written down, and killed before the alias was there
        ("first", 1, None),
    ]
    assert (rows[1]["checks"], rows[1]["test_rows"], rows[1]["run_id"]) == ([], None, "run-1")


def test_an_empty_name_is_not_taken_for_none(root: Path) -> None:
    with pytest.raises(ConfigError, match="Run name '' is refused"):
        train_and_register(settings_for_test(root), open_run(), 0, "", clock=lambda: NOW)


def test_a_warehouse_without_the_tables_is_refused_before_training(training_table: Path) -> None:
    root = training_table.parent
    with pytest.raises(MissingTableError, match=r"no tables \['models', 'promotions', 'evaluation"):
        train_and_register(settings_for_test(root), open_run(), clock=lambda: NOW)
    assert not (root / "_runs").exists()


def test_a_tracker_that_is_not_installed_is_asked_for_before_anything_is_prepared(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = settings_for_test(root)
    followed = settings.train.model_copy(update={"trackers": ("wandb",)})
    with pytest.raises(ConfigError, match=r"pip install '\.\[wandb\]'"):
        train_and_register(settings.model_copy(update={"train": followed}), open_run())
    assert not (root / "_runs").exists()


def test_a_training_run_that_fails_holds_no_lease(root: Path) -> None:
    shutil.rmtree(root / TABLE)
    with pytest.raises(MissingTableError, match="build-training-set"):
        train_and_register(settings_for_test(root), open_run(), clock=lambda: NOW)
    assert live_leases(str(root), TABLE, NOW) == []


def test_a_training_leaves_the_lease_of_a_search_of_its_name_alone(root: Path) -> None:
    folder = root / "_runs" / "night"
    folder.mkdir(parents=True)
    (folder / SEARCH).write_text("{}", encoding="utf-8")
    with held_lease(str(root), TABLE, 0, "night", 5, lambda: NOW):
        before = live_leases(str(root), TABLE, NOW)
        with pytest.raises(ConfigError, match="'night' is a search"):
            train_and_register(settings_for_test(root), open_run(), 0, "night", clock=lambda: NOW)
        assert live_leases(str(root), TABLE, NOW) == before != []


def test_a_training_does_not_write_beside_a_trial_that_is_running(root: Path) -> None:
    folder = root / "_runs" / "search-0003"
    with held_lock(folder / LOCK, wait=False), pytest.raises(LockHeldError, match="search-0003"):
        train_and_register(settings_for_test(root), open_run(), 0, "search-0003", clock=lambda: NOW)
    assert {path.name for path in folder.iterdir()} == {LOCK, RUN}


def test_the_commit_of_the_code_is_noted() -> None:
    asked = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert git_commit() == asked.stdout.strip()


def test_a_run_is_not_gone_on_with_on_a_table_that_was_built_anew(
    training_table: Path, tmp_path: Path, write_table: Callable[..., Path]
) -> None:
    settings = settings_for_test(tmp_path).train
    for _ in range(2):
        plan_training(str(training_table), None, settings, tmp_path / "runs", "night")
    shutil.rmtree(training_table)
    write_table(training_table)
    with pytest.raises(ConfigError, match="'night' was started on a table that was dropped"):
        plan_training(str(training_table), None, settings, tmp_path / "runs", "night")

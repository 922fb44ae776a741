"""Small searches through Ray Tune: what they leave, what is not done twice, what is stopped."""

import csv
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from tests.commands import run_command
from tests.empty_tables import create_table
from tests.processes import descendants
from tests.train.small import SMALL

from catalog_batch.config import Settings, load_settings
from catalog_batch.errors import CatalogBatchError, ConfigError, TrainingDataError
from catalog_batch.evaluate.rows import EVALUATION_TABLES
from catalog_batch.leases import live_leases
from catalog_batch.ledger import held_lock
from catalog_batch.runs import Run, Status
from catalog_batch.train import checkpoints, trainer
from catalog_batch.train.pipeline import TABLE, train_and_register
from catalog_batch.train.search import SearchSummary, search_settings
from catalog_batch.train.search_report import results_figure
from catalog_batch.train.search_results import Epoch, Outcome, TrialResult
from catalog_batch.train.search_space import SearchOptions, Trial
from catalog_batch.train.search_trials import TUNE, scheduler_for
from catalog_batch.train.trainer import BUNDLE, LOCK, RUN, train_classifier

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRID = 'method = "grid"\n[space]\n"train.learning_rate" = [0.001, 0.01, 0.1]\n'

Write = Callable[..., Path]
Event = dict[str, Any]


def settings_for_test(root: Path, **changes: Any) -> Settings:
    return Settings.model_validate({"warehouse": str(root), "train": {**SMALL, **changes}})


def open_run() -> Run:
    return Run("search-1", "search", NOW, config_hash="0" * 16)


def search(
    root: Path,
    space: str,
    name: str,
    on_event: Callable[[Event], None] = lambda event: None,
    version: int | None = None,
    at_once: int = 1,
    **changes: Any,
) -> tuple[Run, SearchSummary]:
    file = root / f"{name}.toml"
    file.write_text(space, encoding="utf-8")
    run = open_run()
    settings = settings_for_test(root, **changes)
    summary = search_settings(settings, run, file, version, name, at_once, on_event, lambda: NOW)
    return run, summary


def epochs_told(events: list[Event], trial: str) -> list[int]:
    return [each["epoch"] for each in events if each["event"] == "epoch" and each["trial"] == trial]


@dataclass
class Search:
    root: Path
    before: list[Event]
    """Told until the first start was stopped."""

    after: list[Event]
    leases: set[str]
    run: Run
    summary: SearchSummary


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, write_table: Write) -> Search:
    """Search a grid of three, the last of which fails; stopped in the second, and gone on with."""
    root = tmp_path_factory.mktemp("grid")
    write_table(root / TABLE)
    for name in ("models", "promotions", *EVALUATION_TABLES):
        create_table(root, name)
    other_run = root / "_runs" / "grid-0003"
    other_run.mkdir(parents=True)
    checkpoints.write_json(other_run, RUN, {"table": "another"})
    before: list[Event] = []
    after: list[Event] = []
    leases: set[str] = set()

    def stop_in_the_second(event: Event) -> None:
        before.append(event)
        leases.update(lease.holder for lease in live_leases(str(root), TABLE, NOW))
        if event["trial"] == "grid-0002":
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        search(root, GRID, "grid", stop_in_the_second)
    assert not ray.is_initialized()
    # A newer version of the table changes nothing: the search pinned the first.
    write_table(root / TABLE)
    run, summary = search(root, GRID, "grid", after.append)
    return Search(root, before, after, leases, run, summary)


def test_a_search_that_was_stopped_goes_on_without_training_anything_twice(grid: Search) -> None:
    assert epochs_told(grid.before, "grid-0001") == [0, 1]
    assert epochs_told(grid.before, "grid-0002") == [0]
    assert epochs_told(grid.after, "grid-0001") == []
    assert epochs_told(grid.after, "grid-0002") == [1]
    assert not ray.is_initialized()


def test_a_search_leases_its_table_while_it_runs(grid: Search) -> None:
    assert grid.leases == {"grid"}
    assert live_leases(str(grid.root), TABLE, NOW) == []


def test_a_failed_trial_is_a_row_with_its_error(grid: Search) -> None:
    with (grid.summary.folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["grid-0001", "grid-0002", "grid-0003"]
    assert [row["outcome"] for row in rows] == ["finished", "finished", "failed"]
    assert [row["train.learning_rate"] for row in rows] == ["0.001", "0.01", "0.1"]
    assert [row["epochs"] for row in rows] == ["2", "2", "0"]
    assert rows[2]["error"].startswith("ConfigError: Run 'grid-0003' was started")
    assert all("test" not in name for name in rows[0])
    assert (grid.run.status, grid.run.table_versions) == (Status.PUBLISHED, {TABLE: 0})
    assert grid.run.counts == {"trials": 3, "finished": 2, "failed": 1}


def test_a_trial_is_an_ordinary_run_with_the_same_losses(grid: Search, tmp_path: Path) -> None:
    [first, *_] = grid.summary.results
    settings = settings_for_test(grid.root, learning_rate=0.001).train
    alone = train_classifier(str(grid.root / TABLE), 0, settings, tmp_path, "r", "abc", "2026")
    assert [epoch.validation_loss for epoch in first.epochs] == [
        report.validation_loss for report in alone.history
    ]
    assert not (grid.summary.folder / TUNE).exists()


def test_the_best_settings_are_a_file_that_train_takes(grid: Search) -> None:
    best = grid.summary.best
    assert best.figure("validation_accuracy") == max(
        result.figure("validation_accuracy") or 0.0 for result in grid.summary.results
    )
    where = ["train.num_workers=0", "train.device=cpu", f"warehouse={grid.root}"]
    settings = load_settings([grid.summary.folder / "best.toml"], overrides=where)
    assert settings.train == best.trial.settings
    # The trial itself is registered by its name, without training it again.
    events: list[Event] = []
    run = open_run()
    train_and_register(settings, run, None, best.trial.name, events.append, lambda: NOW)
    assert (events, run.details["model"]) == ([], "catalogue/1")
    assert run.table_versions == {TABLE: 0}


def test_the_figure_shows_each_trial_and_each_setting(grid: Search) -> None:
    assert (grid.summary.folder / "results.png").read_bytes().startswith(b"\x89PNG")
    figure = results_figure(grid.summary.space, grid.summary.results, grid.summary.best)
    curves, points = figure.axes[:2]
    assert [len(line.get_xdata()) for line in curves.lines] == [2, 2]
    assert points.get_xlabel() == "learning_rate"
    assert [label.get_text() for label in points.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert curves.lines[-1].get_label() == f"best: {grid.summary.best.trial.name}"


@pytest.mark.parametrize(
    ("space", "changes", "match"),
    [
        (GRID.replace("0.1]", "0.2]"), {}, r"'space.train.learning_rate': \(\[.*0.1\], .*0.2\]\)"),
        (GRID, {"version": 1}, r"'table_version': \(0, 1\)"),
        (GRID, {"epochs": 3}, r"'train.epochs': \(2, 3\)"),
        (f'metric = "validation_loss"\n{GRID}', {}, r"'metric': \('validation_accuracy'"),
    ],
)
def test_a_search_is_not_gone_on_with_as_another_one(
    grid: Search, space: str, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        search(grid.root, space, "grid", **changes)


def test_a_training_does_not_take_the_name_of_a_search(grid: Search) -> None:
    overrides = ["train.num_workers=0", "train.device=cpu", f"warehouse={grid.root}"]
    settings = load_settings([grid.summary.folder / "best.toml"], overrides=overrides)
    with pytest.raises(ConfigError, match="'grid' is a search"):
        train_and_register(settings, open_run(), None, "grid", lambda event: None, lambda: NOW)


def test_a_search_does_not_take_the_name_of_a_training_run(grid: Search) -> None:
    with pytest.raises(ConfigError, match="'grid-0001' is a training run"):
        search(grid.root, GRID, "grid-0001")


@pytest.mark.parametrize(
    ("space", "match"),
    [
        ('"train.architecture" = ["resnet18", "resnet0"]', "resnet0"),
        ('"train.batch_size" = [1, 8]', "batches of 1 pictures"),
        (
            '"train.schedule" = ["cosine", "one_cycle"]\n"train.warmup_epochs" = [0, 1]',
            "unfit-0004 cannot be trained, .*one_cycle.*has a warm-up of its own",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_ray(
    training_table: Path, space: str, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        search(training_table.parent, f'method = "grid"\n[space]\n{space}', "unfit")
    assert not (training_table.parent / "_runs").exists()


@pytest.mark.parametrize("architectures", ['"resnet18", "resnet0"', '"resnet0", "resnet18"'])
def test_every_network_is_checked_before_the_first_weights_are_looked_for(
    training_table: Path, monkeypatch: pytest.MonkeyPatch, architectures: str
) -> None:
    looked_for: list[Any] = []
    monkeypatch.setattr(trainer, "network_for", lambda *asked: looked_for.append(asked))
    space = f'method = "grid"\n[space]\n"train.architecture" = [{architectures}]'
    with pytest.raises(ValueError, match="resnet0"):
        search(training_table.parent, space, "unfit")
    assert looked_for == []


def test_a_search_that_is_another_one_is_refused_before_weights_are_looked_for(
    grid: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(trainer, "network_for")
    with pytest.raises(ConfigError, match=r"'train.epochs': \(2, 3\)"):
        search(grid.root, GRID, "grid", epochs=3)


def test_a_table_without_validation_rows_has_nothing_to_choose_by(
    tmp_path: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    write_table(tmp_path / TABLE, make_rows({"train": 9, "test": 3}))
    with pytest.raises(TrainingDataError, match="no rows in its validation split"):
        search(tmp_path, GRID, "grid")


@pytest.mark.end_to_end
def test_asha_stops_a_bad_trial_and_a_second_start_has_nothing_to_do(
    tmp_path: Path, write_table: Write
) -> None:
    write_table(tmp_path / TABLE)
    # This seed draws (0.0001, 2) and then (0.3, 40).
    space = (
        'method = "asha"\ntrials = 2\nseed = 49\nmetric = "validation_loss"\n'
        "reduction_factor = 2\n[space]\n"
        '"train.learning_rate" = [0.0001, 0.3]\n"train.epochs" = [2, 40]\n'
    )
    run, summary = search(tmp_path, space, "asha")
    good, bad = summary.results
    assert (good.trial.values["epochs"], bad.trial.values["epochs"]) == (2, 40)
    assert (good.outcome, bad.outcome) == (Outcome.FINISHED, Outcome.STOPPED)
    assert (len(good.epochs), len(bad.epochs)) == (2, 1)
    assert not (tmp_path / "_runs" / "asha-0002" / BUNDLE).exists()
    assert run.counts == {"trials": 2, "finished": 1, "stopped_early": 1}
    events: list[Event] = []
    again, same = search(tmp_path, space, "asha", events.append)
    assert (again.status, again.exit_code, events) == (Status.NOTHING_TO_DO, 10, [])
    assert (same.results, same.best) == (summary.results, good)


@pytest.mark.end_to_end
def test_a_random_search_trains_what_its_seed_draws(tmp_path: Path, write_table: Write) -> None:
    write_table(tmp_path / TABLE)
    space = (
        'method = "random"\ntrials = 2\nseed = 3\n[space]\n'
        '"train.optimizer" = ["sgd", "adam"]\n'
        '"train.learning_rate" = { log_uniform = [0.0001, 0.1] }\n'
    )
    run, summary = search(tmp_path, space, "random", epochs=1)
    assert [result.outcome for result in summary.results] == [Outcome.FINISHED] * 2
    assert run.counts == {"trials": 2, "finished": 2}
    for result in summary.results:
        trained = checkpoints.read_json(tmp_path / "_runs" / result.trial.name, RUN)
        assert {name: trained[name] for name in result.trial.values} == result.trial.values
        assert 0.0001 <= trained["learning_rate"] <= 0.1
    first, second = (result.trial.values["learning_rate"] for result in summary.results)
    assert first != second


@pytest.mark.end_to_end
def test_trials_train_at_once_and_one_waits_for_whoever_trains_in_its_folder(
    tmp_path: Path, write_table: Write
) -> None:
    write_table(tmp_path / TABLE)
    with ExitStack() as elsewhere:
        # Held until the second has told of its epoch: one at a time would wait for ever.
        elsewhere.enter_context(held_lock(tmp_path / "_runs" / "two-0001" / LOCK, wait=False))
        told: list[str] = []

        def end_the_other(event: Event) -> None:
            told.append(event["trial"])
            elsewhere.close()

        space = 'method = "grid"\n[space]\n"train.learning_rate" = [0.001, 0.01]\n'
        _, summary = search(tmp_path, space, "two", end_the_other, at_once=2, epochs=1)
    assert (told[0], set(told)) == ("two-0002", {"two-0001", "two-0002"})
    assert [result.outcome for result in summary.results] == [Outcome.FINISHED] * 2


def test_asha_compares_with_the_trials_of_an_earlier_start(tmp_path: Path) -> None:
    options = SearchOptions(method="asha", metric="validation_accuracy", reduction_factor=2)
    trial = Trial("asha-0001", {}, settings_for_test(tmp_path).train)
    known = TrialResult(trial, Outcome.FINISHED, [Epoch(0, 1.0, 0.8, True, 1.0)])
    unfinished = TrialResult(trial, Outcome.UNFINISHED, [Epoch(0, 0.1, 0.99, True, 1.0)])
    for accuracy, decision in {0.7: "STOP", 0.9: "CONTINUE"}.items():
        scheduler = scheduler_for(options, [known, unfinished])
        new: Any = SimpleNamespace(trial_id="new")
        nobody: Any = None
        scheduler.on_trial_add(nobody, new)
        told = {"epochs": 1, "score": accuracy}
        assert scheduler.on_trial_result(nobody, new, told) == decision


def test_asha_stops_nothing_when_few_epochs_were_drawn(tmp_path: Path) -> None:
    options = SearchOptions(method="asha", metric="validation_accuracy", grace_epochs=9)
    for epochs, scheduler in {9: FIFOScheduler, 10: ASHAScheduler}.items():
        settings = settings_for_test(tmp_path, epochs=epochs).train
        trial = TrialResult(Trial("asha-0001", {}, settings))
        assert isinstance(scheduler_for(options, [trial]), scheduler)


@pytest.mark.end_to_end
def test_when_every_trial_dies_the_search_fails_with_the_first_error(
    tmp_path: Path, write_table: Write
) -> None:
    write_table(tmp_path / TABLE)
    space = 'method = "grid"\n[space]\n"train.learning_rate" = [0.001]\n'

    ends: list[Event] = []

    def kill_the_trial(event: Event) -> None:
        if event["event"] == "trial":
            ends.append(event)
        if event["event"] == "epoch":
            [trial] = descendants("TrialRun")
            trial.kill()

    with pytest.raises(CatalogBatchError, match=r"None of the 1 trials.*dead-0001: .*died"):
        search(tmp_path, space, "dead", kill_the_trial, epochs=40)
    assert "failed" in (tmp_path / "_runs" / "dead" / "results.csv").read_text(encoding="utf-8")
    [end] = ends
    assert (end["outcome"], "died" in end["error"]) == (Outcome.FAILED, True)


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
def test_the_command_searches_on_ray_workers_and_trains_with_the_best(
    tmp_path: Path, write_table: Write
) -> None:
    write_table(tmp_path / TABLE)
    for name in ("models", "promotions", "run_log", *EVALUATION_TABLES):
        create_table(tmp_path, name)
    space = tmp_path / "space.toml"
    space.write_text('method = "grid"\n[space]\n"train.learning_rate" = [0.001, 0.01]\n')
    small = [f"--set=train.{key}={value}" for key, value in (SMALL | {"num_workers": 1}).items()]
    words = ["catalog-batch", "search", space, "--name=night", "--warehouse", tmp_path, *small]
    found = run_command(words)
    assert found.exit_code == 0, found.errors
    assert len(found.output.strip().splitlines()) == 1
    assert found.status["counts"] == {"trials": 2, "finished": 2}
    best = tmp_path / "_runs" / "night" / "best.toml"
    name = found.status["best"]
    trained = run_command(
        ["catalog-batch", "train", "--config", best, "--run-name", name, "-w", tmp_path]
    )
    assert trained.exit_code == 0, trained.errors
    assert trained.status["model"] == "catalogue/1"
    again = run_command(words)
    assert (again.exit_code, again.status["status"]) == (10, "nothing_to_do")

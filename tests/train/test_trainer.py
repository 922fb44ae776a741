"""From a table to a bundle, with real Ray workers once and in this process otherwise."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from tests.processes import descendants
from tests.train.small import SMALL, written
from torch import nn

from catalog_batch.config import TrainSettings
from catalog_batch.errors import (
    BadInputError,
    CatalogBatchError,
    ConfigError,
    DivergenceError,
    MissingTableError,
    ReconciliationError,
    TrainingDataError,
)
from catalog_batch.evaluate.predictions import load_predictions
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.threads import torch_threads
from catalog_batch.train import checkpoints, cluster, trainer, worker
from catalog_batch.train.cluster import StopOnBadInput, as_our_error, device_for
from catalog_batch.train.events import PASSING
from catalog_batch.train.recipe import make_optimizer
from catalog_batch.train.reports import FitState, PartialEpoch
from catalog_batch.train.trainer import TrainedModel, require_recipe, train_classifier

Write = Callable[..., Path]
Event = dict[str, Any]


def settings_for_test(**changes: Any) -> TrainSettings:
    return TrainSettings(**{**SMALL, "stall_seconds": 60, **changes})


def train(table: Path, runs: Path, version: int | None = None, **changes: Any) -> TrainedModel:
    on_event = changes.pop("on_event", lambda event: None)
    return train_classifier(
        str(table),
        version,
        settings_for_test(**changes),
        runs,
        "run-1",
        git_commit="abc123",
        created_at="2026-01-02T03:04:05Z",
        on_event=on_event,
    )


@dataclass
class RayRun:
    model: TrainedModel
    events: list[Event]
    marker: Path
    runs: Path
    listening: set[str]
    """Addresses that processes of the run listened on while it trained."""

    arenas: set[str]
    """What the workers' variable for the allocator's arenas was."""


def listening_addresses() -> set[str]:
    me = psutil.Process()
    addresses = set()
    for process in (me, *me.children(recursive=True)):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        addresses |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return addresses


@pytest.fixture(scope="module")
def ray_run(
    tmp_path_factory: pytest.TempPathFactory,
    write_table: Write,
    make_rows: Callable[..., list[Any]],
    plant: Callable[[Path, Path], None],
) -> RayRun:
    """Train version 0 on two workers, after an overwrite and with strays in the folder."""
    folder = tmp_path_factory.mktemp("two_workers")
    table = write_table(folder / "training_examples")
    write_table(table, make_rows({"train": 9, "validation": 3}))
    plant(table, folder / "marker")
    events: list[Event] = []
    listening: set[str] = set()
    arenas: set[str] = set()

    def on_event(event: Event) -> None:
        events.append(event)
        listening.update(listening_addresses())
        if event["event"] == "epoch":
            workers = descendants("ray::RayTrainWorker")
            arenas.update(worker.environ()["MALLOC_ARENA_MAX"] for worker in workers)

    model = train(table, folder / "runs", version=0, num_workers=2, on_event=on_event)
    return RayRun(model, events, folder / "marker", folder / "runs", listening, arenas)


def test_two_workers_see_exactly_the_pinned_versions_rows_in_every_epoch(ray_run: RayRun) -> None:
    epochs = [event for event in ray_run.events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [0, 1]
    assert {event["train_rows"] for event in epochs} == {48}
    assert {event["validation_rows"] for event in epochs} == {18}
    assert ray_run.model.metrics["test_rows"] == 12
    assert ray_run.model.snapshot_version == 0


def test_a_worker_keeps_the_memory_of_its_thread(ray_run: RayRun) -> None:
    assert ray_run.arenas == {"1"}


def test_a_poisoned_file_beside_the_table_is_not_run_by_any_worker(ray_run: RayRun) -> None:
    assert not ray_run.marker.exists()


def test_two_workers_give_a_bundle_that_loads_with_the_measured_figures(ray_run: RayRun) -> None:
    bundle = load_bundle(ray_run.model.bundle_folder)
    assert bundle.digest == ray_run.model.digest
    assert [label.category_id for label in bundle.spec.classes] == ["bags", "shoes", "lamps"]
    assert bundle.spec.metrics == ray_run.model.metrics
    assert bundle.spec.training_table_version == 0
    validation = ray_run.model.judgement.evaluations["validation"]
    assert sum(cell.rows for cell in validation.confusion) == 18
    assert len(ray_run.model.history) == 2


def test_a_local_run_listens_on_the_loopback_only(ray_run: RayRun) -> None:
    assert ray_run.listening
    assert ray_run.listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_ray_is_shut_down_by_the_run_that_started_it(ray_run: RayRun) -> None:
    assert not ray.is_initialized()


def test_a_finished_run_gives_its_model_again_without_training(
    ray_run: RayRun, tmp_path: Path
) -> None:
    events: list[Event] = []
    table = ray_run.runs.parent / "training_examples"
    again = train(table, ray_run.runs, num_workers=0, on_event=events.append)
    assert again == ray_run.model
    assert events == []


def assert_an_epoch_was_lost_at_the_most(events: list[Event]) -> None:
    """Whoever begins from the start again comes to the same figures, only later."""
    [resumed] = [event for event in events if event["event"] == "resumed"]
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    before = [event["event"] for event in events[: events.index(resumed)]].count("epoch")
    assert before >= 1
    assert resumed["epoch"] in (before - 1, before)
    assert epochs == [*range(before), *range(resumed["epoch"], 2)]


@pytest.mark.end_to_end
def test_a_killed_worker_costs_no_row_and_changes_no_result(
    ray_run: RayRun, tmp_path: Path
) -> None:
    events: list[Event] = []

    def kill_a_worker_after_the_first_epoch(event: Event) -> None:
        events.append(event)
        if [told["event"] for told in events].count("epoch") == 1 and event["event"] == "epoch":
            [worker, *_] = descendants("ray::RayTrainWo")
            worker.kill()

    table = ray_run.runs.parent / "training_examples"
    on_event = kill_a_worker_after_the_first_epoch
    model = train(table, tmp_path, version=0, num_workers=2, on_event=on_event)
    assert_an_epoch_was_lost_at_the_most(events)
    assert [report.train_rows for report in model.history] == [48, 48]
    assert model.metrics == ray_run.model.metrics


@pytest.mark.end_to_end
def test_a_worker_killed_within_an_epoch_costs_no_row_and_changes_no_result(
    ray_run: RayRun, tmp_path: Path
) -> None:
    events: list[Event] = []

    def kill_a_worker_in_the_second_epoch(event: Event) -> None:
        is_first = not any(told["event"] == "checkpoint" and told["epoch"] == 1 for told in events)
        events.append(event)
        if is_first and event["event"] == "checkpoint" and event["epoch"] == 1:
            [worker, *_] = descendants("ray::RayTrainWo")
            worker.kill()

    table = ray_run.runs.parent / "training_examples"
    on_event = kill_a_worker_in_the_second_epoch
    changes = {"num_workers": 2, "checkpoint_minutes": 1e-6}
    model = train(table, tmp_path, version=0, on_event=on_event, **changes)
    assert_an_epoch_was_lost_at_the_most(events)
    assert [report.train_rows for report in model.history] == [48, 48]
    assert [report.train_loss for report in model.history] == [
        report.train_loss for report in ray_run.model.history
    ]
    # Each checkpoint rounds the mean of the ranks' batch-norm statistics.
    assert model.metrics == pytest.approx(ray_run.model.metrics, rel=1e-3, nan_ok=True)


@pytest.mark.end_to_end
@pytest.mark.parametrize("max_failures", [0, 1])
def test_a_rank_that_hangs_is_ended_and_the_run_goes_on(
    training_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_failures: int
) -> None:
    hung = tmp_path / "hung"

    def hanging_once(config: dict[str, Any]) -> None:
        import time

        import ray.train

        from catalog_batch.modeling.preprocessing import Preprocessing
        from catalog_batch.train.worker import train_worker

        if ray.train.get_context().get_world_rank() == 1 and not hung.exists():
            hung.touch()
            Preprocessing.normalise = lambda self, images: time.sleep(300)  # type: ignore
        train_worker(config)

    monkeypatch.setattr(cluster, "train_worker", hanging_once)
    changes = {"num_workers": 2, "watchdog_minutes": 0.5, "checkpoint_minutes": 1e-6}
    changes["max_failures"] = max_failures
    if max_failures:
        model = train(training_table, tmp_path / "runs", **changes)
        assert [report.train_rows for report in model.history] == [48, 48]
    else:
        # The other rank waits for this one, and may be the first to be ended.
        with pytest.raises(CatalogBatchError, match=r"Rank [01] of 2 did nothing"):
            train(training_table, tmp_path / "runs", **changes)
    assert (tmp_path / "runs" / "run-1" / "stalled.txt").is_file()


@pytest.mark.end_to_end
def test_an_undecodable_image_ends_a_run_on_two_workers_at_once(
    write_table: Write, make_rows: Callable[..., list[Any]], tmp_path: Path
) -> None:
    rows = make_rows()
    rows[7]["content"] = b"no image at all"
    with pytest.raises(TrainingDataError, match=rows[7]["image_id"]):
        train(write_table(tmp_path / "t", rows), tmp_path / "runs", num_workers=2)
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def local_run(
    tmp_path_factory: pytest.TempPathFactory, write_table: Write
) -> Iterator[tuple[Path, TrainedModel]]:
    """Train two epochs in this process; returns the folder of table and runs, and the model."""
    folder = tmp_path_factory.mktemp("in_process")
    table = write_table(folder / "training_examples")
    yield folder, train(table, folder / "runs")


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder / "runs", target / "runs")
    shutil.rmtree(target / "runs" / "run-1" / "bundle")
    return target / "runs"


def test_without_workers_a_run_gives_a_bundle_that_loads(
    local_run: tuple[Path, TrainedModel],
) -> None:
    _, model = local_run
    assert load_bundle(model.bundle_folder).digest == model.digest
    assert [report.train_rows for report in model.history] == [48, 48]


def test_the_same_settings_give_the_same_losses(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, model = local_run
    with torch_threads(3):
        again = train(folder / "training_examples", tmp_path)
        assert torch.get_num_threads() == 3
    assert [report.train_loss for report in again.history] == [
        report.train_loss for report in model.history
    ]
    assert again.metrics == model.metrics


def test_training_takes_all_cores_when_it_is_alone_and_nobody_set_their_number() -> None:
    cores = len(os.sched_getaffinity(0))
    alone = TrainSettings(num_workers=0)
    assert worker.threads_of(alone) == cores
    assert worker.threads_of(alone.model_copy(update={"cpus_per_worker": 1})) == 1
    assert worker.threads_of(TrainSettings(num_workers=2)) == 1


def test_a_run_that_was_cut_off_goes_on_from_its_last_epoch(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, model = local_run
    runs = copy_of(folder, tmp_path)
    [final] = runs.glob("run-1/checkpoint_*_final")
    shutil.rmtree(final)
    # Of an earlier start with workers.
    (runs / "run-1" / checkpoints.RAY_NOTES).write_text("{}")
    events: list[Event] = []
    resumed = train(folder / "training_examples", runs, on_event=events.append)
    assert [event["event"] for event in events] == ["device", "resumed", "evaluated"]
    assert resumed.metrics == model.metrics
    assert not (runs / "run-1" / checkpoints.RAY_NOTES).exists()


def test_a_probe_on_features_learns_what_the_network_does_and_decodes_once(
    training_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = Preprocessing.decode, list[int]()

    def counted(self: Preprocessing, content: bytes) -> Any:
        calls.append(1)
        return decode(self, content)

    monkeypatch.setattr(Preprocessing, "decode", counted)
    told: list[Event] = []

    def run(name: str, **changes: Any) -> tuple[TrainedModel, int]:
        calls.clear()
        fixed = {"freeze": "backbone", "augmentation": "none", "ema_decay": 0.5, "epochs": 3}
        model = train(training_table, tmp_path / name, on_event=told.append, **fixed | changes)
        return model, len(calls)

    (slow, _), (fast, decoded), (_, at_least), _ = (
        run("slow", features_gib=0),
        run("fast"),
        run("short", epochs=1),
        run("changing", epochs=1, erasing=0.5, unfreeze_every=1),
    )
    kept = [(event["kept"], event["reason"]) for event in told if event["event"] == "features"]
    assert kept == [
        (False, "features of 0.000252 GiB, and train.features_gib is 0"),
        (True, ""),
        (True, ""),
        (False, "train.erasing is 0.5, train.unfreeze_every is 1"),
    ]
    for one, other in zip(slow.history, fast.history, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-4)
        assert other.train_rows == one.train_rows == 48
    assert fast.metrics["test_accuracy"] == slow.metrics["test_accuracy"]
    assert decoded == at_least


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": "balanced", "accumulate_steps": 2, "ema_decay": 0.5},
        {"freeze": "backbone", "augmentation": "none"},
    ],
    ids=["network", "probe"],
)
def test_a_run_stopped_within_an_epoch_repeats_the_undisturbed_one(
    training_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    undisturbed = train(training_table, tmp_path / "undisturbed", **changes)
    emit = worker.events.emit

    def stop_in_the_second_epoch(folder: Path, event: str, **values: Any) -> None:
        emit(folder, event, **values)
        if (event, values.get("epoch"), values.get("batches")) == ("checkpoint", 1, 4):
            raise OSError("disk full")

    monkeypatch.setattr(worker.events, "emit", stop_in_the_second_epoch)
    with pytest.raises((OSError, CatalogBatchError), match="disk full"):
        train(training_table, tmp_path / "runs", checkpoint_minutes=1e-9, **changes)
    monkeypatch.undo()
    told: list[Event] = []
    resumed = train(training_table, tmp_path / "runs", **changes, on_event=told.append)
    checkpoint = "checkpoint_000001_00000004"
    assert told[1] == {"event": "resumed", "checkpoint": checkpoint, "epoch": 1}
    assert [(r.train_loss, r.validation_loss, r.train_rows) for r in resumed.history] == [
        (r.train_loss, r.validation_loss, r.train_rows) for r in undisturbed.history
    ]
    assert resumed.metrics == undisturbed.metrics


def test_a_resumed_run_does_without_the_weights_that_it_was_started_from(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, model = local_run
    runs = copy_of(folder, tmp_path)
    weights = str(tmp_path / "gone.safetensors")
    written = checkpoints.read_json(runs / "run-1", "run.json")
    checkpoints.write_json(runs / "run-1", "run.json", {**written, "weights": weights})
    [final] = runs.glob("run-1/checkpoint_*_final")
    shutil.rmtree(final)
    resumed = train(folder / "training_examples", runs, weights=weights)
    assert resumed.metrics == model.metrics
    with pytest.raises(BadInputError, match=r"gone\.safetensors"):
        train(folder / "training_examples", tmp_path / "new", weights=weights)


def test_a_run_with_a_damaged_newest_checkpoint_goes_on_from_the_one_before(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, model = local_run
    runs = copy_of(folder, tmp_path)
    [final] = runs.glob("run-1/checkpoint_*_final")
    (final / checkpoints.BEST).write_bytes(b"cut off")
    events: list[Event] = []
    resumed = train(folder / "training_examples", runs, on_event=events.append)
    assert [event["event"] for event in events] == [
        "device",
        "checkpoint_refused",
        "resumed",
        "evaluated",
    ]
    assert events[1]["checkpoint"] == final.name
    assert resumed.metrics == model.metrics


@pytest.mark.end_to_end
def test_two_workers_go_on_from_before_a_damaged_checkpoint(
    ray_run: RayRun, tmp_path: Path
) -> None:
    runs = copy_of(ray_run.runs.parent, tmp_path)
    for checkpoint in runs.glob("run-1/checkpoint_*"):
        if checkpoints.is_final(checkpoint):
            (checkpoint / checkpoints.BEST).write_bytes(b"cut off")
    events: list[Event] = []
    resumed = train(
        ray_run.runs.parent / "training_examples",
        runs,
        version=0,
        num_workers=2,
        on_event=events.append,
    )
    told = [event["event"] for event in events if event["event"] not in PASSING]
    assert told == ["device", "checkpoint_refused", "resumed", "evaluated"]
    assert resumed.metrics == ray_run.model.metrics


def test_settings_that_change_what_a_run_is_are_refused_by_name(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, _ = local_run
    runs = copy_of(folder, tmp_path)
    with pytest.raises(ConfigError, match=r"'learning_rate': \(0.001, 0.5\)"):
        train(folder / "training_examples", runs, learning_rate=0.5)


def test_what_follows_from_a_changed_setting_is_not_told_beside_it(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, _ = local_run
    with pytest.raises(
        ConfigError, match=r"\(then, now\) {'image_side': \(\d+, 48\)}\. Take"
    ) as told:
        train(folder / "training_examples", copy_of(folder, tmp_path), image_side=48)
    assert "give a new --run-name" in str(told.value)


def test_a_runs_folder_that_cannot_be_written_is_refused_before_ray_starts(
    training_table: Path, tmp_path: Path, no_ray: None
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"'.*/file/runs/run-1' cannot be written \(Not a dir.*DIR"
    ):
        train(training_table, tmp_path / "file" / "runs")


def test_they_are_refused_before_weights_are_looked_for(
    local_run: tuple[Path, TrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = local_run
    (tmp_path / "run-1").mkdir()  # that was killed before its first checkpoint
    shutil.copy(folder / "runs" / "run-1" / trainer.RUN, tmp_path / "run-1")
    monkeypatch.delattr(trainer, "network_for")
    with pytest.raises(ConfigError, match=r"'weights': \('none', 'imagenet'\)"):
        train(folder / "training_examples", tmp_path, weights="imagenet")


def test_a_run_that_gets_no_better_stops_and_keeps_its_best_epoch(
    local_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    folder, _ = local_run
    events: list[Event] = []
    model = train(
        folder / "training_examples",
        tmp_path,
        on_event=events.append,
        epochs=9,
        patience=1,
        learning_rate=1e-12,
    )
    improved = [report.improved for report in model.history]
    assert improved == [True] * (len(improved) - 1) + [False]
    assert [event["event"] for event in events].count("epoch") == len(improved) < 9
    assert model.metrics["validation_accuracy"] == model.history[-2].validation_accuracy


def test_a_run_leaves_its_predictions_and_a_bundle_that_gives_the_same_logits(
    local_run: tuple[Path, TrainedModel], make_rows: Callable[..., list[Any]]
) -> None:
    folder, model = local_run
    found = load_predictions(folder / "runs" / "run-1" / "predictions-test.npz")
    rows = sorted(make_rows({"test": 12}), key=lambda row: row["image_id"])
    assert found.image_ids.tolist() == [row["image_id"] for row in rows]
    assert found.category_ids == ("bags", "shoes", "lamps")
    assert [found.category_ids[label] for label in found.labels] == [
        row["category_id"] for row in rows
    ]
    bundle = load_bundle(model.bundle_folder)
    images = np.stack([bundle.spec.preprocessing.decode(row["content"]) for row in rows])
    with torch.inference_mode():
        logits = bundle.network(bundle.spec.preprocessing.normalise(torch.from_numpy(images)))
    np.testing.assert_allclose(found.logits, logits.numpy(), rtol=1e-4, atol=1e-4)
    assert model.metrics["test_accuracy"] == found.correct.mean()


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"num_workers": 11}, TrainingDataError, "has 10 row groups .* 11 workers"),
        ({"version": 5}, MissingTableError, "no version 5"),
        ({"architecture": "resnet0"}, ValueError, "resnet0"),
        ({"weights": "nowhere.pth"}, ValueError, "nowhere.pth"),
        ({"unfreeze_every": 2}, BadInputError, "unfreeze_every is 2.*freeze to 'backbone'"),
        (
            {"mixing": "cutmix", "batch_size": 1},
            BadInputError,
            "mixing is 'cutmix' and batch_size is 1.*Set batch_size to 2",
        ),
        (
            {"sampling": "balanced", "class_weights": "balanced"},
            BadInputError,
            "sampling and class_weights are both 'balanced'.*Set one",
        ),
        (
            {"weights_sha256": "00ff"},
            BadInputError,
            "weights_sha256 is '00ff' and weights is 'none'.*Set weights to the file",
        ),
        ({"warmup_epochs": 2}, BadInputError, "warmup_epochs is 2 and epochs 2.*less than epochs"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_ray_starts(
    training_table: Path,
    tmp_path: Path,
    no_ray: None,
    changes: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        train(training_table, tmp_path / "runs", **{"num_workers": 2, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"num_workers": 11},
        {"version": 5},
        {"architecture": "resnet0"},
        {"unfreeze_every": 2},
        {"warmup_epochs": 2},
        {"freeze": "features.99"},
        {"precision": "fp16"},
    ],
)
def test_what_cannot_be_trained_is_refused_before_weights_are_downloaded(
    training_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    def download(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    small = {"weights": "imagenet", "image_side": 32}
    with pytest.raises(AssertionError, match="a download was started"):
        train(training_table, tmp_path / "runs", **small)
    with pytest.raises(CatalogBatchError):
        train(training_table, tmp_path / "runs", **{**small, **changes})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_that_is_not_there_is_refused_before_ray_starts(
    training_table: Path, tmp_path: Path, no_ray: None, workers: int
) -> None:
    advice = r"train\.device is 'gpu' and there are 0 GPUs for \d workers\. Set train\.device to"
    with pytest.raises(ConfigError, match=advice):
        train(training_table, tmp_path / "runs", device="gpu", num_workers=workers)


def test_a_process_of_a_cluster_that_sees_no_gpu_leaves_them_to_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    wanted = settings_for_test(device="gpu", num_workers=2)
    halved = settings_for_test(device="auto", precision="fp16", num_workers=2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"there are 0 GPUs"):
        require_recipe(wanted)
    with pytest.raises(BadInputError, match="fp16"):
        require_recipe(halved)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    require_recipe(wanted)
    require_recipe(halved)


def test_what_a_gpu_alone_can_do_is_refused_where_there_is_not_one_for_each_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    require_recipe(settings_for_test(device="auto", precision="fp16", num_workers=1))
    with pytest.raises(BadInputError, match="fp16"):
        require_recipe(settings_for_test(device="auto", precision="fp16", num_workers=2))


def test_settings_that_can_be_trained_do_start_ray(
    training_table: Path, tmp_path: Path, no_ray: None
) -> None:
    with pytest.raises(AssertionError, match="Ray was started"):
        train(training_table, tmp_path / "runs", num_workers=2)


@pytest.mark.parametrize(
    ("device", "workers", "gpus", "chosen"),
    [
        ("auto", 2, 1, "cpu"),
        ("auto", 2, 2, "gpu"),
        ("auto", 0, 1, "gpu"),
        ("auto", 0, 0, "cpu"),
        ("cpu", 2, 2, "cpu"),
        ("gpu", 0, 1, "gpu"),
    ],
)
def test_the_device_is_told_with_the_gpus_that_there_are(
    device: str, workers: int, gpus: int, chosen: str
) -> None:
    found = device_for(settings_for_test(device=device, num_workers=workers), gpus)
    needed = max(1, workers)
    assert found == (
        chosen,
        f"train.device is {device!r} and there are {gpus} GPUs for {needed} workers",
    )


def test_a_workers_error_comes_back_as_it_was_raised() -> None:
    refused = TrainingDataError("Image 'a' cannot be decoded.")
    lost = UserExceptionWithTraceback(RuntimeError("connection closed"), "Traceback ...")
    wrapped = UserExceptionWithTraceback(refused, "Traceback ...")
    assert as_our_error(WorkerGroupError("failed", {0: lost, 1: wrapped})) is refused
    assert as_our_error(ControllerError(ControllerError(refused))) is refused


def test_a_rank_that_hung_is_told_with_the_death_of_its_process() -> None:
    error = UserExceptionWithTraceback(RuntimeError(), "The actor died")
    ours = as_our_error(WorkerGroupError("failed", {1: error}), "Rank 1 of 2 did nothing. ")
    assert "actor died. Rank 1 of 2 did nothing. The run's checkpoints stay" in str(ours)


def test_a_foreign_error_of_a_worker_is_told_with_its_rank_and_last_line() -> None:
    error = UserExceptionWithTraceback(
        RuntimeError(), "Traceback:\n  line\nRuntimeError: no memory"
    )
    ours = as_our_error(WorkerGroupError("failed", {1: error}))
    assert type(ours) is CatalogBatchError
    assert "ranks [1]" in str(ours)
    assert "RuntimeError: no memory" in str(ours)
    assert "same --run-name" in str(ours)


@pytest.mark.parametrize(
    "error", [TrainingDataError("no image"), DivergenceError("The loss is nan")]
)
def test_bad_input_and_divergence_end_a_run_at_once_and_other_errors_leave_it_to_ray(
    error: BadInputError,
) -> None:
    callback = StopOnBadInput()
    callback.after_exception(None, {0: RuntimeError("lost"), 1: ReconciliationError("lost rows")})
    with pytest.raises(type(error), match=str(error)):
        callback.after_exception(None, {1: UserExceptionWithTraceback(error, "")})


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_an_optimisers_state_survives_a_checkpoint(tmp_path: Path, name: Any) -> None:
    network = nn.Linear(2, 2)
    optimizer = make_optimizer(name, network.parameters(), 0.1)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()["state"]
    checkpoints.write_optimizer(tmp_path, state)
    read = checkpoints.read_optimizer(tmp_path)
    assert {parameter: set(values) for parameter, values in read.items()} == {
        parameter: {key for key, tensor in values.items() if tensor is not None}
        for parameter, values in state.items()
    }
    for parameter, values in read.items():
        for key, tensor in values.items():
            assert torch.equal(state[parameter][key], tensor)


def test_the_newest_checkpoint_stays_beside_those_that_ray_named(tmp_path: Path) -> None:
    for name in ("checkpoint_2026-01-01_00-00-00.0", "checkpoint_2026-01-01_00-01-00.0"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, ns=(0, len(list(tmp_path.iterdir()))))
    kept = checkpoints.keep(written(tmp_path, FitState()), "000004")
    assert kept.is_dir()
    assert not (tmp_path / "checkpoint_2026-01-01_00-00-00.0").exists()


def test_a_checkpoint_stays_though_the_clock_was_set_back(tmp_path: Path) -> None:
    for name in ("checkpoint_000001", "checkpoint_000002"):
        (tmp_path / name).mkdir()
        ahead = time.time() + 3600 + len(list(tmp_path.iterdir()))
        os.utime(tmp_path / name, (ahead, ahead))
    checkpoints.keep(written(tmp_path, FitState()), "000003")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_000002",
        "checkpoint_000003",
    ]


def test_the_newest_whole_checkpoint_is_found_and_the_damaged_ones_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_manager_snapshot.json").write_text("{}")
    for epoch in range(1, 4):
        checkpoints.keep(written(tmp_path, FitState(epoch=epoch)), f"{epoch:06d}")
    assert sorted(path.name for path in tmp_path.glob("checkpoint_0*")) == [
        "checkpoint_000002",
        "checkpoint_000003",
    ]
    (tmp_path / "checkpoint_000003" / checkpoints.STATE).write_text("{}")
    newest, damaged = checkpoints.newest_whole(tmp_path)
    assert newest == tmp_path / "checkpoint_000002"
    assert damaged == {"checkpoint_000003": "changed files ['state.json']"}


@pytest.mark.parametrize("manifest", ["null", "7", "[]", "{}", "[1]", '{"state.json": 1}', "{", ""])
def test_a_checkpoint_whose_manifest_was_damaged_is_not_gone_on_from(
    tmp_path: Path, manifest: str
) -> None:
    for epoch in (1, 2):
        checkpoints.keep(written(tmp_path, FitState(epoch=epoch)), f"{epoch:06d}")
    (tmp_path / "checkpoint_000002" / checkpoints.MANIFEST).write_text(manifest)
    newest, damaged = checkpoints.newest_whole(tmp_path)
    assert newest == tmp_path / "checkpoint_000001"
    assert [*damaged] == ["checkpoint_000002"]


def saved(run_folder: Path, state: FitState) -> Path:
    """Save a state as a checkpoint of its own; Ray too names them by the clock."""
    return checkpoints.keep(written(run_folder, state), f"{len(list(run_folder.iterdir()))}")


def partial_epoch(batches: int, rows_of_rank: int, ranks: int) -> PartialEpoch:
    return PartialEpoch(batches, ((1.0, 8.0, 4.0, float(rows_of_rank)),) * ranks, 1.0, 0.0)


def test_an_epoch_begun_anew_on_other_ranks_has_come_further_than_before(tmp_path: Path) -> None:
    state = FitState(epoch=3, partial=partial_epoch(batches=9, rows_of_rank=72, ranks=1))
    saved(tmp_path, state)
    state = checkpoints.read_state(checkpoints.newest_whole(tmp_path)[0] or tmp_path)
    state.begin_anew()
    # A step of two ranks has seen more rows than one of the nine before, and fewer than all.
    state.partial = partial_epoch(batches=1, rows_of_rank=8, ranks=2)
    newer = saved(tmp_path, state)
    assert checkpoints.newest_whole(tmp_path)[0] == newer
    assert checkpoints.read_state(newer).rows_of_epoch == 72 + 16


def test_ranks_that_have_done_more_rows_in_fewer_batches_have_come_further(tmp_path: Path) -> None:
    further = saved(tmp_path, FitState(3, partial=partial_epoch(5, rows_of_rank=40, ranks=4)))
    saved(tmp_path, FitState(3, partial=partial_epoch(9, rows_of_rank=72, ranks=1)))
    assert checkpoints.newest_whole(tmp_path)[0] == further


def test_an_epoch_that_ended_is_further_than_one_begun_anew_many_times(tmp_path: Path) -> None:
    saved(tmp_path, FitState(epoch=3, partial=partial_epoch(9, 72, 1), rows_before=1000))
    ended = saved(tmp_path, FitState(epoch=4))
    assert checkpoints.newest_whole(tmp_path)[0] == ended

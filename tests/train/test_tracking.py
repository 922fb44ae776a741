"""A run in MLflow, TensorBoard and W&B, read back from what each of them wrote."""

import contextlib
import logging
import shutil
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.event_file_writer import AtomicCounter
from tests.processes import descendants

from catalog_batch.config import Settings, load_settings
from catalog_batch.errors import ConfigError
from catalog_batch.registry import STORE, open_client, open_store
from catalog_batch.train import events
from catalog_batch.train.tracking.tracker import EXPERIMENT, TrackedRun
from catalog_batch.train.tracking.trackers import Trackers, open_trackers
from catalog_batch.train.tracking.wandb_tracker import WandbTracker

NAME = "night"
NOWHERE = "http://127.0.0.1:9"


def settings_for(root: Path, *trackers: str, **changes: Any) -> Settings:
    train = {"trackers": trackers, "seed": 5, **changes}
    return Settings.model_validate({"warehouse": str(root), "train": train})


class Following:
    """A run whose events are written to its folder and told, as in a training."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.runs_folder / NAME
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trackers = open_trackers(settings, NAME, "abc123")

    def tell(self, event: str, **values: Any) -> None:
        events.emit(self.folder, event, **values)
        self.trackers.log_event({"event": event, **values})

    def start(self) -> None:
        Image.new("RGB", (6, 4), (200, 40, 40)).save(self.folder / "augmentation.png")
        self.tell("started", table="t", table_version=3, sheet="augmentation.png")

    def epochs(self, *numbers: int) -> None:
        for epoch in numbers:
            self.tell("epoch", epoch=epoch, train_loss=1 / (epoch + 1), improved=True)
            self.tell("system", batch=10 * (epoch + 1), cpu_percent=50.0)

    def end(self) -> None:
        (self.folder / "report.html").write_text("<h1>night</h1>", encoding="utf-8")
        self.trackers.log_artefacts([self.folder / "report.html"])
        self.trackers.end({"test_accuracy": 0.9})


def follow_a_run_that_is_resumed(settings: Settings, pause: float = 0.0) -> Following:
    """Log epochs 0 and 1, then resume at 1, whose checkpoint was damaged, up to 2."""
    first = Following(settings)
    first.start()
    first.epochs(0, 1)
    first.trackers.end({}, succeeded=False)
    time.sleep(pause)
    again = Following(settings)
    again.tell("resumed", checkpoint="c", epoch=1)
    again.epochs(1, 2)
    again.end()
    return again


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """Return a warehouse with an empty registry."""
    (tmp_path / "_registry").mkdir()
    shutil.copy(empty_store, tmp_path / "_registry" / STORE)
    return tmp_path


def the_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    [run] = client.search_runs([experiment.experiment_id])
    return run


def test_mlflow_holds_one_run_with_its_curves_also_when_it_was_resumed(root: Path) -> None:
    follow_a_run_that_is_resumed(settings_for(root, "mlflow"))
    client = open_store(root / "_registry")
    run = the_run(client)
    history = client.get_metric_history(run.info.run_id, "train_loss")
    points = sorted((point.step, point.value) for point in history)
    assert points == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert run.data.params["seed"] == "5"
    assert run.data.tags["git_commit"] == "abc123"
    assert run.data.tags["table_version"] == "3"
    assert run.data.metrics["system/cpu_percent"] == 50.0
    assert run.data.metrics["test_accuracy"] == 0.9
    assert run.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"augmentation.png", "report.html"}
    assert [path.name for path in root.rglob("report.html") if "_registry" in path.parts]


def test_mlflow_copies_nothing_to_where_a_warehouse_was_before_it_was_moved(root: Path) -> None:
    Following(settings_for(root, "mlflow")).trackers.end({})
    moved = root / "moved"
    moved.mkdir()
    shutil.move(root / "_registry", moved)
    follow_a_run_that_is_resumed(settings_for(moved, "mlflow"))
    assert not (root / "_registry").exists()


def test_any_other_mlflow_store_takes_the_run_and_its_uri_is_not_logged(
    tmp_path: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    settings = settings_for(tmp_path / "w", "mlflow", mlflow_uri=uri)
    following = Following(settings)
    following.epochs(0)
    following.trackers.end({})
    run = the_run(open_client(uri))
    assert run.data.metrics["train_loss"] == 1.0
    assert "mlflow_uri" not in run.data.params
    assert uri not in repr(settings)
    assert not settings.registry_folder.exists()


@pytest.mark.parametrize("uri", ["pigeon://me:secret@here", "file:/tmp/mlruns"])
def test_a_uri_that_mlflow_does_not_know_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no address that MLflow .*http://HOST:5000") as info:
        open_trackers(settings_for(tmp_path, "mlflow", mlflow_uri=uri), NAME, "abc123")
    assert "secret" not in "".join(traceback.format_exception(info.value))


def test_a_server_that_does_not_answer_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    uri = NOWHERE.replace("://", "://me:secret@")
    following = Following(settings_for(tmp_path, "mlflow", mlflow_uri=uri))
    following.epochs(0)
    following.end()
    assert_one_warning(caplog, "'mlflow'", "Connection refused")
    assert "secret" not in caplog.text


def assert_one_warning(caplog: pytest.LogCaptureFixture, tracker: str, cause: str) -> None:
    ours = [record for record in caplog.records if record.name.startswith("catalog_batch")]
    [record] = [record for record in ours if record.levelno >= logging.WARNING]
    assert f"tracker {tracker} failed and is told no more of run night" in record.getMessage()
    assert cause in caplog.text


def test_a_store_that_is_lost_on_the_way_costs_one_warning(
    tmp_path: Path, empty_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "other.db"
    shutil.copy(empty_store, store)
    following = Following(settings_for(tmp_path, "mlflow", mlflow_uri=f"sqlite:///{store}"))
    following.epochs(0)
    store.write_bytes(b"lost")
    following.epochs(1, 2)
    following.end()
    assert_one_warning(caplog, "'mlflow'", "file is not a database")


def curves_in(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


@pytest.mark.parametrize("opened_before", range(6, 10))
def test_tensorboard_shows_one_point_an_epoch_also_when_one_was_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened_before: int
) -> None:
    # A tenth file of a process has a name before that of the ninth.
    monkeypatch.setattr(event_file_writer, "_global_uid", AtomicCounter(opened_before))
    folder = follow_a_run_that_is_resumed(settings_for(tmp_path, "tensorboard")).folder
    curves = curves_in(folder / "tensorboard")
    points = [(point.step, point.value) for point in curves.Scalars("loss/train")]
    assert points == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    [sheet] = curves.Images("augmentation")
    assert (sheet.width, sheet.height) == (6, 4)
    assert "table_version" in str(curves.Tensors("lineage/text_summary"))
    assert "abc123" in str(curves.Tensors("settings/text_summary"))
    [accuracy] = curves.Scalars("final/test_accuracy")
    assert accuracy.value == pytest.approx(0.9)
    assert (
        curves.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
    )
    system = curves_in(folder / "tensorboard" / "system")
    assert [point.step for point in system.Scalars("system/cpu_percent")] == [10, 20, 30]


def test_a_tracker_that_is_added_later_gets_the_earlier_epochs_too(tmp_path: Path) -> None:
    first = Following(settings_for(tmp_path))
    first.start()
    first.epochs(0, 1)
    Following(settings_for(tmp_path, "tensorboard")).trackers.end({})
    curves = curves_in(first.folder / "tensorboard")
    assert [point.step for point in curves.Scalars("loss/train")] == [0, 1]
    assert curves.Images("augmentation")


def test_a_tracker_that_breaks_on_the_way_costs_one_warning_and_the_others_go_on(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    following = Following(settings_for(root, "tensorboard", "mlflow"))
    (following.folder / "tensorboard" / "system").write_text("in the way", encoding="utf-8")
    following.start()
    following.epochs(0, 1)
    following.end()
    assert_one_warning(caplog, "'tensorboard'", "FileExistsError")
    assert the_run(open_store(root / "_registry")).data.metrics["train_loss"] == 0.5


def test_the_failure_of_the_training_closes_the_run_as_failed(root: Path) -> None:
    Following(settings_for(root, "mlflow")).trackers.end({}, succeeded=False)
    assert the_run(open_store(root / "_registry")).info.status == "FAILED"


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give W&B a server that is not there, and no settings of whoever runs the tests."""
    import wandb

    wandb.teardown()
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    with contextlib.suppress(ConnectionError):  # Of the test that kills its service.
        wandb.teardown()


def written_by_wandb(folder: Path) -> list[Path]:
    """Wait until its service has written all, as the end of a process does."""
    import wandb

    wandb.teardown()
    return sorted(folder.glob("wandb/offline-run-*/run-night.wandb"))


def wandb_records(path: Path) -> Iterator[Any]:
    """Read a ``.wandb`` file: LevelDB's log of protobuf records, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = path.read_bytes(), 7, b""
    while position < len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def wandb_points(records: list[Any], name: str) -> list[float]:
    return [
        float(item.value_json)
        for record in records
        for item in record.history.item
        if name in (item.key, "/".join(item.nested_key))
    ]


def test_wandb_offline_writes_one_run_that_a_sync_can_send(
    tmp_path: Path, no_account: None
) -> None:
    # W&B names its folders by the second.
    folder = follow_a_run_that_is_resumed(settings_for(tmp_path, "wandb"), pause=1.1).folder
    files = written_by_wandb(folder)
    records = [record for file in files for record in wandb_records(file)]
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.project) for run in runs} == {(NAME, EXPERIMENT)}
    assert wandb_points(records, "train_loss") == [1.0, 0.5, 1 / 3]
    assert wandb_points(records, "system/cpu_percent") == [50.0] * 4
    config = {item.key: item.value_json for run in runs for item in run.config.update}
    assert (config["seed"], config["git_commit"]) == ("5", '"abc123"')
    updated = {item.key: item.value_json for record in records for item in record.config.update}
    assert updated["table_version"] == '"3"'
    summary = {item.key: item.value_json for record in records for item in record.summary.update}
    assert summary["test_accuracy"] == "0.9"
    assert [path.name for path in folder.glob("wandb/offline-run-*/files/*.html")]
    assert list(folder.glob("wandb/offline-run-*/files/media/images/augmentation*.png"))


def test_wandb_without_an_answer_goes_on_offline(
    tmp_path: Path,
    no_account: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = TrackedRun(NAME, tmp_path / NAME, {}, "abc123")
    tracker = WandbTracker("online", run, seconds_to_reach=2)
    tracker.log_epoch(0, {"train_loss": 1.0})
    tracker.end({}, succeeded=True)
    assert "W&B does not answer: run night goes on offline" in caplog.text
    [file] = written_by_wandb(tmp_path / NAME)
    assert wandb_points(list(wandb_records(file)), "train_loss") == [1.0]


def test_wandb_online_without_a_key_is_refused(tmp_path: Path, no_account: None) -> None:
    settings = settings_for(tmp_path, "wandb", wandb_mode="online")
    with pytest.raises(ConfigError, match="Run 'wandb login', set WANDB_API_KEY"):
        open_trackers(settings, NAME, "abc123")


def test_wandb_that_dies_on_the_way_costs_one_warning(
    tmp_path: Path, no_account: None, caplog: pytest.LogCaptureFixture
) -> None:
    following = Following(settings_for(tmp_path, "wandb"))
    following.epochs(0)
    [core] = descendants("wandb-core")
    core.kill()
    core.wait()
    following.epochs(1, 2)
    following.end()
    assert_one_warning(caplog, "'wandb'", "")


def test_wandb_is_asked_for_by_name_where_it_is_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[wandb\]'"):
        open_trackers(settings_for(root, "mlflow", "wandb"), NAME, "abc123")
    assert the_run(open_store(root / "_registry")).info.status == "FAILED"


@pytest.mark.parametrize(
    ("text", "trackers"),
    [("mlflow, tensorboard", ("mlflow", "tensorboard")), ("wandb", ("wandb",)), ("", ())],
)
def test_trackers_are_given_as_a_list_with_commas(text: str, trackers: tuple[str, ...]) -> None:
    assert load_settings(overrides=[f"train.trackers={text}"]).train.trackers == trackers


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.trackers.0 = 'clearml'.*'mlflow'"):
        load_settings(overrides=["train.trackers=clearml"])


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    trackers = open_trackers(settings_for(tmp_path), NAME, "abc123")
    assert isinstance(trackers, Trackers)
    trackers.log_event({"event": "epoch", "epoch": 0, "train_loss": 1.0})
    trackers.end({})
    assert list(tmp_path.iterdir()) == []

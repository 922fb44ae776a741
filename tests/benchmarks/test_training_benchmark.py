"""The lanes of the training benchmarks on a few small pictures: the same work, not speed."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from benchmarks import measure
from benchmarks.ingest.photos import Dataset
from benchmarks.training import augmentation, grocery_store, input, reading, step, stepping
from benchmarks.training.data import TrainingData, make_large_file, store_photos
from benchmarks.training.input import BARE, LOADER, OURS, Lane, LaneRuns, Size
from benchmarks.training.stepping import AUGMENTED, READ, Setup
from deltalake import write_deltalake
from PIL import Image
from tests.commands import ROOT

from catalog_batch.config import TrainSettings, load_settings
from catalog_batch.train.snapshot import resolve_snapshot

COUNT = 160
SIZE = Size(COUNT, rounds=2, rounds_alone=2, small=COUNT, small_epochs=2, large=2 * COUNT)
DATASET = ROOT.parent / "shared" / "data" / "grocery-store" / "dataset"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Store pictures of noise in two classes."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(3)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_uri", "category"])
        for index in range(COUNT):
            pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            (folder / "images").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg", quality=90)
            writer.writerow([f"{index}.jpg", ("bags", "lamps")[index % 2]])
    return store_photos(Dataset(folder, COUNT), folder / "stored")


@pytest.fixture(scope="module")
def found(data: TrainingData) -> LaneRuns:
    """Run each way to read in this process, with so little warm-up that a middle is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WARM_UP", 1)
        patch.setattr(reading, "SETTINGS", TrainSettings(batch_size=32, shuffle_rows=40))
        lanes = (Lane(OURS, 2), Lane(BARE, 1), Lane(BARE, 2), Lane(LOADER, 1))
        return {lane: served(lane, data) for lane in lanes}


def served(lane: Lane, data: TrainingData, batches: int = 0) -> input.Run:
    """Read what is not timed and two epochs that are, in this process."""
    first, *epochs = reading.serve(lane.name, data, lane.workers, batches, ["\n", "\n"])
    return {**first, "epochs": [{**epoch, "tree_mib": 1.0} for epoch in epochs]}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def written(results: Path, suffix: str) -> str:
    (path,) = results.glob(f"*.{suffix}")
    return path.read_text(encoding="utf-8")


def test_augmentation_is_timed_in_each_lane_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "BATCH", 2)
    monkeypatch.setattr(augmentation, "SIDE", 32)
    monkeypatch.setattr(augmentation, "REPEATS", 1)
    measured = augmentation.measure("cpu")
    ours, torchvisions, _ = augmentation.LANES
    assert {name for name, found in measured.items() if ours in found} == set(measured)
    assert {name for name, found in measured.items() if torchvisions in found} == {
        "article", "crop", "colour jitter 0.4", "erasing 1.0",
    }  # fmt: skip
    page = augmentation.page_of({"cpu": measured})
    assert f"| cpu | crop | {measured['crop'][ours]:,.0f} | " in page
    assert page.count("| cpu |") == len(measured) == 8


def test_the_stored_table_has_the_bytes_of_the_files(data: TrainingData) -> None:
    (url,) = resolve_snapshot(str(data.table)).splits["train"].urls
    rows = pq.ParquetFile(url.removeprefix("file://")).read()
    contents = {path.read_bytes() for path in data.files.glob("*/*.jpg")}
    assert len(rows) == COUNT
    assert set(rows["content"].to_pylist()) == contents
    assert len(contents) == COUNT


def test_every_way_to_read_gives_every_picture_with_the_same_pixels(found: LaneRuns) -> None:
    input.require_same_pixels(found)
    assert {run["images"] for run in found.values()} == {COUNT}
    epochs = [epoch for run in found.values() for epoch in run["epochs"]]
    assert [epoch["images"] for epoch in epochs] == [COUNT] * 8
    assert all(epoch["steady_images_per_second"] > 0 for epoch in epochs)


def test_a_lane_that_decodes_something_else_gives_no_figure(found: LaneRuns) -> None:
    lane, run = Lane(BARE, 9), found[Lane(BARE, 1)]
    with pytest.raises(SystemExit, match=r"different pictures.*bare loop, 9 threads"):
        input.require_same_pixels({**found, lane: {**run, "checksum": run["checksum"] + 1}})


def test_the_sum_over_pixels_knows_no_order_but_every_pixel() -> None:
    pictures = torch.arange(48, dtype=torch.uint8).view(4, 2, 2, 3)
    labels = torch.zeros(4)
    images, total = reading.checksum([(pictures, labels)])
    assert (images, total) == reading.checksum(
        [(pictures.flip(0)[:1], labels), (pictures[:3], labels)]
    )
    assert total != reading.checksum([(pictures + 1, labels)])[1]


def test_the_steady_state_is_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2,304 images are 72 batches; 32 of them are held to be drawn from, 10 warm up.
    clock = SimpleNamespace(perf_counter=iter([0.0, *clock_of(72), 99.0]).__next__)
    monkeypatch.setattr(reading, "time", clock)
    settings = TrainSettings(batch_size=32, shuffle_rows=32 * 32)
    monkeypatch.setattr(reading, "SETTINGS", settings)
    pace = reading.time_epoch([(torch.zeros(32), None)] * 72, 2304)
    assert (pace.images, pace.seconds, pace.first_batch_seconds) == (2304, 99.0, 5.0)
    assert pace.steady_images_per_second == pytest.approx(32 / 0.5)


def clock_of(batches: int) -> list[float]:
    """Time a slow start, half a second for a batch, and a quick end."""
    return [5.0 + 0.5 * min(number, 40) for number in range(batches)]


def test_too_few_images_have_no_steady_state() -> None:
    assert reading.time_epoch([(torch.zeros(32), None)] * 5, 160).steady_images_per_second is None


def test_the_result_of_reading_has_every_lane_and_the_best_bare_loop_counts(
    found: LaneRuns, results: Path
) -> None:
    memory = found[Lane(OURS, 2)]
    goals = input.goals_of(found, found, {}, memory)
    page = input.page_of(found, found, {}, found, memory, SIZE)
    result = {"quick": True, "idle_before": 1.0, "lanes": input.as_json(found)}
    measure.write_result("training-input", result, page, goals, "make bench-training")
    stored = json.loads(written(results, "json"))
    paces = {lane["lane"]: lane["images_per_second"] for lane in stored["lanes"]}
    assert list(paces) == [
        "catalog-batch, 2 threads",
        "bare loop, 1 threads",
        "bare loop, 2 threads",
        "DataLoader over files, 1 processes",
    ]
    best = max(("bare loop, 1 threads", "bare loop, 2 threads"), key=lambda name: paces[name])
    epochs = {lane["lane"]: lane["epochs"] for lane in stored["lanes"]}
    key, mine = "steady_images_per_second", epochs["catalog-batch, 2 threads"]
    others = (best, "DataLoader over files, 1 processes")
    for goal, other in zip(stored["goals"][1:3], others, strict=True):
        ratios = [a[key] / b[key] for a, b in zip(mine, epochs[other], strict=True)]
        assert goal["value"] == pytest.approx(sum(ratios) / 2)  # The median of two.
    whole = [b["seconds"] / a["seconds"] for a, b in zip(mine, epochs[best], strict=True)]
    assert stored["goals"][0]["value"] == pytest.approx(sum(whole) / 2)
    assert stored["goals"][3]["name"] == "training_input_memory_growth"
    assert "Made by `make bench-training QUICK=1`" in written(results, "md")


def test_a_large_file_is_read_in_part(data: TrainingData, tmp_path: Path) -> None:
    large = make_large_file(data, 2 * COUNT + 1, tmp_path)
    (url,) = resolve_snapshot(str(large.table)).splits["train"].urls
    assert pq.read_metadata(url.removeprefix("file://")).num_rows == 2 * COUNT + 1
    runs = [served(Lane(name, 2), large, batches=2) for name in (OURS, BARE)]
    assert [epoch["images"] for run in runs for epoch in run["epochs"]] == [64] * 4


def test_lanes_read_in_turn_in_processes_of_their_own(data: TrainingData) -> None:
    lanes = [Lane(BARE, 1), Lane(BARE, 2, cores=1)]
    found = input.measure_lanes(lanes, data, rounds=2)
    input.require_same_pixels(found)
    assert {run["images"] for run in found.values()} == {COUNT}
    epochs = [epoch for run in found.values() for epoch in run["epochs"]]
    assert [epoch["images"] for epoch in epochs] == [COUNT] * 4
    # A process that has loaded torch is larger than that, and smaller than a machine.
    assert all(50 < epoch["tree_mib"] < 5000 for epoch in epochs)


def test_a_lane_that_fails_ends_the_benchmark(data: TrainingData, capfd: Any) -> None:
    missing = TrainingData(data.folder / "missing", COUNT)
    with pytest.raises(
        SystemExit, match=r"bare loop, 1 threads failed with exit code 1, see above"
    ):
        input.measure_lanes([Lane(BARE, 1)], missing, rounds=1)
    assert "missing" in capfd.readouterr().err


def test_lanes_and_cores_follow_the_machine() -> None:
    assert [lane.workers for lane in input.lanes_for(8) if lane.name == BARE] == [1, 8, 16]
    assert input.lanes_for(1)[0] == Lane(OURS, 2)
    assert {lane.cores for lane in input.scaling_lanes(8)} == {1, 2, 4}
    assert input.scaling_lanes(1) == []


def test_memory_that_grows_is_told() -> None:
    after = [{"now_mib": 1.0, "peak_mib": peak} for peak in (100.0, 110.0, 121.0)]
    goal = input.goal_of_memory({"epochs": after})
    assert goal.line() == "GOAL training_input_memory_growth 1.10 1.05 short"


def small_setup(**changes: Any) -> Setup:
    return Setup("resnet18", batch_size=4, side=32, warm_up=2, steps=2, **changes)


@pytest.fixture(scope="module")
def steps(data: TrainingData) -> step.LaneRuns:
    """Take two steps of each lane in this process, after two that warm up."""
    setup, threads = small_setup(data=data.folder), torch.get_num_threads()
    # Threads of a machine that others use too wait long for each other.
    torch.set_num_threads(1)
    try:
        return {lane: [stepping.run_lane(lane, setup)] for lane in stepping.LANES}
    finally:
        torch.set_num_threads(threads)


def test_our_loop_computes_what_the_bare_one_does(steps: step.LaneRuns) -> None:
    step.require_same_loss(steps, step.SAME_LOSS["fp32"])
    bare, ours = (steps[lane][0]["loss"] for lane in (stepping.BARE, stepping.OURS))
    assert ours == pytest.approx(bare, rel=1e-2)
    assert bare != pytest.approx(steps[stepping.BARE][0]["warm_up_loss"], rel=1e-2)


def test_augmented_and_read_pictures_are_others(steps: step.LaneRuns) -> None:
    losses = {lane: steps[lane][0]["warm_up_loss"] for lane in (stepping.OURS, AUGMENTED, READ)}
    assert len(set(losses.values())) == 3
    assert all(math.isfinite(loss) for loss in losses.values())
    assert 0 <= steps[READ][0]["wait_share"] <= 1


def test_another_loss_gives_no_figure(steps: step.LaneRuns) -> None:
    other = [{**steps[stepping.OURS][0], "warm_up_loss": 9.0}]
    with pytest.raises(SystemExit, match=r"do not do the same.*9\.0 in our loop"):
        step.require_same_loss({**steps, stepping.OURS: other}, 0.02)


def test_the_result_of_steps_has_every_network_and_its_goal(
    steps: step.LaneRuns, results: Path
) -> None:
    task = step.Task("cpu", "bf16", 32, step.QUICK["cpu"], None)
    page = step.page_of(task, {"resnet18": steps}, {"resnet18": steps})
    goals = step.goals_of("resnet18", steps, "cpu")
    result = {"quick": False, "idle_before": 1.0, "architectures": {"resnet18": steps}}
    measure.write_result(step.question(task), result, page, goals, step.command_of(task))
    stored = json.loads(written(results, "json"))
    paces = {
        lane: runs[0]["images_per_second"]
        for lane, runs in stored["architectures"]["resnet18"].items()
    }
    assert stored["question"] == "training-step-bf16"
    assert stored["goals"][0]["bound"] == 0.95
    assert stored["goals"][0]["value"] == pytest.approx(paces["ours"] / paces["bare"])
    assert "training.step --device cpu --precision bf16 --batch-size 32 --arch" in written(
        results, "md"
    )


def test_steps_fed_from_memory_need_torch_and_no_more() -> None:
    code = """
import sys
for name in ("pyspark", "ray", "petastorm", "pydantic", "pyarrow", "deltalake", "mlflow", "pandas"):
    sys.modules[name] = None
from pathlib import Path
from benchmarks.training import step, stepping
from benchmarks.training.stepping import LANES, READ, Setup, run_lane
assert step.photos_to_read(Path("photos")) is None
stepping.torch.set_num_threads(1)
setup = Setup("resnet18", batch_size=2, side=32, warm_up=1, steps=1)
print([lane for lane in LANES if lane != READ and run_lane(lane, setup)["steps"] == 1])
"""
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lanes = "['bare-as-it-comes', 'bare', 'ours', 'ours-augmented']"
    assert finished.stdout.splitlines()[-1:] == [lanes], finished.stderr


def test_coarse_classes_are_the_second_level_of_the_paths() -> None:
    paths = [f"Fruit/{index % 43}/{index}" for index in range(81)]
    assert grocery_store.figure_names(paths) == {"fine": "accuracy", "coarse": "accuracy_level_2"}
    with pytest.raises(ValueError, match="80 fine and 43 coarse"):
        grocery_store.figure_names(paths[:-1])
    with pytest.raises(ValueError, match=r"depths \{2, 3\}"):
        grocery_store.figure_names([*paths[:-1], "Fruit/80"])


@pytest.mark.shared_data
@pytest.mark.skipif(not DATASET.is_dir(), reason="the Grocery Store photos are not there")
def test_the_manifest_has_the_levels_that_are_reported(tmp_path: Path) -> None:
    categories = grocery_store.write_manifest(DATASET, tmp_path / "manifest.csv")
    assert grocery_store.figure_names(categories)["coarse"] == "accuracy_level_2"
    with (tmp_path / "manifest.csv").open(encoding="utf-8", newline="") as file:
        assert [row["category"] for row in csv.DictReader(file)] == categories


def test_the_settings_of_the_run_are_known_ones() -> None:
    settings = grocery_store.read_settings(grocery_store.SETTINGS)
    for start in ({}, grocery_store.QUICK, grocery_store.CONTROL):
        options = grocery_store.overrides({**settings, **start})
        given = load_settings([], {}, [option.removeprefix("--set=") for option in options]).train
        assert given.architecture == "mobilenet_v2"
        assert given.epochs == {**settings, **start}["epochs"]


def test_the_newest_result_is_of_the_settings_that_stand_there() -> None:
    results = (grocery_store.ROOT / "benchmarks" / "results").glob("training-grocery-store_*.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    newest = max(found, key=lambda result: str(result["measured_at"]))
    assert newest["settings"] == grocery_store.read_settings(grocery_store.SETTINGS)
    assert not (newest["quick"] or newest["forced"])


def test_figures_are_those_of_the_model_on_the_test_split(tmp_path: Path) -> None:
    row = {"model_version": 1, "name": "accuracy", "low": 0.7, "high": 0.9, "run_id": "r"}
    rows = [
        {**row, "model_name": "control", "split": "test", "value": 0.1},
        {**row, "model_name": "groceries", "split": "validation", "value": 0.2},
        {**row, "model_name": "groceries", "split": "test", "value": 0.8},
    ]
    write_deltalake(str(tmp_path / "evaluation_metrics"), pa.Table.from_pylist(rows))
    assert grocery_store.read_figures(tmp_path, "groceries") == {"accuracy": (0.8, 0.7, 0.9)}


def test_a_model_is_held_to_both_levels_and_to_the_hour() -> None:
    figures = {"accuracy": (0.84, 0.82, 0.86), "accuracy_level_2": (0.89, None, None)}
    model = grocery_store.Model("groceries", figures, 1800.0, 12.0, 0.01)
    names = {"fine": "accuracy", "coarse": "accuracy_level_2"}
    assert [goal.line().rpartition(" ")[2] for goal in grocery_store.goals_of(model, names)] == [
        "ok",
        "short",
        "ok",
    ]
    page = grocery_store.page_of([model], names, {"epochs": 6})
    assert "| groceries | 84.0 (82.0-86.0) | 89.0 | 30.0 | 12.0 | 1.0% |" in page

"""The GPU benchmark of scoring, tried on a CPU with a tiny network: the same answers, not speed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import BrokenBarrierError

import pytest
import torch
from benchmarks import measure
from benchmarks.scoring import gpu, gpu_lanes
from benchmarks.scoring.gpu import BARE, OURS, SHARED, Seconds, Size, Task
from tests.commands import ROOT
from tests.conftest import MakeJpeg

from catalog_batch.modeling.bundle import Bundle, load_bundle
from catalog_batch.modeling.predictor import Predictor

TASK = Task("cpu", 2, 2, 2, Size(1, 2, 2, 5, "squeezenet1_1", 64))


@pytest.fixture(scope="module")
def photos(make_jpeg: MakeJpeg) -> list[bytes]:
    return [make_jpeg(number, 80, 72) for number in range(TASK.size.photos)]


@pytest.fixture(scope="module")
def found(photos: list[bytes]) -> Seconds:
    return gpu.measure_lanes(TASK, photos)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(gpu.random_bundle(TASK.size, tmp_path / "bundle"))


def test_all_lanes_are_timed_in_every_round(found: Seconds) -> None:
    assert {lane: len(seconds) for lane, seconds in found.items()} == {BARE: 2, OURS: 2, SHARED: 2}
    assert min(found[BARE] + found[OURS] + found[SHARED]) > 0


def test_a_task_that_dies_ends_the_measurement(tmp_path: Path) -> None:
    folder = tmp_path / "no bundle"
    with (
        pytest.raises(BrokenBarrierError),
        gpu_lanes.tasks_that_share(replace(TASK, patience=3), folder, []),
    ):
        pass


def test_batches_in_memory_are_what_the_network_is_given(
    bundle: Bundle, photos: list[bytes]
) -> None:
    batches = gpu_lanes.batches_on_device(TASK, bundle, photos)
    assert {batch.shape for batch in batches} == {(2, 3, 64, 64)}
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    assert len(batches) == gpu_lanes.MEMORY_BATCHES


def test_a_predictor_that_computes_something_else_gives_no_figure(
    bundle: Bundle, photos: list[bytes]
) -> None:
    predictor = Predictor(bundle, batch_size=2)
    batch = gpu_lanes.batches_on_device(TASK, bundle, photos)[0]
    gpu.require_same_answers(TASK, bundle, predictor, photos, batch)
    with pytest.raises(SystemExit, match="do not do the same"):
        gpu.require_same_answers(TASK, bundle, predictor, photos, batch + 1)


def test_a_photo_without_a_prediction_gives_no_figure(bundle: Bundle, photos: list[bytes]) -> None:
    with pytest.raises(SystemExit, match="undecodable"):
        gpu_lanes.time_ours(TASK, Predictor(bundle, batch_size=2), [photos[0], b"no photo"])


def test_the_device_waits_while_the_bare_model_would_not_have_been_busy() -> None:
    found = {BARE: [1.0, 9.0, 1.0], OURS: [4.0, 4.0, 2.0], SHARED: [2.0]}
    assert gpu.ratio(found, OURS) == pytest.approx(0.25)
    assert gpu.wait_share(found, OURS) == pytest.approx(0.75)
    assert gpu.wait_share(found, SHARED) == pytest.approx(0.5)
    assert gpu.images_per_second(TASK, found, OURS) == pytest.approx(1.0)
    assert gpu.wait_share({BARE: [2.0], OURS: [1.9]}, OURS) == 0.0


def test_the_result_says_what_was_measured_on_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "_cores", lambda: 2)
    found = {BARE: [1.0, 2.0, 3.0], OURS: [4.0, 4.0, 4.0], SHARED: [2.0, 2.0, 2.0]}
    result = {"quick": True, "idle_before": 1.0, **gpu.result_of(TASK, found)}
    page, command = gpu.page_of(TASK, found), gpu.command_of(TASK)
    measure.write_result(gpu.question(TASK), result, page, [], command)
    (stored,) = tmp_path.glob("scoring-gpu-on-cpu-batch2-tasks2-quick_*.json")
    told = json.loads(stored.read_text(encoding="utf-8"))
    assert (told["batch_size"], told["threads"], told["wait_share"]) == (2, 2, 0.5)
    assert (told["tasks"], told["ratio_shared"], told["wait_share_shared"]) == (2, 1.0, 0.0)
    written = stored.with_suffix(".md").read_text(encoding="utf-8")
    assert "2 images a batch; 2 threads decode" in written
    assert "| catalog-batch, from JPEG bytes, one task | 1.0 (1.0-1.0) | 0.50 | 50.0% |" in written
    assert "| catalog-batch, from JPEG bytes, 2 tasks | 2.0 (2.0-2.0) | 1.00 |  |" in written
    assert "gpu --batch-size 2 --threads 2 --tasks 2 --device cpu --quick`" in written


def test_files_are_named_after_what_differs_from_the_defaults() -> None:
    usual = Task("cuda", gpu.BATCH, gpu._cores(), gpu._usual_tasks(), gpu.SIZES["cuda"])
    assert gpu.question(usual) == "scoring-gpu"
    assert gpu.question(replace(usual, threads=99)) == "scoring-gpu-threads99"


def test_neither_an_engine_nor_a_gpu_is_needed() -> None:
    code = """
import sys
for name in ("pyspark", "ray", "petastorm", "pydantic", "pyarrow", "deltalake", "mlflow", "pandas"):
    sys.modules[name] = None
from benchmarks.scoring import gpu
gpu.torch.cuda.is_available = lambda: False
gpu.main()
gpu.torch.set_num_threads(1)
task = gpu.Task("cpu", 2, 1, 1, gpu.Size(1, 1, 1, 2, "squeezenet1_1", 64))
kind = gpu.PhotoKind("tiny", 64)
from benchmarks.ingest import photos
photos.BASES = 2
print(list(gpu.measure_lanes(task, [photos.encode_photo(kind, number) for number in range(2)])))
"""
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = finished.stdout.splitlines()
    assert lines[:1] == [
        "Skipped: PyTorch sees no GPU here. --device cpu tries the script on a CPU."
    ], finished.stderr
    assert lines[-1:] == ["['bare', 'ours', 'shared']"], finished.stderr

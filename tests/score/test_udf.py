"""What the driver and the executors each import and load."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from tests.score.shop import OpenShop

from catalog_batch.score.udf import loading, prediction_udf, shipped_bundle
from catalog_batch.spark import task_slots


@pytest.fixture
def bundle_folder(open_shop: OpenShop, tmp_path: Path) -> Path:
    return open_shop(tmp_path).model.bundle_folder


DRIVER = """
import sys
import catalog_batch.registry, catalog_batch.score.pipeline
print({"torch", "torchvision"} & set(sys.modules))
"""


def test_a_driver_does_not_wait_for_pytorch() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", DRIVER], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "set()"


WORKER = """
import sys
from catalog_batch.score.udf import import_ahead
from catalog_batch.config import SparkSettings
from catalog_batch.score import DAEMON
from catalog_batch.spark import begin_session
session = begin_session(SparkSettings(master="local[1]"), "daemon", DAEMON).result()
if sys.argv[1:]:
    import_ahead(session, sys.argv[1])
names = ("catalog_batch.score.worker", "torch")
known = session.sparkContext.parallelize([0]).map(lambda _: [n in sys.modules for n in names])
print(known.collect())
"""


@pytest.mark.parametrize(
    ("module", "known"), [([], "[[True, False]]"), (["torch"], "[[True, True]]")]
)
def test_workers_are_forks_of_a_daemon_that_has_imported_what_the_model_needs(
    module: list[str], known: str
) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", WORKER, *module], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == known


ON_GPU = """
from catalog_batch.config import SparkSettings
from catalog_batch.score.worker import _place
from catalog_batch.spark import build_session, task_slots
session = build_session(SparkSettings(master="local-cluster[1,2,1024]"), "gpu")
slots = task_slots(session)
found = session.sparkContext.parallelize(range(slots), slots).map(lambda _: _place()).collect()
print(slots, *sorted(set(found)))
"""


@pytest.mark.parametrize(
    ("cores", "part_of_gpu", "told"), [(2, 1.0, "1 (2, 'cuda:3')"), (1, 0.5, "2 (1, 'cuda:3')")]
)
def test_a_task_has_the_cores_and_the_gpu_that_spark_gave_it(
    cores: int, part_of_gpu: float, told: str, tmp_path: Path
) -> None:
    """Spark's scheduler believes the script that there is a GPU; no model is put on it."""
    script = tmp_path / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["3"]}'\n""")
    script.chmod(0o755)
    settings = {"spark.task.resource.gpu.amount": part_of_gpu, "spark.task.cpus": cores}
    for who in ("worker", "executor"):
        settings[f"spark.{who}.resource.gpu.amount"] = 1
        settings[f"spark.{who}.resource.gpu.discoveryScript"] = script
    printed = run_in_session(ON_GPU, settings)
    assert printed.stdout.strip() == told, printed.stderr


SLOTS = """
from catalog_batch.config import SparkSettings
from catalog_batch.spark import build_session, task_slots
print(task_slots(build_session(SparkSettings(master="local-cluster[1,2,1024]"), "slots")))
"""


@pytest.mark.parametrize(("most", "told"), [({}, "2"), ({"maxExecutors": 3}, "6")])
def test_there_is_a_place_on_each_executor_that_may_come(
    most: Mapping[str, object], told: str
) -> None:
    allocation = {"enabled": "true", "shuffleTracking.enabled": "true", **most}
    settings = {f"spark.dynamicAllocation.{name}": value for name, value in allocation.items()}
    printed = run_in_session(SLOTS, {**settings, "spark.executor.cores": 2})
    assert printed.stdout.strip() == told, printed.stderr


def run_in_session(
    code: str, settings: Mapping[str, object], *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose Spark session has settings that only a new one can have."""
    settings = {**settings, "spark.executor.memory": "512m"}
    options = " ".join(f"--conf {name}={value}" for name, value in settings.items())
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell"},
    )


ON_EXECUTORS = """
import os, sys, time
from pathlib import Path
from catalog_batch.config import SparkSettings
from catalog_batch.score import worker
from catalog_batch.score.udf import prediction_udf, shipped_bundle
from catalog_batch.spark import build_session
from pyspark import SparkFiles
from pyspark.sql import functions as F
session = build_session(SparkSettings(master="local-cluster[2,1,1024]"), "shipping")

def where(batches):
    for rows in batches:
        time.sleep(1)  # so that no executor takes all tasks
        folder = SparkFiles.get(bundle)
        loads = worker._predictor.cache_info().misses
        yield rows.assign(folder=folder, made=os.stat(folder).st_mtime_ns, loads=loads)

with shipped_bundle(session, Path(sys.argv[1])) as bundle:
    predict = prediction_udf(bundle, 1, 2)
    for _ in range(2):
        session.range(0, 8, 1, 8).select(predict(F.lit(None).cast("binary"))).collect()
    kinds = "id long, folder string, made long, loads long"
    found = session.range(0, 8, 1, 8).mapInPandas(where, kinds).collect()
print(len({(row["folder"], row["made"]) for row in found}), {row["loads"] for row in found})
"""


def test_a_bundle_is_sent_to_an_executor_once_for_all_its_tasks(bundle_folder: Path) -> None:
    printed = run_in_session(ON_EXECUTORS, {}, bundle_folder)
    assert printed.stdout.strip() == "2 {1}", printed.stderr


@pytest.mark.parametrize(("cores", "threads"), [(1, 0), (2, 2)])
def test_a_task_of_several_cores_decodes_in_as_many_threads(
    cores: int, threads: int, bundle_folder: Path, make_jpeg: Callable[..., bytes]
) -> None:
    code = f"""
import sys, threading, torch
from pathlib import Path
from pyspark import SparkFiles
from catalog_batch.score import worker
SparkFiles.get = lambda name: name
predictor = worker._predictor(worker.Asked(sys.argv[1], 1, 1, False), {cores}, "cpu")
answers = predictor.predict([Path(sys.argv[2]).read_bytes()] * 6)
decoding = [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
print(len(answers), len(decoding), torch.get_num_threads())
"""
    photo = bundle_folder.parent / "photo.jpg"
    photo.write_bytes(make_jpeg(1))
    told = subprocess.run(
        [sys.executable, "-c", code, bundle_folder, photo], capture_output=True, text=True
    )
    assert told.stdout.split() == ["6", str(threads), str(cores)], told.stderr


FRAMES = """
import gc, sys
from pathlib import Path
import pandas as pd
from pyspark import SparkFiles
from catalog_batch.score import worker
SparkFiles.get = lambda name: name
photo = Path(sys.argv[2]).read_bytes()
contents = iter([pd.Series([photo, b"no photo", *[photo] * 98])] * 3)
frames = list(worker.predict(contents, worker.Asked(sys.argv[1], 1, 16, False)))
rows = pd.concat(frames, ignore_index=True)
failed = [number for number, reason in enumerate(rows["failure"]) if reason]
print(*map(len, frames), failed, rows["answered_at"].is_monotonic_increasing)
loaded = worker._predictor(worker.Asked(sys.argv[1], 1, 16, False), 1, "cpu")
print(gc.is_tracked(loaded), any(each is loaded for each in gc.get_objects()))
"""


def test_a_worker_gives_its_answers_in_frames_of_many_rows_and_freezes_the_model_with_all_before(
    bundle_folder: Path, make_jpeg: Callable[..., bytes]
) -> None:
    photo = bundle_folder.parent / "photo.jpg"
    photo.write_bytes(make_jpeg(1))
    told = subprocess.run(
        [sys.executable, "-c", FRAMES, bundle_folder, photo], capture_output=True, text=True
    )
    assert told.stdout.splitlines() == ["128 128 44 [1, 101, 201] True", "True False"], told.stderr


def test_workers_load_the_model_while_the_driver_looks_for_images(
    spark: SparkSession, bundle_folder: Path, make_jpeg: Callable[..., bytes]
) -> None:
    started = time.time()
    before = looks_into_workers(spark)
    with shipped_bundle(spark, bundle_folder) as bundle:
        # As no other test asks: workers keep the models that they have loaded.
        predict = prediction_udf(bundle, 3, 7)
        with loading(spark, predict):
            while time.time() < started + 60:  # Before any image is asked for.
                after = looks_into_workers(spark)
                loaded = [loads - before.get(pid, (0, 0))[0] for pid, (loads, _) in after.items()]
                if any(each > 0 for each in loaded):
                    break
                time.sleep(0.2)
            assert max(loaded) == 1
            images = spark.createDataFrame([(make_jpeg(1),), (b"no photo",)], "content binary")
            rows = images.select(predict("content").alias("p")).select("p.*").collect()
    assert [len(row["top_k"]) for row in rows] == [3, 0]
    assert all(started < row["answered_at"] < time.time() for row in rows)


def looks_into_workers(spark: SparkSession) -> dict[int, tuple[int, int]]:
    """Return how many models each Python worker has loaded, and PyTorch's threads in it, by pid."""

    def look(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import torch

        from catalog_batch.score import worker

        for rows in batches:
            loads = worker._predictor.cache_info().misses
            yield rows.assign(pid=os.getpid(), loads=loads, threads=torch.get_num_threads())

    tasks = 4 * task_slots(spark)
    found = spark.range(0, tasks, 1, tasks).mapInPandas(
        look, "id long, pid long, loads long, threads long"
    )
    return {row["pid"]: (row["loads"], row["threads"]) for row in found.collect()}


def test_a_worker_loads_the_model_once_for_all_its_tasks_and_uses_the_task_s_core(
    spark: SparkSession, bundle_folder: Path, make_jpeg: Callable[..., bytes]
) -> None:
    before = looks_into_workers(spark)
    images = spark.createDataFrame([(make_jpeg(n),) for n in range(8)], "content binary")
    with shipped_bundle(spark, bundle_folder) as bundle:
        predict = prediction_udf(bundle, 1, 2)
        images.repartition(8).select(predict("content")).collect()
    after = looks_into_workers(spark)
    loaded = {pid: loads - before.get(pid, (0, 0))[0] for pid, (loads, _) in after.items()}
    assert set(loaded.values()) <= {0, 1}
    assert sum(loaded.values()) > 0
    assert all(after[pid][1] == 1 for pid, loads in loaded.items() if loads)


def test_an_executor_refuses_a_bundle_that_was_damaged_on_its_way(
    spark: SparkSession, bundle_folder: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle_folder, damaged)
    weights = max(damaged.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    images = spark.createDataFrame([(make_jpeg(1),)], "content binary")
    with shipped_bundle(spark, damaged) as bundle:
        rows = images.select(prediction_udf(bundle, 2, 2)("content"))
        with pytest.raises(PythonException, match=f"ModelRefusedError.*{weights.name}"):
            rows.collect()


def test_a_model_that_cannot_be_loaded_ahead_is_told_and_ends_nothing(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    with loading(spark, prediction_udf("of-nobody", 2, 2)):
        pass
    assert "could not be loaded ahead" in caplog.text
    assert "of-nobody" in caplog.text

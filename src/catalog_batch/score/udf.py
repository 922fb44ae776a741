"""The model inside Spark: an iterator pandas UDF that loads once per Python worker and streams."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from pathlib import Path

import pandas as pd
import torch
from pyspark import SparkFiles, TaskContext
from pyspark.sql import Column, SparkSession
from pyspark.sql.pandas.functions import pandas_udf

from catalog_batch.import_path import forget_archives
from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Failure, Prediction, Predictor

PREDICTION_DDL = (
    "top_k array<struct<category_id: string, confidence: float>>, margin float, "
    "nodes array<struct<category_id: string, confidence: float>>, energy float, failure string, "
    "embedding array<float>"
)

_COLUMNS = ["top_k", "margin", "nodes", "energy", "failure", "embedding"]


@contextmanager
def shipped_bundle(spark: SparkSession, folder: Path) -> Iterator[str]:
    """Send a bundle to every executor once; yield the name it is found under there.

    The folder's name must tell bundles apart: the registry names it by the bundle's digest. It
    travels as one archive, for Spark sends folders in local mode alone.
    """
    with tempfile.TemporaryDirectory(prefix="catalog-batch-") as place:
        archive = f"{place}/{folder.name}.zip"
        with zipfile.ZipFile(archive, "w") as file:  # stored: weights hardly shrink
            for path in folder.iterdir():
                file.write(path, path.name)
        spark.sparkContext.addArchive(f"{archive}#{folder.name}")
        yield folder.name


def prediction_udf(
    bundle_name: str, top_k: int, batch_size: int, keep_embeddings: bool = False
) -> Callable[[Column | str], Column]:
    """Return a UDF from stored JPEG bytes to a struct of ``PREDICTION_DDL``.

    Bytes go in and labels come out: no tensor crosses Arrow. An image that cannot be scored gets
    an empty ``top_k`` and a ``failure``; with ``keep_embeddings`` the others get theirs. The model
    runs on ``spark.task.cpus`` cores, or on the GPU that Spark gave the task
    (``spark.task.resource.gpu.amount``), with as many threads that decode.
    """

    @pandas_udf(PREDICTION_DDL)  # type: ignore[call-overload, untyped-decorator]
    def predict(contents: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        forget_archives()
        predictor = _predictor(bundle_name, top_k, batch_size, *_place(), keep_embeddings)
        results = predictor.stream(chain.from_iterable(contents))
        while rows := list(islice(results, batch_size)):
            yield _frame(rows)

    return predict  # type: ignore[no-any-return]


@cache
def _predictor(
    bundle_name: str,
    top_k: int,
    batch_size: int,
    cores: int,
    device: str,
    keep_embeddings: bool,
) -> Predictor:
    """Load the shipped bundle, once for each Python worker: Spark uses workers again."""
    keep_freed_memory()
    torch.set_num_threads(cores)
    bundle = load_bundle(Path(SparkFiles.get(bundle_name)))
    # On one core a thread that decodes would only take it from the network.
    threads = cores if device != "cpu" or cores > 1 else 0
    return Predictor(bundle, top_k, batch_size, device, threads, keep_embeddings)


def _place() -> tuple[int, str]:
    """Return the task's cores and its device, as Spark's scheduler assigned them."""
    task = TaskContext.get()
    if task is None:  # Called as a function, without Spark.
        return 1, "cpu"
    gpu = task.resources().get("gpu")
    return task.cpus(), f"cuda:{gpu.addresses[0]}" if gpu else "cpu"


def _frame(results: list[Prediction | Failure]) -> pd.DataFrame:
    rows = [_row(result) for result in results]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _row(result: Prediction | Failure) -> tuple[object, ...]:
    if isinstance(result, Failure):
        return [], None, [], None, result.reason, None
    guesses, nodes = _guesses(result.top_k), _guesses(result.nodes)
    return guesses, result.margin, nodes, result.energy, None, result.embedding or None


def _guesses(shares: Iterable[tuple[str, float]]) -> list[dict[str, object]]:
    return [{"category_id": category, "confidence": share} for category, share in shares]

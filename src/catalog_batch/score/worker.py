"""What an executor's Python worker does with images: the model, loaded once and kept."""

import gc
import time
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pyspark import SparkFiles, TaskContext

from catalog_batch.import_path import forget_archives
from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Failure, Prediction, Predictor
from catalog_batch.modeling.runtimes import Graph

ANSWERS_AT_A_TIME = 128
"""Rows of a frame: Spark takes 1.5 ms to turn one into Arrow, however few they are."""

COLUMNS = ["top_k", "others", "margin", "nodes", "energy", "failure", "embedding", "answered_at"]


class Asked(NamedTuple):
    """Which model is to answer, and how."""

    bundle_name: str
    """Under which Spark has sent it."""

    top_k: int
    batch_size: int
    keep_embeddings: bool


def predict(contents: Iterable[pd.Series], asked: Asked) -> Iterator[pd.DataFrame]:
    """Answer for stored JPEGs, in frames of ``COLUMNS``."""
    forget_archives()
    results = _predictor(asked, *_place()).stream(chain.from_iterable(contents))
    while rows := [(*as_row(each), time.time()) for each in islice(results, ANSWERS_AT_A_TIME)]:
        yield pd.DataFrame(rows, columns=COLUMNS)


@cache
def _predictor(asked: Asked, cores: int, device: str) -> Predictor:
    """Load the shipped bundle, once for each Python worker: Spark uses workers again."""
    keep_freed_memory()
    bundle = load_bundle(Path(SparkFiles.get(asked.bundle_name)), threads=cores)
    if not isinstance(bundle.network, Graph):
        import torch  # here, for graphs do without it

        torch.set_num_threads(cores)
    # On one core a thread that decodes would only take it from the network.
    threads = cores if device != "cpu" or cores > 1 else 0
    predictor = Predictor(
        bundle, asked.top_k, asked.batch_size, device, threads, asked.keep_embeddings
    )
    # Spark collects garbage after each task, which looks at all that was ever imported: 0.06 s.
    gc.freeze()
    return predictor


def _place() -> tuple[int, str]:
    """Return the task's cores and its device, as Spark's scheduler assigned them."""
    task = TaskContext.get()
    if task is None:  # Called as a function, without Spark.
        return 1, "cpu"
    gpu = task.resources().get("gpu")
    return task.cpus(), f"cuda:{gpu.addresses[0]}" if gpu else "cpu"


def as_row(result: Prediction | Failure) -> tuple[object, ...]:
    """Return all of ``COLUMNS`` but the time."""
    if isinstance(result, Failure):
        return [], [], None, [], None, result.reason, None
    guesses, others = _guesses(result.top_k), _guesses(result.others)
    nodes, embedding = _guesses(result.nodes), result.embedding or None
    return guesses, others, result.margin, nodes, result.energy, None, embedding


def _guesses(shares: Iterable[tuple[str, float]]) -> list[dict[str, object]]:
    return [{"category_id": category, "confidence": share} for category, share in shares]

"""P1 and P1x, the usual Spark ways to score images.

    python -m benchmarks.scoring.spark_usual IMAGES BUNDLE OUT iterator|iterator-shipped|two-udfs

``iterator`` is the pandas UDF over an iterator of batches that the notebooks of Databricks show:
the model loads once for each task, and each batch is decoded and scored in turn. ``two-udfs`` is
the form of the published comparison of engines: one scalar pandas UDF makes tensors as Python
lists of floats, a filter drops images without one, another UDF runs the model on what is left, and
Arrow batches have 100 rows. Spark evaluates the first UDF for the filter and again for the second
one: that is part of the form. Both compute as published benchmarks do; ``iterator-shipped`` is the
first of them with the project's function. All run in the project's own session, and write the same
columns.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmarks.scoring.rows import LINEAGE
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch.config import SparkSettings
from catalog_batch.spark import build_session

ROWS_A_BATCH = 100
"""Of an Arrow batch, in the published form with two UDFs."""

GUESSES_DDL = "array<struct<category_id: string, confidence: float>>"
ANSWER_DDL = (
    f"top_k {GUESSES_DDL}, others {GUESSES_DDL}, margin float, nodes {GUESSES_DDL}, energy float, "
    "failure string, answered_at double"
)


def with_iterator(images: DataFrame, bundle: str, arithmetic: str = "published") -> DataFrame:
    """Score by one UDF over an iterator."""

    @F.pandas_udf(ANSWER_DDL)  # type: ignore[call-overload]
    def predict(contents: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        from benchmarks.scoring.arithmetic import ARITHMETIC

        _one_thread()
        score = ARITHMETIC[arithmetic](Path(bundle))
        for batch in contents:
            yield pd.DataFrame(score(batch.tolist()))

    return images.select("image_id", predict("content").alias("answer"))


def with_two_udfs(images: DataFrame, bundle: str) -> DataFrame:
    """Make tensors by one UDF, and score those there are by another."""
    images.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", ROWS_A_BATCH)

    @F.pandas_udf("array<float>")  # type: ignore[call-overload]
    def as_tensor(contents: pd.Series) -> pd.Series:
        from benchmarks.scoring.arithmetic import published

        _one_thread()
        make = published(Path(bundle)).tensor
        return contents.map(lambda content: make(content).ravel().tolist())

    @F.pandas_udf(ANSWER_DDL)  # type: ignore[call-overload]
    def predict(tensors: pd.Series) -> pd.DataFrame:
        from benchmarks.scoring.arithmetic import published

        _one_thread()
        score = published(Path(bundle))
        return pd.DataFrame(score.answers(_stacked(tensors, score.side)))

    tensors = images.select("image_id", as_tensor("content").alias("tensor"))
    tensors = tensors.filter(F.col("tensor").isNotNull())
    return tensors.select("image_id", predict("tensor").alias("answer"))


WAYS: dict[str, Callable[[DataFrame, str], DataFrame]] = {
    "iterator": with_iterator,
    "iterator-shipped": partial(with_iterator, arithmetic="shipped"),
    "two-udfs": with_two_udfs,
}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _stacked(tensors: pd.Series, side: int) -> Any:
    import torch

    return torch.from_numpy(np.array(tensors.tolist(), np.float32).reshape(-1, 3, side, side))


def main(images: str, bundle: str, output: str, way: str) -> None:
    started = time.monotonic()
    spark = build_session(SparkSettings(master="local[2]"), f"benchmark: {way}")
    opened = time.monotonic()
    rows = spark.read.format("delta").load(images).select("image_id", "content").repartition(2)
    lineage = [F.lit(value).alias(name) for name, value in LINEAGE.items()]
    answers = WAYS[way](rows, bundle).select("image_id", "answer.*", *lineage)
    answers.write.format("delta").save(output)
    status = {
        "images": spark.read.format("delta").load(output).count(),
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(opened - started, 3),
    }
    spark.stop()
    print(json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

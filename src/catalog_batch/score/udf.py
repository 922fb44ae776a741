"""The model inside Spark: an iterator pandas UDF that loads once per Python worker and streams.

What the driver needs of it; the executors' part, with the model, is ``worker.py``.
"""

import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from pyspark import inheritable_thread_target
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from catalog_batch.score import DAEMON_IMPORTS
from catalog_batch.spark import cancel_until_done, task_slots

PREDICTION_DDL = (
    "top_k array<struct<category_id: string, confidence: float>>, "
    "others array<struct<category_id: string, confidence: float>>, margin float, "
    "nodes array<struct<category_id: string, confidence: float>>, energy float, failure string, "
    "embedding array<float>, answered_at double"
)
"""``answered_at`` is in seconds since 1970, by the executor's clock."""

Predict = Callable[[Column | str], Column]

logger = logging.getLogger(__name__)


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


def import_ahead(spark: SparkSession, module: str) -> None:
    """Have the daemon of Python workers import a module before it starts the first of them."""
    spark.sparkContext.environment[DAEMON_IMPORTS] = module


def prediction_udf(
    bundle_name: str,
    top_k: int,
    batch_size: int,
    keep_embeddings: bool = False,
) -> Predict:
    """Return a UDF from stored JPEG bytes to a struct of ``PREDICTION_DDL``.

    Bytes go in and labels come out: no tensor crosses Arrow. An image that cannot be scored gets
    an empty ``top_k`` and a ``failure``; with ``keep_embeddings`` the others get theirs. The model
    runs on ``spark.task.cpus`` cores, or on the GPU that Spark gave the task
    (``spark.task.resource.gpu.amount``), with as many threads that decode.
    """

    @pandas_udf(PREDICTION_DDL)  # type: ignore[call-overload, untyped-decorator]
    def predict(contents: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        from catalog_batch.score import worker  # on executors alone

        asked = worker.Asked(bundle_name, top_k, batch_size, keep_embeddings)
        return worker.predict(contents, asked)

    return predict  # type: ignore[no-any-return]


@contextmanager
def loading(spark: SparkSession, predict: Predict) -> Iterator[None]:
    """Have Python workers load the model while the block goes on; it waits for them at its end.

    They take half of the places for tasks: the others are for the block's own queries. When they
    cannot load it, the first images will say why.
    """
    workers = max(1, task_slots(spark) // 2)

    @inheritable_thread_target(spark)
    def load() -> None:
        nothing = F.lit(None).cast("binary")
        spark.range(0, workers, 1, workers).select(predict(nothing)).collect()

    with ThreadPoolExecutor(1, "loading") as threads:
        loaded = threads.submit(load)
        try:
            yield
        except BaseException:  # A signal may have come before there was a job to cancel.
            cancel_until_done(spark, loaded)
            raise
    if error := loaded.exception():
        logger.warning("the model could not be loaded ahead: %s", error)

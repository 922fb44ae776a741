"""How far Spark is, told while its tasks run."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from catalog_batch.spark import configured
from catalog_batch.spark_progress import AnsweredRows


@pytest.mark.parametrize("planned_again", ["false", "true"])
def test_rows_that_python_answered_are_told_before_its_task_ends(
    spark: SparkSession, tmp_path: Path, planned_again: str
) -> None:
    settings = {
        "spark.sql.execution.arrow.maxRecordsPerBatch": 4000,
        "spark.sql.adaptive.enabled": planned_again,
    }
    go = str(tmp_path / "go")

    @pandas_udf("long")  # type: ignore[call-overload, untyped-decorator]
    def half_at_once(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        yield next(batches)
        while not os.path.exists(go):
            time.sleep(0.05)
        yield from batches

    told = AnsweredRows(spark)
    assert told() == 0
    with configured(spark, settings), ThreadPoolExecutor(1) as threads:
        chosen = F.broadcast(spark.range(4000, 12000))
        dealt = spark.range(12000).join(chosen, "id").repartition(1, "id")
        answers = dealt.select(half_at_once("id"))
        asked = threads.submit(answers.write.parquet, str(tmp_path / "answers"))
        try:
            until(lambda: told() == 4000)
            assert not asked.done()
        finally:
            Path(go).touch()
        asked.result()
        until(lambda: told() == 8000)
        assert len(answers.collect()) == 8000
        time.sleep(1)
    assert told() == 8000  # of the first query still


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)

"""Spark's daemon of Python workers, with what scoring imports: workers are forks of it.

PyTorch then is imported once and not by each of them, and they share its pages. Spark starts it
by ``spark.python.daemon.module``, where the executors run the driver's interpreter.
"""

from pyspark.daemon import manager

import catalog_batch.score.worker  # noqa: F401

if __name__ == "__main__":
    manager()  # type: ignore[no-untyped-call]

"""Spark's daemon of Python workers, with what scoring imports: workers are forks of it.

All of it, PyTorch where the model needs it, then is imported once and not by each of them, and they
share its pages. Spark starts it by ``spark.python.daemon.module``, where the executors run the
driver's interpreter.
"""

import os
from importlib import import_module

from pyspark.daemon import manager

import catalog_batch.score.worker  # noqa: F401
from catalog_batch.score import DAEMON_IMPORTS

if __name__ == "__main__":
    if also := os.environ.get(DAEMON_IMPORTS):
        import_module(also)
    manager()  # type: ignore[no-untyped-call]

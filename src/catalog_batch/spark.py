"""The only place where a Spark session is built."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyspark import SparkContext, inheritable_thread_target
from pyspark.logger import PySparkLogger
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from catalog_batch.class_archive import archive_options
from catalog_batch.config import SparkSettings
from catalog_batch.errors import BadInputError
from catalog_batch.resources import resource_folder

DELTA_PACKAGE = "io.delta:delta-spark_2.13:4.0.1"
_DELTA_JARS = (
    "io.delta_delta-spark_2.13-4.0.1.jar",
    "io.delta_delta-storage-4.0.1.jar",
    "org.antlr_antlr4-runtime-4.13.1.jar",
)

# What every session needs, however it was started.
_ALWAYS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # Silently skipping damaged or vanished data files would lose rows.
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    # A second copy of an image task reads and decodes everything twice.
    "spark.speculation": "false",
}

# What a session of our own gets; spark-submit's properties file says these itself.
_LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # The default runs 50 tasks for each look at a table's log.
    "spark.databricks.delta.snapshotPartitions": "2",
    # Answers for a few dozen rows are smaller than the default, 64 KB, and would all wait in the
    # Python worker until its task ends.
    "spark.buffer.size": "4096",
    # How often running tasks say how far they are. With the default, 10 s, a bar stands still.
    "spark.executor.heartbeatInterval": "5s",
    # As long as by default, 10 minutes, before one that is not answered ends the process.
    "spark.executor.heartbeat.maxFailures": "120",
    # Rows decoded at a time. 4096 images, the default, are 64 MB and more a core, which the JVM
    # copies whenever it collects.
    "spark.sql.parquet.columnarReaderBatchSize": "256",
    # Memory that a sort, an aggregate or a hash table takes at a time. The default for this heap is
    # 64 MB, which the JVM clears for a query of ten rows, and copies whenever it collects.
    "spark.buffer.pageSize": "4m",
    # Plans are described for pages that are off: the usual mode makes texts of 60,000 characters.
    "spark.sql.ui.explainMode": "simple",
}


_STEPS_AT_ONCE = 4
# Spark kills the Python worker of a cancelled task after 2 s.
_STOP_SECONDS = 10.0
_QUIET_SECONDS = 0.5

_T = TypeVar("_T")
_V = TypeVar("_V", str, float)
logger = logging.getLogger(__name__)


def ivy_jar_folder(home: Path | None = None) -> Path:
    """Return the folder into which Spark's Ivy puts resolved JARs."""
    return (home or Path.home()) / ".ivy2.5.2" / "jars"


def delta_jars(folder: Path | None = None) -> list[Path]:
    """Return Delta's JARs when they have been fetched, else an empty list."""
    jars = [(folder or ivy_jar_folder()) / name for name in _DELTA_JARS]
    return jars if all(jar.is_file() for jar in jars) else []


def build_session(settings: SparkSettings, app_name: str, python_daemon: str = "") -> SparkSession:
    """Open a session with Delta; under ``spark-submit`` its properties win.

    The Python workers run this same interpreter. Delta's JARs are fetched by Ivy the first time
    and taken from its folder afterwards.

    Args:
        settings: Of a session of our own.
        app_name: For Spark's pages and logs.
        python_daemon: Module that starts the Python workers of a session of our own; Spark's
            unless given.

    Raises:
        BadInputError: When ``spark-submit`` started us without Delta on the class path.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder: SparkSession.Builder = SparkSession.builder.appName(app_name)
    for key, value in _ALWAYS.items():
        builder = builder.config(key, value)
    is_submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if not is_submitted:
        for key, value in _own_session(settings).items():
            builder = builder.config(key, value)
        if python_daemon:
            builder = builder.config("spark.python.daemon.module", python_daemon)
    with _own_interrupt_handler():
        session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    # Of a query that is wrong: whoever asked it tells it, without the JVM's trace.
    PySparkLogger.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", settings.arrow_batch_rows)
    if not is_submitted:
        session.conf.set("spark.sql.shuffle.partitions", settings.shuffle_partitions)
    _check_delta(session)
    return session


def begin_session(
    settings: SparkSettings, app_name: str, python_daemon: str = ""
) -> "Future[SparkSession]":
    """Build a session in another thread, while the caller looks whether there is work for it.

    One that nobody takes ends with the process: nothing has to wait for it.
    """
    thread = ThreadPoolExecutor(1, "session")
    session = thread.submit(build_session, settings, app_name, python_daemon)
    thread.shutdown(wait=False)
    return session


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Keep the command line's handler of Ctrl-C, which pyspark would replace; leave Python's."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and handler is not signal.default_int_handler:
            signal.signal(signal.SIGINT, handler)


def run_together(session: SparkSession, *steps: Callable[[], _T]) -> list[_T]:
    """Run steps that do not depend on each other at the same time; return their results, in order.

    With few rows a step is mostly planning, which keeps one core of the driver busy: here the
    planning of one goes on beside another's. Steps must not touch the same table.

    Raises:
        Exception: The first step's that failed, when all have ended; those of others are logged.
    """
    threads = ThreadPoolExecutor(_STEPS_AT_ONCE)
    # Spark keeps the state of a query in local properties: each step needs a copy of its own.
    running = [threads.submit(inheritable_thread_target(session)(step)) for step in steps]
    try:
        wait(running)
    except BaseException:  # A signal: no step may begin another job.
        threads.shutdown(wait=False, cancel_futures=True)
        cancel_until_done(session, *running)
        raise
    threads.shutdown()
    errors = [error for step in running if (error := step.exception())]
    for error in errors[1:]:
        logger.error("another step failed too: %s", error)
    if errors:
        raise errors[0]
    return [step.result() for step in running]


@contextmanager
def configured(session: SparkSession, settings: Mapping[str, object]) -> Iterator[None]:
    """Give a session other settings inside the block, and those it had after it.

    One block at a time: of two that overlap, the first to begin may be the first to end.
    """
    before = {key: session.conf.get(key, None) for key in settings}
    try:
        for key, value in settings.items():
            session.conf.set(key, str(value))
        yield
    finally:
        for key, was in before.items():
            if was is None:
                session.conf.unset(key)
            else:
                session.conf.set(key, was)


def cancel_until_done(session: SparkSession, *running: "Future[Any]") -> None:
    """Cancel jobs until what runs in other threads has ended: it may begin one after a cancel."""
    while not all(step.done() for step in running):
        session.sparkContext.cancelAllJobs()
        wait(running, timeout=0.2)


def cancel_all_jobs() -> None:
    """Cancel what the session is doing, from a signal handler.

    The signal may have come while py4j was waiting for an answer on this thread's connection; that
    answer would be taken for the one to the next question, so the connection is given up.
    """
    context = SparkContext._active_spark_context
    # A context is there before its JVM has one; such a context has no jobs.
    if context is None or context._gateway is None or getattr(context, "_jsc", None) is None:
        return
    connection = context._gateway._gateway_client.get_thread_connection()
    if connection is not None:
        connection.close()
    # Of all that is aborted now the JVM would log the stack, as if it had crashed.
    context.setLogLevel("OFF")
    context.cancelAllJobs()


def thread_of_jvm(session: SparkSession) -> Any:
    """Return the JVM's thread that does what this thread asks for, to wait for it after a stop."""
    return session._jvm.java.lang.Thread.currentThread()  # type: ignore[union-attr]


def wait_until_idle(session: SparkSession, asked: Any) -> None:
    """Cancel what a session that was stopped still does, and wait until nothing writes any more.

    A query that was being planned goes on in the JVM: it makes its folder and starts a job after
    all jobs were cancelled. A cancelled task may write once more. Gives up after some seconds, with
    a warning, for whoever stopped the run does not wait for ever.

    Args:
        session: The session that was stopped.
        asked: The JVM's thread (``thread_of_jvm``) that worked for us when the signal came.
    """
    context = session.sparkContext
    was_given_up = asked != thread_of_jvm(session)  # else it waits for our next question
    tracker = context._jsc.sc().statusTracker()
    deadline = time.monotonic() + _STOP_SECONDS
    quiet_since = time.monotonic()
    while (now := time.monotonic()) < deadline:
        if (was_given_up and asked.isAlive()) or any(
            executor.numRunningTasks() for executor in tracker.getExecutorInfos()
        ):
            context.cancelAllJobs()
            quiet_since = now
        elif now - quiet_since > _QUIET_SECONDS:
            return
        time.sleep(0.05)
    logger.warning("Spark still worked %g s after its jobs were cancelled", _STOP_SECONDS)


def task_slots(session: SparkSession) -> int:
    """Return how many tasks run at once: by cores, cores of a task, and GPUs of it.

    On executors that are there; with dynamic allocation on as many as may come, where
    ``spark.dynamicAllocation.maxExecutors`` says how many.
    """
    conf = session.sparkContext.getConf()
    known = session.sparkContext._jsc.sc().statusTracker().getExecutorInfos()
    executors = max(1, len(known) - 1)  # the driver is among them
    cores = session.sparkContext.defaultParallelism
    if conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        executors = int(conf.get("spark.dynamicAllocation.maxExecutors", str(executors)))
        cores = max(cores, executors * int(conf.get("spark.executor.cores", "1")))
    slots = cores // int(conf.get("spark.task.cpus", "1"))
    of_task = float(conf.get("spark.task.resource.gpu.amount", "0"))
    if of_task:
        of_executor = int(conf.get("spark.executor.resource.gpu.amount", "1"))
        slots = min(slots, int(executors * of_executor / of_task))
    return max(1, slots)


def no_rows(session: SparkSession, schema: StructType) -> DataFrame:
    """Return an empty frame of which the optimiser knows that it is: no task looks into it."""
    columns = [F.lit(None).cast(field.dataType).alias(field.name) for field in schema]
    return session.range(0).select(*columns).limit(0)


def lookup(values: Mapping[str, _V], key: Column) -> Column:
    """Return what a mapping has for a key, null where it has nothing."""
    if not values:
        return F.lit(None)
    pairs = [F.lit(part) for pair in sorted(values.items()) for part in pair]
    return F.try_element_at(F.create_map(*pairs), key)


def _own_session(settings: SparkSettings) -> dict[str, str]:
    log_settings = (resource_folder("conf") / "spark" / "log4j2.properties").as_uri()
    own_options = f"-Dlog4j2.configurationFile={log_settings} {archive_options()}"
    return {
        **_LOCAL,
        "spark.master": settings.master,
        # Nothing is written there, but Spark makes the folder where it stands.
        "spark.sql.warehouse.dir": f"{tempfile.gettempdir()}/catalog-batch-spark-warehouse",
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.extraJavaOptions": f"{own_options} {settings.java_options}",
        "spark.sql.codegen.wholeStage": str(settings.compile_queries).lower(),
        "spark.sql.codegen.factoryMode": "FALLBACK" if settings.compile_queries else "NO_CODEGEN",
        # Few rows are no reason to plan again while a query runs.
        "spark.sql.adaptive.enabled": str(settings.compile_queries).lower(),
        # Interpreted, a shared subexpression costs a cache that is emptied with every row.
        "spark.sql.subexpressionElimination.enabled": str(settings.compile_queries).lower(),
        **_delta_settings(settings.master),
    }


def _delta_settings(master: str) -> dict[str, str]:
    """Return where the JVM finds Delta: on its own class path, once the JARs are there."""
    jars = [str(jar) for jar in delta_jars()]
    if not jars:
        return {"spark.jars.packages": DELTA_PACKAGE}
    # Only what is on the class path comes from the archive of classes.
    found = {"spark.driver.extraClassPath": os.pathsep.join(jars)}
    if not master.startswith("local["):
        found["spark.jars"] = ",".join(jars)  # for executors that are processes of their own
    return found


def _check_delta(session: SparkSession) -> None:
    try:
        session._jvm.java.lang.Class.forName(  # type: ignore[union-attr]
            "io.delta.sql.DeltaSparkSessionExtension",
            True,
            session._jvm.java.lang.Thread.currentThread().getContextClassLoader(),  # type: ignore[union-attr]
        )
    except Exception as error:
        raise BadInputError(
            "Spark has no Delta on its class path. Submit with --properties-file "
            f"conf/spark/local.conf, or with --packages {DELTA_PACKAGE}."
        ) from error

"""The data files of one Delta table: how many, how large, rewritten and deleted."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from catalog_batch.spark import configured
from catalog_batch.tables import Table
from catalog_batch.warehouse import Warehouse

logger = logging.getLogger(__name__)

MIB = 1024 * 1024


@dataclass(frozen=True)
class DataFile:
    """A file of the newest version; ``is_new`` when the last OPTIMIZE had not seen it."""

    size: int
    is_new: bool


@dataclass(frozen=True)
class Rewritten:
    """How many files an OPTIMIZE took out of the table, and put in."""

    removed: int = 0
    added: int = 0


def data_files(warehouse: Warehouse, table: Table) -> list[DataFile]:
    """Return the files of the newest version.

    What the last OPTIMIZE left is known to be as good as it gets, however small: compressing many
    files into one may make a small one again.
    """
    seen = _files_at_last_optimize(warehouse, table)
    rows = _add_actions(warehouse, table).select("path", "size").collect()
    return [DataFile(row["size"], PurePosixPath(row["path"]).name not in seen) for row in rows]


def optimize(
    warehouse: Warehouse, table: Table, cluster_by: str | None, target_mib: int
) -> Rewritten:
    """Merge files below half the target; with ``cluster_by``, sort the whole table anew.

    The rows stay the same, in one new version, or none when there is nothing to merge.
    """
    target = DeltaTable.forPath(warehouse.spark, warehouse.path(table)).optimize()
    with configured(warehouse.spark, _optimize_settings(target_mib)):
        done = target.executeZOrderBy(cluster_by) if cluster_by else target.executeCompaction()
        metrics = done.collect()[0]["metrics"]
    return Rewritten(metrics["numFilesRemoved"], metrics["numFilesAdded"])


def vacuum(warehouse: Warehouse, table: Table, retention_hours: int) -> int:
    """Delete files that no version within the retention needs; return how many.

    Delta keeps what was written, or taken out of the table, less than ``retention_hours`` ago.
    """
    before, _ = disk_usage(warehouse, table)
    with (
        configured(warehouse.spark, _vacuum_settings(warehouse.spark)),
        _printing_to_stderr(warehouse.spark),
    ):
        DeltaTable.forPath(warehouse.spark, warehouse.path(table)).vacuum(retention_hours)
    return before - disk_usage(warehouse, table)[0]


def count_vacuumable(warehouse: Warehouse, table: Table, retention_hours: int) -> int:
    """Return how many files ``vacuum`` would delete; Delta lists 1000 at the most."""
    path = warehouse.path(table).replace("`", "``")
    with (
        configured(warehouse.spark, _vacuum_settings(warehouse.spark)),
        _printing_to_stderr(warehouse.spark),
    ):
        return warehouse.spark.sql(
            f"VACUUM delta.`{path}` RETAIN {retention_hours} HOURS DRY RUN"
        ).count()


def disk_usage(warehouse: Warehouse, table: Table) -> tuple[int, int]:
    """Return the number and bytes of all data files in a table's folder, of any version or none."""
    files, folder = _hadoop(warehouse.spark, warehouse.path(table))
    _, log = _hadoop(warehouse.spark, f"{warehouse.path(table)}/_delta_log")
    # Delta adds to the log's folder in threads of its own.
    everything, of_log = files.getContentSummary(folder), files.getContentSummary(log)
    return (
        everything.getFileCount() - of_log.getFileCount(),
        everything.getLength() - of_log.getLength(),
    )


def old_staging_folders(warehouse: Warehouse, before: datetime) -> list[str]:
    """Return the folders of ``_staging/`` in which nothing was written since ``before``."""
    files, folder = _hadoop(warehouse.spark, f"{warehouse.root}/_staging")
    if not files.exists(folder):
        return []
    oldest_kept = before.timestamp() * 1000
    return [
        status.getPath().toString()
        for status in files.listStatus(folder)
        if _last_write(files, status) < oldest_kept
    ]


def remove_folder(spark: SparkSession, path: str) -> None:
    """Remove a folder with all that is in it."""
    files, folder = _hadoop(spark, path)
    files.delete(folder, True)


def _files_at_last_optimize(warehouse: Warehouse, table: Table) -> set[str]:
    history = DeltaTable.forPath(warehouse.spark, warehouse.path(table)).history()
    newest = history.where(F.col("operation") == "OPTIMIZE").agg(F.max("version")).collect()[0][0]
    if newest is None:
        return set()
    try:
        files = warehouse.read(table, newest).inputFiles()
    except AnalysisException as error:
        # Of a month ago and more Delta keeps no version, while the history may still name it.
        logger.info("%s: its last OPTIMIZE counts as none: %s", table.name, error)
        return set()
    return {PurePosixPath(path).name for path in files}


def _add_actions(warehouse: Warehouse, table: Table) -> DataFrame:
    # DESCRIBE DETAIL gives the files' number and total size, which hides the small ones.
    spark: Any = warehouse.spark
    log = spark._jvm.org.apache.spark.sql.delta.DeltaLog
    snapshot = log.forTableWithSnapshot(spark._jsparkSession, warehouse.path(table))._2()
    return DataFrame(snapshot.allFiles().toDF(), warehouse.spark)


def _optimize_settings(target_mib: int) -> dict[str, str]:
    return {
        "spark.databricks.delta.optimize.maxFileSize": str(target_mib * MIB),
        "spark.databricks.delta.optimize.minFileSize": str(target_mib * MIB // 2),
        # The default of 4096 rows at a time is 80 MB of images for each task.
        "spark.sql.parquet.columnarReaderBatchSize": "256",
    }


def _vacuum_settings(spark: SparkSession) -> dict[str, str]:
    return {
        # Deletes come out of run_log; as commits they would hide what a build stamped its with,
        # and each night would make two versions of every table.
        "spark.databricks.delta.vacuum.logging.enabled": "false",
        "spark.databricks.delta.vacuum.parallelDelete.enabled": "true",
        # The default lists a folder in as many as 10,000 tasks, minutes on a small machine.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(
            spark.sparkContext.defaultParallelism
        ),
    }


@contextmanager
def _printing_to_stderr(spark: Any) -> Iterator[None]:
    # VACUUM prints what it did, where a job prints its status line alone.
    console = getattr(getattr(spark._jvm.scala, "Console$"), "MODULE$")
    before = console.out()
    console.setOutDirect(spark._jvm.java.lang.System.err)
    try:
        yield
    finally:
        console.setOutDirect(before)


def _last_write(files: Any, status: Any) -> int:
    # Of the files: an object store makes up the time of a folder.
    newest = -1
    entries = files.listFiles(status.getPath(), True)
    while entries.hasNext():
        newest = max(newest, entries.next().getModificationTime())
    return newest if newest >= 0 else int(status.getModificationTime())


def _hadoop(spark: Any, path: str) -> tuple[Any, Any]:
    folder = spark._jvm.org.apache.hadoop.fs.Path(path)
    return folder.getFileSystem(spark._jsc.hadoopConfiguration()), folder

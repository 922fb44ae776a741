"""The warehouse: Delta folders under one root, and the only code that writes them through Spark.

Rows that come from processes without a JVM are written by ``ledger.py``.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial, reduce
from typing import NoReturn

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import MapType, StructField

from catalog_batch import ledger
from catalog_batch.config import Settings
from catalog_batch.errors import ConcurrentWriteError, MissingTableError, SchemaMismatchError
from catalog_batch.resources import resource_folder
from catalog_batch.spans import within
from catalog_batch.spark import (
    build_session,
    configured,
    no_rows,
    run_together,
    thread_of_jvm,
    wait_until_idle,
)
from catalog_batch.tables import ALL_TABLES, VIEWS, Table

_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"

Shared = Mapping[str, str | int]

logger = logging.getLogger(__name__)

_BY_SIZE = {"spark.sql.files.openCostInBytes": 2**16}
"""What opening a file counts as when files are packed into tasks. With the default, 4 MB, the small
files of a night are all alike, and one task gets all that are large among them."""


@contextmanager
def cached(frame: DataFrame) -> Iterator[DataFrame]:
    """Keep a frame's rows while the block uses them more than once.

    A cached frame that outlives the tables it was made from breaks later writes to them: Spark
    plans it anew after each commit.
    """
    frame.persist()
    try:
        yield frame
    finally:
        frame.unpersist()


@contextmanager
def open_warehouse(
    settings: Settings, app_name: str, begun: "Future[SparkSession] | None" = None
) -> Iterator["Warehouse"]:
    """Open the configured warehouse in a Spark session of its own, stopped at the end.

    Args:
        settings: Its folder or URI, and the session's.
        app_name: For Spark's pages and logs.
        begun: From ``begin_session``, when the session is on its way.
    """
    spark = begun.result() if begun else build_session(settings.spark, f"catalog-batch {app_name}")
    try:
        yield Warehouse(spark, settings.warehouse)
    finally:
        spark.stop()


class Warehouse:
    """The Delta tables under one root folder or URI."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        """Open the warehouse at ``root``; nothing is created yet."""
        self.spark = spark
        self.root = root.rstrip("/")

    def path(self, table: Table) -> str:
        """Return the folder or URI of a table."""
        return f"{self.root}/{table.name}"

    def exists(self, table: Table) -> bool:
        """Return whether the table has been created."""
        return DeltaTable.isDeltaTable(self.spark, self.path(table))

    def create(self, *tables: Table) -> None:
        """Create the tables that are missing, and add columns that their DDL has gained.

        Raises:
            SchemaMismatchError: When a stored column has another type than its DDL says.
        """
        run_together(self.spark, *[partial(self._create, table) for table in tables])

    def read_logs(self, *tables: Table) -> None:
        """Have Delta read the logs of tables side by side: a query reads one after another.

        Raises:
            MissingTableError: When one has not been created.
        """
        run_together(self.spark, *[partial(self._read_log, table) for table in tables])

    def read(self, table: Table, version: int | None = None) -> DataFrame:
        """Read a table, as of ``version`` if one is given.

        Raises:
            MissingTableError: When the table has not been created.
        """
        self._require(table)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.path(table))

    def read_or_empty(self, table: Table) -> DataFrame:
        """Read a table, or no rows of its columns when it has not been created."""
        if self.exists(table):
            return self.read(table)
        return no_rows(self.spark, table.schema)

    def version(self, table: Table) -> int:
        """Return the newest version of a table.

        Raises:
            MissingTableError: When the table has not been created.
        """
        version = ledger.table_version(self.root, table.name)
        if version is None:
            self._refuse_missing(table)
        return version

    def versions(self, *tables: Table) -> dict[str, int]:
        """Return the newest versions of tables, by name.

        Raises:
            MissingTableError: When one has not been created.
        """
        return {table.name: self.version(table) for table in tables}

    def last_user_metadata(self, table: Table) -> dict[str, str]:
        """Return what the newest commit was stamped with, empty when it was not by us."""
        return ledger.last_stamp(self.root, table.name)

    @contextmanager
    def stamped(self, **metadata: str) -> Iterator[None]:
        """Stamp every commit made inside the block, so that it can be traced to its run."""
        self.spark.conf.set(_USER_METADATA, json.dumps(metadata, sort_keys=True))
        try:
            yield
        finally:
            self.spark.conf.unset(_USER_METADATA)

    @contextmanager
    def alone(self, table: Table, run_id: str) -> Iterator[dict[str, int | None]]:
        """Make sure that no run of another machine, where our lock is not, writes it meanwhile.

        Yields:
            A mapping that has the table's version, by its name, after the block.

        Raises:
            ConcurrentWriteError: When another commit than one of this run came.
        """
        before, left_at = self.version(table), dict[str, int | None]()
        yield left_at
        left_at[table.name] = after = self.version(table)
        stamp = self.last_user_metadata(table)
        if after == before or (after == before + 1 and stamp.get("run_id") == run_id):
            return
        raise ConcurrentWriteError(
            f"Table {table.name!r} went from version {before} to {after} while run {run_id!r} "
            f"worked on it; the newest is of run {stamp.get('run_id')!r}. What this run found is "
            "published, perhaps between rows of the other, or over them. See that the scheduler "
            "starts one at a time and that nobody changes tables meanwhile, and run again, and "
            "score after anything else: it decides anew whatever they wrote."
        )

    def conform(self, frame: DataFrame, table: Table) -> DataFrame:
        """Select and cast the table's columns, in its order; other columns are dropped.

        Raises:
            SchemaMismatchError: When columns are missing.
        """
        missing = [name for name in table.columns if name not in frame.columns]
        if missing:
            raise SchemaMismatchError(
                f"Cannot write to {table.name!r}: columns {missing} are missing from "
                f"{frame.columns}. Add them in the pipeline, or change "
                f"schemas/tables/{table.name}.sql."
            )
        return frame.select(
            *[F.col(f.name).cast(f.dataType).alias(f.name) for f in table.schema.fields]
        )

    def upsert(
        self, frame: DataFrame, table: Table, restamp: bool = False, shared: Shared | None = None
    ) -> int:
        """MERGE rows by key; return how many were inserted or changed.

        Args:
            frame: Holds each key once.
            table: Where to.
            restamp: Write a row, too, that equals the stored one but for its stamps. Otherwise the
                same frame twice makes no second version.
            shared: Key columns with the one value that they have in all of ``frame``: files of rows
                that have another are not read.

        Raises:
            ConcurrentWriteError: When another run wrote a table with ``written_at`` just before.
        """
        is_same = _same_key(table, shared or {})
        known = self.version(table) if table.written_at else None
        with cached(self._changes(self.conform(frame, table), table, restamp, is_same)) as changes:
            [(count, stored, times)] = changes.agg(
                F.count("*"), F.count("_is_stored"), F.collect_set("_stored_at")
            ).collect()
            if not count:
                return 0
            # Of what came after the look at what is stored, the times are not known.
            if table.written_at and self.version(table) == known:
                is_same &= _written(table.written_at, times)
            source = changes.drop("_is_stored", "_stored_at").alias("source")
            merge = self._target(table).merge(source, is_same)
            # Delta only appends where no row can match: a tenth of the time of looking for them.
            if stored:
                updated = [name for name in table.columns if name not in table.kept]
                merge = merge.whenMatchedUpdate(set={n: F.col(f"source.{n}") for n in updated})
            with configured(self.spark, {} if known is None else _only_as(known + 1)):
                done = merge.whenNotMatchedInsertAll().execute().collect()
            if not done:
                raise ConcurrentWriteError(
                    f"Table {table.name!r} is no longer at version {known}: another run wrote it "
                    "at this very moment, and this one has written nothing. See that the scheduler "
                    "starts one at a time, and run again."
                )
            return int(done[0]["num_affected_rows"])

    def insert_new(
        self,
        frame: DataFrame,
        table: Table,
        shared: Shared | None = None,
        among: Column | None = None,
    ) -> int:
        """MERGE only the rows whose key is not stored yet; return how many.

        Args:
            frame: The rows.
            table: Where to.
            shared: As for ``upsert``.
            among: What is true of every stored row, named ``target``, that has a key of ``frame``:
                nor are files read without such a row.
        """
        is_same = _same_key(table, shared or {})
        if among is not None:
            is_same &= among
        return self._merge(
            self._target(table)
            .merge(self.conform(frame, table).alias("source"), is_same)
            .whenNotMatchedInsertAll()
            .execute()
        )

    def delete(self, keys: DataFrame, table: Table) -> int:
        """Delete the rows whose key is in ``keys``; return how many."""
        doomed = keys.select(*table.key).distinct()
        stored = self.read(table).select(*table.key)
        # Mostly there is nothing to delete, and one look at either side tells.
        if stored.isEmpty() or keys.isEmpty():
            return 0
        # Even a MERGE that deletes nothing commits a version.
        if stored.join(doomed, [*table.key], "left_semi").isEmpty():
            return 0
        return self._merge(
            self._target(table)
            .merge(doomed.alias("source"), _same_key(table, {}))
            .whenMatchedDelete()
            .execute()
        )

    def overwrite(self, frame: DataFrame, table: Table) -> None:
        """Replace the whole table by ``frame`` in one version."""
        self.conform(frame, table).write.format("delta").mode("overwrite").save(self.path(table))

    def append(self, frame: DataFrame, table: Table) -> None:
        """Append rows whose keys are known to be new."""
        self.conform(frame, table).write.format("delta").mode("append").save(self.path(table))

    @contextmanager
    def staged(self, frame: DataFrame, name: str) -> Iterator[DataFrame]:
        """Write ``frame`` once to ``_staging/<name>`` and read it back; removed at the end."""
        with self.staging(name):
            staged = self.stage(frame, name)
            with configured(self.spark, _BY_SIZE):
                yield staged

    @contextmanager
    def staging(self, name: str) -> Iterator[str]:
        """Yield the folder ``_staging/<name>``, which is removed at the end."""
        path = f"{self.root}/_staging/{name}"
        asked = thread_of_jvm(self.spark)
        try:
            yield path
        except (KeyboardInterrupt, SystemExit):  # A signal: Spark may still write there.
            wait_until_idle(self.spark, asked)
            raise
        finally:
            self._remove(path)

    def stage(self, frame: DataFrame, name: str) -> DataFrame:
        """Write ``frame`` once to ``_staging/<name>`` and read it back.

        Work that must not run twice (reading images, calling a model) goes through here: a MERGE
        may evaluate its source more than once.
        """
        path = f"{self.root}/_staging/{name}"
        frame.write.mode("overwrite").parquet(path)
        return self.spark.read.schema(frame.schema).parquet(path)

    def keep_staged(self, name: str, kept: str) -> str:
        """Move what is staged under ``name`` to ``_staging/<kept>``, to be looked at; return where.

        Later runs leave it alone; maintenance removes it after the retention.

        Raises:
            OSError: When the file system refuses.
        """
        source, target = f"{self.root}/_staging/{name}", f"{self.root}/_staging/{kept}"
        folder = self._hadoop_path(source)
        files = folder.getFileSystem(self.spark._jsc.hadoopConfiguration())
        if not files.rename(folder, self._hadoop_path(target)):
            raise OSError(f"{source!r} cannot be moved to {target!r}: look at the folder's rights.")
        return target

    def clear_staging(self, prefix: str) -> None:
        """Remove what killed runs of a job left behind; call it holding the job's lock."""
        folder = self._hadoop_path(f"{self.root}/_staging")
        files = folder.getFileSystem(self.spark._jsc.hadoopConfiguration())
        if files.exists(folder):
            for status in files.listStatus(folder):
                if status.getPath().getName().startswith(prefix):
                    files.delete(status.getPath(), True)

    def register(self) -> list[str]:
        """Register every table and view by name in this session; return the names."""
        names = []
        is_own_catalog = self.spark.conf.get("spark.sql.catalogImplementation") == "in-memory"
        for table in ALL_TABLES:
            if is_own_catalog:
                # Of a warehouse that this session had open before; its data stays.
                self.spark.sql(f"DROP TABLE IF EXISTS {table.name}")
            if self.exists(table):
                location = self.path(table).replace("\\", "\\\\").replace("'", "\\'")
                self.spark.sql(
                    f"CREATE TABLE IF NOT EXISTS {table.name} USING DELTA LOCATION '{location}'"
                )
                names.append(table.name)
        # A warehouse of an earlier release lacks the newest tables until its next ingest.
        missing = {table.name for table in ALL_TABLES} - set(names)
        for view in VIEWS:
            query = (resource_folder("schemas") / "views" / f"{view}.sql").read_text("utf-8")
            if missing.isdisjoint(re.findall(r"\w+", query)) and self._create_view(view, query):
                names.append(view)
        return names

    def _create_view(self, name: str, query: str) -> bool:
        try:
            self.spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW {name} AS {query}")
        except AnalysisException as error:
            if not (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
                raise
            logger.warning(
                "The view %r is not there: a table of an earlier release lacks a column of it. The "
                "next ingest adds it.",
                name,
            )
            return False
        return True

    def _create(self, table: Table) -> None:
        if self.exists(table):
            self._evolve(table)
        else:
            self.spark.sql(_creation(table, self.path(table)))

    def _require(self, table: Table) -> None:
        if not self.exists(table):
            self._refuse_missing(table)

    def _refuse_missing(self, table: Table) -> NoReturn:
        raise MissingTableError(
            f"Table {table.name!r} is not in the warehouse {self.root!r}. "
            "Run the job that writes it first, or check --warehouse."
        )

    def _read_log(self, table: Table) -> None:
        self.read(table)._jdf.inputFiles()  # whose names stay in the JVM

    def _changes(
        self, source: DataFrame, table: Table, restamp: bool, is_same: Column
    ) -> DataFrame:
        # A MERGE whose update condition never holds still commits a version, hence this join.
        stored = self.read(table).withColumn("_is_stored", F.lit(True))
        when = F.col(f"target.{table.written_at}") if table.written_at else F.lit(None)
        is_new = F.col("target._is_stored").isNull()
        return (
            source.alias("source")
            .join(stored.alias("target"), is_same, "left")
            .where(is_new | _differs(table) | F.lit(restamp))
            .select(
                "source.*",
                "target._is_stored",
                F.unix_micros(when.cast("timestamp")).alias("_stored_at"),
            )
        )

    def _target(self, table: Table) -> DeltaTable:
        return DeltaTable.forPath(self.spark, self.path(table)).alias("target")

    def _evolve(self, table: Table) -> None:
        stored = {field.name: field for field in self.read(table).schema.fields}
        changed = [
            f"{field.name} is {stored[field.name].dataType.simpleString()}, "
            f"not {field.dataType.simpleString()}"
            for field in table.schema.fields
            if field.name in stored and field.dataType != stored[field.name].dataType
        ]
        if changed:
            raise SchemaMismatchError(
                f"Stored table {table.name!r} differs from its DDL: {'; '.join(changed)}. "
                f"Rewrite the table, or restore schemas/tables/{table.name}.sql."
            )
        added = [field for field in table.schema.fields if field.name not in stored]
        if added:
            columns = ", ".join(_column_ddl(field) for field in added)
            self.spark.sql(f"ALTER TABLE {_quoted_path(self.path(table))} ADD COLUMNS ({columns})")

    @staticmethod
    def _merge(metrics: DataFrame) -> int:
        return int(metrics.collect()[0]["num_affected_rows"])

    def _remove(self, path: str) -> None:
        folder = self._hadoop_path(path)
        folder.getFileSystem(self.spark._jsc.hadoopConfiguration()).delete(folder, True)

    def _hadoop_path(self, path: str):  # type: ignore[no-untyped-def]  # a JVM object
        return self.spark._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]


def _creation(table: Table, path: str) -> str:
    columns = table.ddl.removeprefix(f"CREATE TABLE {table.name} ")
    return f"CREATE TABLE IF NOT EXISTS {_quoted_path(path)} {columns}"


def _quoted_path(path: str) -> str:
    return "delta.`" + path.replace("`", "``") + "`"


def _column_ddl(field: StructField) -> str:
    comment = field.metadata.get("comment", "").replace("'", "\\'")
    return f"`{field.name}` {field.dataType.simpleString()} COMMENT '{comment}'"


def _same_key(table: Table, shared: Shared) -> Column:
    own = [F.col(f"target.{name}") == F.col(f"source.{name}") for name in table.key]
    # From values that stand here Delta can tell which files hold none of them.
    known = [F.col(f"target.{name}") == F.lit(value) for name, value in shared.items()]
    return reduce(Column.__and__, own + known)


def _written(written_at: str, times: Collection[int]) -> Column:
    """Return whether a stored row was written at one of these times, microseconds since 1970."""
    # A time at which nothing was: Delta then looks into no file, and still knows that it has read.
    return within(F.col(f"target.{written_at}"), [(time, time + 1) for time in times or [0]])


def _only_as(version: int) -> dict[str, str]:
    """Return settings by which Delta passes a write over once the table had this version by one."""
    return {
        "spark.databricks.delta.write.txnAppId": "catalog-batch",
        "spark.databricks.delta.write.txnVersion": str(version),
    }


def _differs(table: Table) -> Column:
    """Return whether a matched pair differs in a column that is neither key, stamp nor kept."""
    ignored = {*table.key, *table.stamps, *table.kept}
    differences = [
        ~_comparable(field, "target").eqNullSafe(_comparable(field, "source"))
        for field in table.schema.fields
        if field.name not in ignored
    ]
    return reduce(Column.__or__, differences, F.lit(False))


def _comparable(field: StructField, side: str) -> Column:
    column = F.col(f"{side}.{field.name}")
    # Spark does not compare maps; their entries, sorted, it does.
    is_map = isinstance(field.dataType, MapType)
    return F.sort_array(F.map_entries(column)) if is_map else column

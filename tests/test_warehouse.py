"""The warehouse: creating, evolving, checking and writing tables."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from catalog_batch import ledger, tables
from catalog_batch.errors import ConcurrentWriteError, MissingTableError, SchemaMismatchError
from catalog_batch.score.images import _may_be_of
from catalog_batch.spans import MOST_SPANS
from catalog_batch.tables import ALL_TABLES, Table
from catalog_batch.warehouse import Warehouse, _written, cached

NOW = datetime(2026, 1, 1)
LATER = datetime(2026, 1, 2)


def product(product_id: str, **columns: Any) -> dict[str, Any]:
    defaults = {"title": None, "description": None, "category_id": None, "category_path": None}
    more = {"given_split": None, "attributes": {}, "updated_at": NOW, "run_id": "r1"}
    more |= {"delisted_at": None}
    return {"product_id": product_id, **defaults, **more, **columns}


def rejection(source_uri: str, **columns: Any) -> dict[str, Any]:
    return {
        "product_id": "p1",
        "source_uri": source_uri,
        "reason": "empty",
        "detail": "",
        "attempts": 1,
        "source_bytes": 0,
        "source_modified_at": NOW,
        "first_seen_at": NOW,
        "last_seen_at": NOW,
        "run_id": "r1",
        "expected_sha256": None,
        **columns,
    }


def frame(warehouse: Warehouse, table: Table, *rows: dict[str, Any]) -> DataFrame:
    return warehouse.spark.createDataFrame([Row(**row) for row in rows], table.schema)


def stored(warehouse: Warehouse, table: Table) -> list[dict[str, Any]]:
    rows = warehouse.read(table).collect()
    return sorted((row.asDict() for row in rows), key=lambda row: [row[k] for k in table.key])


@pytest.fixture(scope="module")
def complete(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """Make a warehouse with every table, which no test changes."""
    warehouse = Warehouse(spark, str(tmp_path_factory.mktemp("complete") / "it's a wärehouse/"))
    warehouse.create(*ALL_TABLES)
    yield warehouse


@pytest.fixture
def products(warehouse: Warehouse) -> Warehouse:
    """Open a warehouse that has the products table."""
    warehouse.create(tables.PRODUCTS)
    return warehouse


def test_every_table_is_created_as_its_ddl_says(complete: Warehouse) -> None:
    for table in ALL_TABLES:
        fields = complete.read(table).schema.fields
        assert [(f.name, f.dataType) for f in fields] == [
            (f.name, f.dataType) for f in table.schema.fields
        ], table.name
        assert set(table.key) <= set(table.columns)
        assert {*table.stamps, *table.kept} <= set(table.columns)
        assert table.written_at in {None, *table.stamps} - {*table.kept}
        if table.written_at:
            assert f"\n  {table.written_at} TIMESTAMP NOT NULL" in table.ddl
            assert re.search(rf"StatsColumns' = '.*\b{table.written_at}\b", table.ddl)


def test_every_column_and_table_says_what_it_holds(complete: Warehouse) -> None:
    for table in ALL_TABLES:
        for field in complete.read(table).schema.fields:
            assert field.metadata.get("comment"), f"{table.name}.{field.name}"
        assert re.search(r"\) USING DELTA\n(PARTITIONED BY .*\n)?COMMENT '.+'", table.ddl)


def test_no_table_has_deletion_vectors(complete: Warehouse) -> None:
    for table in ALL_TABLES:
        other = DeltaTable(complete.path(table))
        assert other.metadata().configuration["delta.enableDeletionVectors"] == "false"
        assert "deletionVectors" not in (other.protocol().writer_features or [])


def test_a_second_implementation_reads_the_same_columns(complete: Warehouse) -> None:
    for table in ALL_TABLES:
        fields = DeltaTable(complete.path(table)).schema().fields
        assert [(field.name, field.nullable) for field in fields] == [
            (field.name, field.nullable) for field in complete.read(table).schema.fields
        ]


def test_creating_twice_makes_one_version(complete: Warehouse) -> None:
    complete.create(*ALL_TABLES)
    assert {complete.version(table) for table in ALL_TABLES} == {0}


def test_every_table_and_view_is_registered(complete: Warehouse) -> None:
    names = complete.register()
    assert names == [*[table.name for table in ALL_TABLES], *tables.VIEWS]
    for name in names:
        assert complete.spark.table(name).columns
    for view in tables.VIEWS:
        assert complete.spark.table(view).collect() == []


def test_a_view_is_there_when_its_tables_are(products: Warehouse) -> None:
    products.create(tables.RUN_LOG)
    assert products.register() == ["products", "run_log", "nightly_runs"]


def test_a_view_of_a_column_that_a_table_has_not_yet_is_left_out(
    products: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    table = tables.RUN_LOG
    older = products.spark.createDataFrame([], table.schema).drop("model")
    older.write.format("delta").save(products.path(table))
    assert products.register() == ["products", "run_log"]
    assert "The view 'nightly_runs' is not there" in caplog.text
    products.create(table)
    assert products.register() == ["products", "run_log", "nightly_runs"]


def test_registering_another_warehouse_forgets_the_one_before(
    complete: Warehouse, products: Warehouse
) -> None:
    complete.register()
    products.upsert(frame(products, tables.PRODUCTS, product("p1")), tables.PRODUCTS)
    products.register()
    assert products.spark.table("products").count() == 1
    complete.register()
    assert products.spark.table("products").count() == 0


def test_a_missing_table_is_named_with_what_to_do(warehouse: Warehouse) -> None:
    assert not warehouse.exists(tables.IMAGES)
    for ask in (warehouse.read, warehouse.version):
        with pytest.raises(MissingTableError, match=r"'images'.*Run the job that writes it"):
            ask(tables.IMAGES)


def older_table(warehouse: Warehouse, columns: str) -> None:
    path = warehouse.path(tables.CATEGORIES)
    warehouse.spark.sql(f"CREATE TABLE delta.`{path}` ({columns}) USING DELTA")


def test_a_column_that_the_ddl_gained_is_added_with_its_comment(warehouse: Warehouse) -> None:
    older_table(warehouse, "taxonomy_version INT, category_id STRING")
    warehouse.spark.sql(f"INSERT INTO delta.`{warehouse.path(tables.CATEGORIES)}` VALUES (1, 'c1')")
    warehouse.create(tables.CATEGORIES)
    assert warehouse.read(tables.CATEGORIES).columns == tables.CATEGORIES.columns
    assert stored(warehouse, tables.CATEGORIES)[0] == {
        **dict.fromkeys(tables.CATEGORIES.columns),
        "taxonomy_version": 1,
        "category_id": "c1",
    }
    assert "Granny-Smith" in warehouse.read(tables.CATEGORIES).schema["path"].metadata["comment"]
    version = warehouse.version(tables.CATEGORIES)
    warehouse.create(tables.CATEGORIES)
    assert warehouse.version(tables.CATEGORIES) == version


def test_a_column_of_another_type_is_refused_with_the_difference(warehouse: Warehouse) -> None:
    older_table(warehouse, "taxonomy_version BIGINT, category_id STRING")
    with pytest.raises(SchemaMismatchError, match="taxonomy_version is bigint, not int"):
        warehouse.create(tables.CATEGORIES)
    assert warehouse.version(tables.CATEGORIES) == 0


def test_conforming_selects_casts_and_orders_the_columns(complete: Warehouse) -> None:
    rows = complete.spark.createDataFrame(
        [(1, "Fruit", "Fruit", None, "c1", "1", "extra")],
        "level int, path string, name string, parent_id string, category_id string, "
        "taxonomy_version string, more string",
    )
    assertDataFrameEqual(
        complete.conform(rows, tables.CATEGORIES),
        complete.spark.createDataFrame(
            [(1, "c1", None, "Fruit", "Fruit", 1)], tables.CATEGORIES.schema
        ),
    )


def test_conforming_names_the_columns_that_are_missing(complete: Warehouse) -> None:
    rows = complete.spark.createDataFrame([("p1",)], "product_id string")
    with pytest.raises(SchemaMismatchError, match=r"'labels'.*\['source', 'category_id'"):
        complete.conform(rows, tables.LABELS)


def test_an_upsert_inserts_changes_and_leaves_the_rest(products: Warehouse) -> None:
    first = [product("p1"), product("p2", title="old"), product("p3", attributes={"a": "1"})]
    assert products.upsert(frame(products, tables.PRODUCTS, *first), tables.PRODUCTS) == 3
    second = [
        product("p1", updated_at=LATER, run_id="r2"),  # other stamps alone
        product("p2", title="new", updated_at=LATER, run_id="r2"),
        product("p4", updated_at=LATER, run_id="r2"),
    ]
    assert products.upsert(frame(products, tables.PRODUCTS, *second), tables.PRODUCTS) == 2
    assert stored(products, tables.PRODUCTS) == [first[0], second[1], first[2], second[2]]


def test_rows_that_are_all_new_are_inserted_once(products: Warehouse) -> None:
    products.upsert(frame(products, tables.PRODUCTS, product("p1")), tables.PRODUCTS)
    new = frame(products, tables.PRODUCTS, product("p2"), product("p3"))
    assert products.upsert(new, tables.PRODUCTS) == 2
    assert products.upsert(new, tables.PRODUCTS) == 0
    assert stored(products, tables.PRODUCTS) == [product("p1"), product("p2"), product("p3")]


def test_the_same_rows_twice_make_no_second_version(products: Warehouse) -> None:
    rows = [product("p1", attributes={"a": "1", "b": "2"}), product("p2", attributes=None)]
    products.upsert(frame(products, tables.PRODUCTS, *rows), tables.PRODUCTS)
    version = products.version(tables.PRODUCTS)
    reordered = [product("p1", attributes={"b": "2", "a": "1"}, run_id="r2"), rows[1]]
    assert products.upsert(frame(products, tables.PRODUCTS, *reordered), tables.PRODUCTS) == 0
    assert products.version(tables.PRODUCTS) == version


def test_another_map_is_a_change(products: Warehouse) -> None:
    maps = [{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"}, {}, None]
    names = [f"p{number}" for number in range(len(maps))]
    first = [product(name, attributes={"a": "1"}) for name in names]
    products.upsert(frame(products, tables.PRODUCTS, *first), tables.PRODUCTS)
    second = [product(name, attributes=value) for name, value in zip(names, maps, strict=True)]
    assert products.upsert(frame(products, tables.PRODUCTS, *second), tables.PRODUCTS) == 5
    assert stored(products, tables.PRODUCTS) == second


def test_what_is_kept_stays_as_it_was_first_written(warehouse: Warehouse) -> None:
    warehouse.create(tables.REJECTED_IMAGES)
    table = tables.REJECTED_IMAGES
    warehouse.upsert(frame(warehouse, table, rejection("a")), table)
    again = rejection("a", attempts=2, first_seen_at=LATER, last_seen_at=LATER)
    assert warehouse.upsert(frame(warehouse, table, again), table) == 1
    assert stored(warehouse, table) == [rejection("a", attempts=2, last_seen_at=LATER)]


def test_inserting_new_rows_leaves_stored_ones_and_makes_no_version_without_any(
    products: Warehouse,
) -> None:
    rows = frame(products, tables.PRODUCTS, product("p1", title="first"))
    assert products.insert_new(rows, tables.PRODUCTS) == 1
    version = products.version(tables.PRODUCTS)
    same_key = frame(products, tables.PRODUCTS, product("p1", title="second"))
    assert products.insert_new(same_key, tables.PRODUCTS) == 0
    assert products.insert_new(same_key.limit(0), tables.PRODUCTS) == 0
    assert products.version(tables.PRODUCTS) == version
    assert stored(products, tables.PRODUCTS)[0]["title"] == "first"


def answer(
    image_id: str, model_version: int, ingested_at: datetime | None = None
) -> dict[str, Any]:
    given = {"image_id": image_id, "model_name": "m", "model_version": model_version}
    unknown = dict.fromkeys(("others", "margin", "nodes", "energy"))
    stamps = {"scored_at": NOW, "run_id": "r1", "ingested_at": ingested_at}
    return {**given, "top_k": [], **unknown, "failure": "f", **stamps}


@pytest.mark.parametrize("restamp", [False, True])
def test_files_of_rows_that_share_no_value_with_the_new_ones_are_not_read(
    warehouse: Warehouse, restamp: bool
) -> None:
    table, shared = tables.IMAGE_PREDICTIONS, {"model_name": "m", "model_version": 2}
    warehouse.create(table)
    warehouse.append(frame(warehouse, table, answer("a", 1), answer("b", 1)), table)
    for file in Path(warehouse.path(table)).glob("*.parquet"):
        file.unlink()
    rows = frame(warehouse, table, answer("a", 2), answer("c", 2))
    for expected in (2, 2 * restamp):
        if restamp:
            assert warehouse.upsert(rows, table, restamp, shared) == expected
        else:
            assert warehouse.insert_new(rows, table, shared) == expected
    with pytest.raises(Py4JJavaError, match="FAILED_READ_FILE"):
        warehouse.insert_new(rows, table)


def test_files_without_a_row_of_the_days_of_the_new_ones_are_not_read(
    warehouse: Warehouse,
) -> None:
    table = tables.IMAGE_PREDICTIONS
    warehouse.create(table)
    warehouse.append(frame(warehouse, table, answer("a", 1, NOW)), table)
    for file in Path(warehouse.path(table)).glob("*.parquet"):
        file.unlink()
    warehouse.append(frame(warehouse, table, answer("b", 1), answer("c", 1, LATER)), table)
    rows = frame(warehouse, table, answer("b", 1), answer("c", 1, LATER), answer("d", 1, LATER))
    day = (LATER - datetime(1970, 1, 1)).days
    for expected in (1, 0):
        assert warehouse.insert_new(rows, table, among=_may_be_of({day})) == expected
    with pytest.raises(Py4JJavaError, match="FAILED_READ_FILE"):
        warehouse.insert_new(rows, table)


def micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def decision(product_id: str, at: datetime, **columns: Any) -> dict[str, Any]:
    """Return an abstained decision of a run that began at some time."""
    row = dict.fromkeys(tables.PRODUCT_PREDICTIONS.columns)
    row |= {"product_id": product_id, "top_k": [], "decision": "abstained", "reason": "r"}
    row |= {"image_count": 0, "model_name": "m", "model_version": 1, "taxonomy_version": 1}
    return row | {"images_version": 0, "predicted_at": at, "run_id": f"{at:%d}"} | columns


NIGHTS = [datetime(2026, 1, day, 1, 2, 3, 456_789) for day in range(1, 5)]


@pytest.fixture
def decided(warehouse: Warehouse) -> Warehouse:
    """Open a warehouse with a decision by each of three nights, in a file of its own."""
    table = tables.PRODUCT_PREDICTIONS
    warehouse.create(table)
    for name, at in zip("abc", NIGHTS, strict=False):
        assert warehouse.upsert(frame(warehouse, table, decision(name, at)), table) == 1
    return warehouse


@pytest.mark.parametrize(
    ("times", "expected"), [([], ""), ([0], "a"), ([0, 2], "ac"), ([0, 1, 2], "abc")]
)
def test_only_files_of_rows_that_were_written_at_some_times_are_read(
    decided: Warehouse, times: list[int], expected: str
) -> None:
    found = _written("predicted_at", [micros(NIGHTS[at]) for at in times])
    rows = decided.read(tables.PRODUCT_PREDICTIONS).alias("target").where(found)
    assert len(rows.inputFiles()) == len(expected)
    assert {row["product_id"] for row in rows.collect()} == {*expected}


def test_of_many_times_all_between_the_first_and_the_last_are_read(decided: Warehouse) -> None:
    first, last = micros(NIGHTS[1]), micros(NIGHTS[2])
    rows = decided.read(tables.PRODUCT_PREDICTIONS).alias("target")
    for count in (MOST_SPANS, MOST_SPANS + 1):
        times = [*range(first - count + 1, first), last + 1]
        found = rows.where(_written("predicted_at", times)).collect()
        assert {row["product_id"] for row in found} == ({"b", "c"} if count > MOST_SPANS else set())


@pytest.mark.parametrize("written_at", ["predicted_at", None])
def test_a_night_changes_rows_of_earlier_ones_and_adds_others_and_reads_no_other_file(
    decided: Warehouse, monkeypatch: pytest.MonkeyPatch, written_at: str | None
) -> None:
    table, at = replace(tables.PRODUCT_PREDICTIONS, written_at=written_at), NIGHTS[3]
    night = [
        decision("a", at, image_count=2),
        decision("c", at),  # as it was
        decision("d", at),
    ]
    [of_b] = decided.read(table).where("product_id = 'b'").inputFiles()
    looked, path = decided._target, Path(unquote(urlparse(of_b).path))
    hidden = path.with_suffix(".hidden")

    def look(of: Table) -> Any:  # When what is stored has been looked at.
        path.rename(hidden)
        return looked(of)

    monkeypatch.setattr(decided, "_target", look)
    rows = frame(decided, table, *night)
    if written_at is None:
        with pytest.raises(Py4JJavaError, match="FAILED_READ_FILE"):
            decided.upsert(rows, table)
        return
    assert decided.upsert(rows, table) == 2
    hidden.rename(path)
    assert decided.upsert(rows, table) == 0
    expected = [night[0], decision("b", NIGHTS[1]), decision("c", NIGHTS[2]), night[2]]
    assert stored(decided, table) == expected


def test_a_row_that_somebody_adds_after_the_look_at_what_is_stored_is_not_added_again(
    decided: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, looked = tables.PRODUCT_PREDICTIONS, decided._changes
    other = decision("d", NIGHTS[2].replace(tzinfo=UTC), run_id="other")

    def look(*given: Any) -> DataFrame:
        found = looked(*given).cache()
        assert found.count() == 1
        ledger.append_rows(decided.root, table.name, [other])
        return found

    monkeypatch.setattr(decided, "_changes", look)
    assert decided.upsert(frame(decided, table, decision("d", NIGHTS[3])), table) == 0
    assert [row["run_id"] for row in stored(decided, table)[3:]] == ["other"]


def test_a_run_that_is_overtaken_at_the_last_moment_writes_nothing(
    decided: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, looked = tables.PRODUCT_PREDICTIONS, decided._target
    known, run_ids = decided.version(table), [row["run_id"] for row in stored(decided, table)]

    def look(of: Table) -> Any:
        # As a run of another machine does, which knew of the same version.
        first = DeltaTable(decided.path(of)).to_pyarrow_table().slice(0, 1)
        done = Transaction("catalog-batch", known + 1)
        properties = CommitProperties(app_transactions=[done])
        write_deltalake(decided.path(of), first, mode="append", commit_properties=properties)
        return looked(of)

    rows = frame(decided, table, decision("d", NIGHTS[3]))
    with monkeypatch.context() as patched:
        patched.setattr(decided, "_target", look)
        with pytest.raises(
            ConcurrentWriteError, match=rf"no longer at version {known}: another run"
        ):
            decided.upsert(rows, table)
    assert {row["run_id"] for row in stored(decided, table)} == {*run_ids}
    assert decided.upsert(rows, table) == 1


def test_rows_are_deleted_by_key(products: Warehouse) -> None:
    rows = frame(products, tables.PRODUCTS, product("p1"), product("p2"))
    products.upsert(rows, tables.PRODUCTS)
    assert products.delete(rows.where("product_id = 'p1'").union(rows), tables.PRODUCTS) == 2
    version = products.version(tables.PRODUCTS)
    assert products.delete(rows, tables.PRODUCTS) == 0
    assert products.version(tables.PRODUCTS) == version


def test_an_older_version_can_be_read(products: Warehouse) -> None:
    table = tables.PRODUCTS
    products.overwrite(frame(products, table, product("p1")), table)
    products.append(frame(products, table, product("p2")), table)
    assert [products.read(table, version).count() for version in (0, 1, 2)] == [0, 1, 2]
    assert products.read(table).count() == 2


def test_a_second_implementation_reads_the_same_rows(products: Warehouse) -> None:
    rows = [product("p1", title="=1+1", attributes={"a": "é"}), product("p2", attributes=None)]
    products.upsert(frame(products, tables.PRODUCTS, *rows), tables.PRODUCTS)
    other = DeltaTable(products.path(tables.PRODUCTS))
    assert other.version() == products.version(tables.PRODUCTS)
    found = other.to_pyarrow_table().select(["product_id", "title", "attributes"]).to_pylist()
    assert sorted(found, key=lambda row: row["product_id"]) == [
        {"product_id": "p1", "title": "=1+1", "attributes": [("a", "é")]},
        {"product_id": "p2", "title": None, "attributes": None},
    ]


@pytest.mark.parametrize(
    ("bad", "constraint"),
    [
        (product(""), "product_id_not_empty"),
        (product("p1", given_split="holdout"), "given_split_known"),
    ],
)
def test_a_constraint_refuses_a_bad_row_and_writes_nothing(
    products: Warehouse, bad: dict[str, Any], constraint: str
) -> None:
    rows = frame(products, tables.PRODUCTS, product("p9"), bad)
    with pytest.raises(Py4JJavaError, match=f"(?i){constraint}"):
        products.upsert(rows, tables.PRODUCTS)
    assert products.version(tables.PRODUCTS) == 0


def test_a_missing_value_is_refused_where_the_ddl_says_not_null(products: Warehouse) -> None:
    rows = frame(products, tables.PRODUCTS, product("p1")).selectExpr(
        "* except (updated_at)", "cast(null as timestamp) as updated_at"
    )
    with pytest.raises(Py4JJavaError, match="NOT NULL constraint violated"):
        products.append(rows, tables.PRODUCTS)


def test_commits_are_stamped_inside_the_block_alone(products: Warehouse) -> None:
    rows = frame(products, tables.PRODUCTS, product("p1"))
    with products.stamped(run_id="r1", job="ingest"):
        products.append(rows, tables.PRODUCTS)
    assert products.last_user_metadata(tables.PRODUCTS) == {"job": "ingest", "run_id": "r1"}
    products.append(rows, tables.PRODUCTS)
    assert products.last_user_metadata(tables.PRODUCTS) == {}


def test_a_foreign_commit_message_is_no_stamp(products: Warehouse) -> None:
    rows = frame(products, tables.PRODUCTS, product("p1"))
    for text in ("by hand", "3", '["a"]'):
        rows.write.format("delta").mode("append").option("userMetadata", text).save(
            products.path(tables.PRODUCTS)
        )
        assert products.last_user_metadata(tables.PRODUCTS) == {}


def test_staged_rows_are_read_back_and_removed(warehouse: Warehouse) -> None:
    rows = warehouse.spark.createDataFrame([(1,), (2,)], "number int")
    with warehouse.staged(rows, "run") as staged:
        assertDataFrameEqual(staged, rows)
        assert (Path(warehouse.root) / "_staging" / "run").is_dir()
    assert not (Path(warehouse.root) / "_staging" / "run").exists()


def test_staged_files_that_shrink_are_read_by_tasks_of_about_as_many_rows(
    warehouse: Warehouse,
) -> None:
    spark = warehouse.spark
    text = F.concat(*[F.sha2(F.rand(seed).cast("string"), 256) for seed in range(4)]).alias("text")
    sizes = (2000, 2000, 1000, 1000, 500, 500, 250, 250)
    rows = reduce(DataFrame.union, [spark.range(0, size, 1, 1).select(text) for size in sizes])

    with warehouse.staged(rows, "shrinking") as staged:
        counted = staged.groupBy(F.spark_partition_id().alias("task")).count().collect()

    assert sum(row["count"] for row in counted) == sum(sizes)
    assert max(row["count"] for row in counted) <= 0.6 * sum(sizes)


def test_staged_rows_are_removed_also_after_an_error(warehouse: Warehouse) -> None:
    rows = warehouse.spark.createDataFrame([(1,)], "number int")
    with pytest.raises(KeyboardInterrupt), warehouse.staged(rows, "run"):
        raise KeyboardInterrupt
    with pytest.raises(PySparkException), warehouse.staged(rows.selectExpr("1 / 0 as x"), "run"):
        pass
    assert not (Path(warehouse.root) / "_staging" / "run").exists()


def test_clearing_staging_removes_what_a_job_left_and_nothing_else(warehouse: Warehouse) -> None:
    warehouse.clear_staging("ingest")  # there is no such folder yet
    staging = Path(warehouse.root) / "_staging"
    for name in ("ingest-1", "ingest-2", "score-1"):
        (staging / name).mkdir(parents=True)
        (staging / name / "part.parquet").write_bytes(b"x")
    warehouse.clear_staging("ingest")
    assert [path.name for path in staging.iterdir()] == ["score-1"]


def test_a_cached_frame_is_released(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(1,)], "number int")
    with pytest.raises(KeyError), cached(rows) as kept:
        assert kept.is_cached
        raise KeyError
    assert not rows.is_cached


def test_a_table_without_a_file_says_which(spark: SparkSession) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.sql"):
        _ = replace(tables.LABELS, name="nothing").ddl

"""SQL that reads, SQL that is refused, and rows as text."""

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import datetime

import pytest
from pyspark.sql import Row, SparkSession
from tests.commands import ROOT
from tests.empty_tables import create_table

from catalog_batch import queries, tables
from catalog_batch.errors import QueryError
from catalog_batch.queries import format_rows, run_query
from catalog_batch.warehouse import Warehouse

COLUMNS = ["taxonomy_version", "category_id", "parent_id", "name", "path", "level"]
FRUIT = (1, "c1", None, "Fruit", "Fruit", 1)
APPLE = (1, "c2", "c1", "Apple", "Fruit/Apple", 2)
ONE = (["1"], [(1,)])

READING = {
    "SELECT 1": ONE,
    "SELECT 1;": ONE,
    "VALUES (1)": (["col1"], [(1,)]),
    "FROM categories": (COLUMNS, [FRUIT, APPLE]),
    "TABLE categories": (COLUMNS, [FRUIT, APPLE]),
    "WITH x AS (SELECT level FROM categories) SELECT * FROM x": (["level"], [(1,), (2,)]),
    "SELECT 'DROP TABLE products' AS text": (["text"], [("DROP TABLE products",)]),
    "SELECT name, n FROM categories JOIN (SELECT 2 AS level, 7 AS n UNION SELECT 3, 8) "
    "USING (level)": (["name", "n"], [("Apple", 7)]),
}
DESCRIBING = {
    "DESCRIBE categories": ("col_name", COLUMNS),
    "DESCRIBE HISTORY categories": ("version", [1, 0]),
    "SHOW COLUMNS IN categories": ("col_name", COLUMNS),
    "SHOW TABLES": ("tableName", ["categories"]),
}
CHANGING = [
    "INSERT INTO products SELECT 1",
    "INSERT OVERWRITE products SELECT 1",
    "WITH x AS (SELECT 1) INSERT INTO products SELECT * FROM x",
    "FROM x INSERT INTO products SELECT 1",
    "FROM x INSERT INTO products SELECT 1 INSERT INTO labels SELECT 2",
    "INSERT OVERWRITE DIRECTORY '/tmp/x' USING parquet SELECT 1",
    "DELETE FROM products",
    "UPDATE products SET title = 'x'",
    "MERGE INTO products USING labels ON true WHEN MATCHED THEN DELETE",
    "DROP TABLE products",
    "DROP VIEW review_queue",
    "DROP DATABASE default CASCADE",
    "CREATE TABLE x (y int)",
    "CREATE TABLE x AS SELECT 1",
    "CREATE VIEW x AS SELECT 1",
    "CREATE OR REPLACE TEMPORARY VIEW products AS SELECT 1",
    "CREATE FUNCTION f AS 'some.Class'",
    "CREATE DATABASE x",
    "ALTER TABLE products ADD COLUMNS (x int)",
    "ALTER TABLE products DROP COLUMN title",
    "ALTER TABLE products RENAME COLUMN title TO x",
    "ALTER TABLE products RENAME TO x",
    "ALTER TABLE products SET TBLPROPERTIES ('delta.appendOnly' = 'true')",
    "ALTER TABLE products SET LOCATION '/tmp/x'",
    "ALTER TABLE products DROP CONSTRAINT given_split_known",
    "COMMENT ON TABLE products IS 'x'",
    "TRUNCATE TABLE products",
    "OPTIMIZE products",
    "VACUUM products RETAIN 0 HOURS",
    "RESTORE TABLE products TO VERSION AS OF 0",
    "CONVERT TO DELTA parquet.`/tmp/x`",
    "ANALYZE TABLE products COMPUTE STATISTICS",
    "REFRESH TABLE products",
    "CACHE TABLE products",
    "SET spark.sql.ansi.enabled = false",
    "RESET",
    "USE x",
    "DECLARE VARIABLE x = 1",
    "ADD JAR '/tmp/x.jar'",
    "EXECUTE IMMEDIATE 'DROP TABLE products'",
    "CALL x.y()",
    "SELECT TRANSFORM(product_id) USING 'cat' FROM products",
    "WITH t AS (SELECT TRANSFORM(1) USING 'cat') SELECT * FROM t",
    "SELECT (SELECT TRANSFORM(1) USING 'cat')",
]


def documented() -> Iterator[str]:
    """Yield the queries that the documentation gives to people."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
            yield from filter(str.strip, block.split(";"))
        yield from (each for _, each in re.findall(r"catalog-batch sql (['\"])(.+?)\1", text, re.S))


DOCUMENTED = list(documented())


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """Make a warehouse of two categories."""
    warehouse = Warehouse(spark, str(tmp_path_factory.mktemp("a 'shop'")))
    warehouse.create(tables.CATEGORIES)
    frame = spark.createDataFrame(
        [FRUIT, APPLE],
        "taxonomy_version int, category_id string, parent_id string, name string, path string, "
        "level int",
    )
    warehouse.append(frame, tables.CATEGORIES)
    yield warehouse


def test_a_query_answers_with_names_and_rows(shop: Warehouse) -> None:
    columns, rows = run_query(
        shop, "SELECT level, count(*) AS n, max(path) FROM categories GROUP BY 1 ORDER BY 1"
    )
    assert columns == ["level", "n", "max(path)"]
    assert [tuple(row) for row in rows] == [(1, 1, "Fruit"), (2, 1, "Fruit/Apple")]


def test_an_older_version_can_be_asked_for_by_name(shop: Warehouse) -> None:
    _, rows = run_query(shop, "SELECT count(*) FROM categories VERSION AS OF 0")
    assert rows[0][0] == 0


@pytest.mark.parametrize("text", READING)
def test_a_statement_that_reads_is_answered(shop: Warehouse, text: str) -> None:
    columns, rows = run_query(shop, text)
    assert (columns, sorted(map(tuple, rows), key=str)) == READING[text]


def test_the_documentation_gives_queries() -> None:
    assert len(DOCUMENTED) >= 14


@pytest.fixture(scope="module")
def every_table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> SparkSession:
    """Register every table, all of them empty, and every view."""
    root = tmp_path_factory.mktemp("empty")
    for table in tables.ALL_TABLES:
        create_table(root, table.name, constrained=False)
    names = Warehouse(spark, str(root)).register()
    assert names == [*(table.name for table in tables.ALL_TABLES), *tables.VIEWS]
    return spark


@pytest.mark.parametrize("text", DOCUMENTED)
def test_a_query_of_the_documentation_names_what_is_there(
    every_table: SparkSession, text: str
) -> None:
    # Rows that ingest refused to publish, kept as files, have columns of that table.
    query = text.replace("parquet.`KEPT`", "rejected_images")
    assert every_table.sql(query).columns != []


@pytest.mark.parametrize("text", DESCRIBING)
def test_a_statement_that_describes_is_answered(shop: Warehouse, text: str) -> None:
    column, values = DESCRIBING[text]
    _, rows = run_query(shop, text)
    # Beside views, of which a session may have more, and what a table is partitioned by.
    assert {row[column] for row in rows} >= set(values)


def test_how_a_query_runs_is_told(shop: Warehouse) -> None:
    _, [plan] = run_query(shop, "EXPLAIN SELECT name FROM categories")
    assert "Physical Plan" in plan[0] and "name#" in plan[0]


@pytest.mark.parametrize("text", CHANGING)
def test_a_statement_that_changes_something_is_refused(spark: SparkSession, text: str) -> None:
    with pytest.raises(QueryError, match="only reads"):
        queries._refuse_changes(spark, text)


def test_a_refused_statement_does_nothing(shop: Warehouse) -> None:
    with pytest.raises(QueryError, match="DeleteFromTable"):
        run_query(shop, "DELETE FROM categories")
    assert shop.version(tables.CATEGORIES) == 1


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM kategories",
        "SELECT wrong FROM categories",
        "SELEC 1",
        "",
        "SELECT 1; DROP TABLE categories",
        "SELECT 1 / 0 FROM categories",
        "SELECT * FROM categories VERSION AS OF 99",
        "BEGIN DROP TABLE categories; END",
    ],
)
def test_a_query_that_fails_names_the_tables_that_there_are(shop: Warehouse, text: str) -> None:
    with pytest.raises(QueryError, match=r"\nTables and views of .*: categories\.$"):
        run_query(shop, text)
    assert shop.version(tables.CATEGORIES) == 1


def test_an_empty_warehouse_says_what_to_run(warehouse: Warehouse) -> None:
    with pytest.raises(QueryError, match="none; run ingest first"):
        run_query(warehouse, "SELECT * FROM products")


ROW = Row(
    title="=1+1",
    path="Fruit, [red]\nApple",
    share=0.123456,
    when=datetime(2026, 1, 1),
    none=None,
    content=bytearray(b"123"),
    counts={"a": 1},
)


def test_csv_cells_that_a_spreadsheet_would_run_are_prefixed() -> None:
    cells = ["=cmd|x", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "a=b", "", "'"]
    columns = [f"c{n}" for n in range(len(cells))]
    text = format_rows(columns, [Row(*cells)], "csv")
    header, values = csv.reader(io.StringIO(text, newline=""))
    assert header == columns
    assert values == ["'=cmd|x", "'+1", "'-1", "'@SUM(A1)", "'\tx", "'\rx", "a=b", "", "'"]


def test_csv_leaves_numbers_alone_and_nulls_empty() -> None:
    text = format_rows(["a", "b", "c"], [Row(-1, -0.5, None)], "csv")
    assert text == "a,b,c\n-1,-0.5,"


def test_csv_columns_that_a_spreadsheet_would_run_are_prefixed() -> None:
    assert format_rows(["=1+1"], [], "csv") == "'=1+1"


def test_json_is_one_object_a_row() -> None:
    text = format_rows(list(ROW.asDict()), [ROW, ROW], "json")
    first, second = (json.loads(line) for line in text.splitlines())
    assert first == second
    assert first["title"] == "=1+1"
    assert (first["share"], first["none"], first["counts"]) == (0.123456, None, {"a": 1})
    assert first["when"] == "2026-01-01 00:00:00"


def test_json_holds_no_value_that_json_lacks() -> None:
    text = format_rows(["x"], [Row(x=float("nan"))], "json")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {"x": None}


def test_a_table_shows_every_cell_and_counts_rows() -> None:
    text = format_rows(["a", "b", "[c]"], [Row("[red]x[/]", 0.123456, bytearray(b"12"))], "table")
    assert [name.strip() for name in text.splitlines()[0].split("┃")] == ["a", "b", "[c]"]
    assert "[red]x[/]" in text
    assert "0.1235" in text and "<2 bytes>" in text
    assert text.endswith("\n(1 row)")


def test_a_table_shortens_long_cells() -> None:
    text = format_rows(["a"], [Row("[" * 500), Row(None)], "table")
    assert "[" * 119 + "…" in text
    assert "[" * 120 not in text
    assert text.endswith("(2 rows)")

"""SQL over the warehouse: one read-only statement in, rows out as a table, CSV or JSON lines."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catalog_batch.errors import QueryError
from catalog_batch.warehouse import Warehouse

Format = Literal["table", "csv", "json"]

# Commands that read; any other command changes something.
_READING_COMMANDS = ("Describe", "Show", "Explain")
_COMMAND_CLASSES = ("Command", "ParsedStatement")
# What Spark's parser does not call a command, and yet changes something or runs another text.
_CHANGING_NODES = frozenset(
    [
        "InsertIntoDir",
        "CloneTableStatement",
        "RestoreTableStatement",
        "ExecuteImmediateQuery",
        "Call",
        "CompoundBody",
    ]
)
_RUNS_CODE = re.compile(r"ScriptTransformation|'(java_method|reflect|try_reflect)\(", re.IGNORECASE)
_MAX_CELL = 120


def run_query(warehouse: Warehouse, text: str) -> tuple[list[str], list[Row]]:
    """Run one reading statement with every table and view registered.

    Returns:
        Column names and rows.

    Raises:
        QueryError: When the statement would change something, names what is not there, or fails.
    """
    names = warehouse.register()
    try:
        _refuse_changes(warehouse.spark, text)
        frame = warehouse.spark.sql(text)
        return frame.columns, frame.collect()
    except (PySparkException, Py4JJavaError) as error:
        raise QueryError(
            f"{_first_line(error)}\nTables and views of {warehouse.root!r}: "
            f"{', '.join(names) or 'none; run ingest first'}."
        ) from error


def _first_line(error: PySparkException | Py4JJavaError) -> str:
    # Delta's own errors come as they left the JVM.
    if isinstance(error, Py4JJavaError):
        return str(error.java_exception.getMessage()).splitlines()[0]
    return str(error).splitlines()[0]


def format_rows(columns: list[str], rows: list[Row], style: Format) -> str:
    """Return rows as text; CSV cells that a spreadsheet would run are prefixed with ``'``."""
    if style == "json":
        return "\n".join(_as_json(row) for row in rows)
    if style == "csv":
        return "\n".join(_as_csv(cells) for cells in [columns, *rows])
    return _as_table(columns, rows)


def _refuse_changes(spark: SparkSession, text: str) -> None:
    plan = spark._jsparkSession.sessionState().sqlParser().parsePlan(text)
    commands = [_plan_class(spark, name) for name in _COMMAND_CLASSES]
    for node in _nodes(plan):
        name = node.getClass().getSimpleName()
        is_change = name in _CHANGING_NODES or any(kind.isInstance(node) for kind in commands)
        if is_change and not name.startswith(_READING_COMMANDS):
            raise QueryError(
                f"catalog-batch sql only reads, and this statement is a {name}. "
                "Tables are changed by the jobs."
            )
    # Also in subqueries, which are no children of the plan but are in its text.
    if found := _RUNS_CODE.search(plan.treeString()):
        raise QueryError(f"catalog-batch sql only reads, and {found[0]} runs code.")


def _plan_class(spark: SparkSession, name: str) -> Any:
    java = spark._jvm.java.lang  # type: ignore[union-attr]
    loader = java.Thread.currentThread().getContextClassLoader()
    return java.Class.forName(f"org.apache.spark.sql.catalyst.plans.logical.{name}", True, loader)


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    children = plan.children()
    for index in range(children.length()):
        yield from _nodes(children.apply(index))


def _as_csv(cells: Iterable[Any]) -> str:
    line = io.StringIO(newline="")
    # Ends lines with CR LF, and so quotes cells that hold either.
    csv.writer(line).writerow([_harmless(cell) for cell in cells])
    return line.getvalue().removesuffix("\r\n")


def _as_json(row: Row) -> str:
    values = row.asDict(recursive=True)
    # JSON has no NaN and no infinity.
    missing = {k: None for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps(values | missing, default=str)


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if is_formula else value


def _as_table(columns: list[str], rows: list[Row]) -> str:
    table = Table(show_edge=False)
    # As Text: a str would have its [brackets] taken for markup.
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*[Text(_cell(value)) for value in row])
    # Wide enough for every cell, whatever the terminal: the text may go into a file.
    console = Console(width=10_000, file=io.StringIO(), highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, f"({len(rows)} {'row' if len(rows) == 1 else 'rows'})"])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    text = str(value)
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"

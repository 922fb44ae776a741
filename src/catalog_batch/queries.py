"""SQL over the warehouse: one read-only statement in, rows out as a table, CSV or JSON lines."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, Literal

from pyspark.errors import PySparkException
from pyspark.sql import Row
from rich.console import Console
from rich.table import Table

from catalog_batch.errors import QueryError
from catalog_batch.tables import Warehouse

Format = Literal["table", "csv", "json"]

# Statements that read without being queries; anything else that is a command changes something.
_READING_COMMANDS = ("Describe", "Show", "Explain")
# What changes something without being named a command or a statement.
_CHANGING_NODES = frozenset(
    [
        "DeleteFromTable",
        "UpdateTable",
        "MergeIntoTable",
        "CreateTable",
        "CreateTableAsSelect",
        "CreateView",
        "ReplaceTable",
        "ReplaceTableAsSelect",
        "DropTable",
        "DropView",
        "DropNamespace",
        "TruncateTable",
        "AddColumns",
        "AlterColumns",
        "DropColumns",
        "RenameTable",
        "SetTableProperties",
        "UnsetTableProperties",
        "CreateNamespace",
        "CacheTable",
        "UncacheTable",
        "LoadData",
        "RepairTable",
        "AddCheckConstraint",
    ]
)
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
        _refuse_changes(warehouse, text)
        frame = warehouse.spark.sql(text)
        return frame.columns, frame.collect()
    except PySparkException as error:
        raise QueryError(
            f"{str(error).splitlines()[0]}\nTables and views of {warehouse.root!r}: "
            f"{', '.join(names) or 'none; run ingest first'}."
        ) from error


def format_rows(columns: list[str], rows: list[Row], style: Format) -> str:
    """Return rows as text; CSV cells that a spreadsheet would run are prefixed with ``'``."""
    if style == "json":
        return "\n".join(json.dumps(row.asDict(recursive=True), default=str) for row in rows)
    if style == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_harmless(value) for value in row] for row in rows)
        return text.getvalue().rstrip("\n")
    return _as_table(columns, rows)


def _refuse_changes(warehouse: Warehouse, text: str) -> None:
    parser = warehouse.spark._jsparkSession.sessionState().sqlParser()
    for name in _node_names(parser.parsePlan(text)):
        is_change = "Command" in name or "Statement" in name or name in _CHANGING_NODES
        if is_change and not name.startswith(_READING_COMMANDS):
            raise QueryError(
                f"catalog-batch sql only reads, and this statement is a {name}. "
                "Tables are changed by the jobs."
            )


def _node_names(plan: Any) -> Iterator[str]:
    yield plan.getClass().getSimpleName()
    children = plan.children()
    for index in range(children.length()):
        yield from _node_names(children.apply(index))


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if is_formula else value


def _as_table(columns: list[str], rows: list[Row]) -> str:
    table = Table(*columns, show_edge=False)
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
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
    text = str(value).replace("[", "\\[")
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"

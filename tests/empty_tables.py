"""Tables of the warehouse without a JVM, as their DDL says."""

import re
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from tests.commands import ROOT

TYPES = {
    "STRING": pa.string(),
    "BINARY": pa.binary(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}
COLUMN = re.compile(r"^  (\w+) (.+?)( NOT NULL)? COMMENT ", re.MULTILINE)


def arrow_type(ddl: str) -> pa.DataType:
    """Translate a type of ``schemas/``."""
    if ddl.startswith("ARRAY<"):
        return pa.list_(arrow_type(ddl.removeprefix("ARRAY<")[:-1]))
    if ddl.startswith("MAP<STRING, "):
        return pa.map_(pa.string(), arrow_type(ddl.removeprefix("MAP<STRING, ")[:-1]))
    if ddl.startswith("STRUCT<"):
        fields = [field.split(": ") for field in ddl.removeprefix("STRUCT<")[:-1].split(", ")]
        return pa.struct([(name, arrow_type(kind)) for name, kind in fields])
    return TYPES[ddl]


def create_table(root: Path, name: str, constrained: bool = True) -> None:
    """Create an empty table as its DDL says, with its constraints where they are wanted."""
    ddl = (ROOT / "schemas" / "tables" / f"{name}.sql").read_text(encoding="utf-8")
    schema = pa.schema(
        [
            pa.field(column, arrow_type(kind), nullable=not required)
            for column, kind, required in COLUMN.findall(ddl)
        ]
    )
    write_deltalake(str(root / name), schema.empty_table())
    if not constrained:
        return
    for constraint, condition in re.findall(r"constraints\.(\w+)' = [\"'](.+)[\"'],?\n", ddl):
        DeltaTable(str(root / name)).alter.add_constraint({constraint: condition})

"""Write ``data_dictionary.md`` from ``schemas/``: ``make docs``. A test says when it is stale."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "data_dictionary.md"
_COLUMN = re.compile(r"^  (\w+) (.+?)( NOT NULL)? COMMENT (['\"])(.*)\4,?$")
_COMMENT = re.compile(r"^COMMENT (['\"])(.*)\1$", re.MULTILINE)
_CONSTRAINT = re.compile(r"'delta\.constraints\.(\w+)' = (['\"])(.*)\2,?$", re.MULTILINE)


def data_dictionary() -> str:
    """Return the whole page."""
    lines = [
        "# Data dictionary",
        "",
        "Made from `schemas/` by `make docs`; change the DDL, not this page.",
        "",
        "## Tables",
    ]
    for path in sorted((ROOT / "schemas" / "tables").glob("*.sql")):
        lines += _table(path.stem, path.read_text(encoding="utf-8"))
    lines += ["", "## Views", "", "| view | what it shows |", "| --- | --- |"]
    for path in sorted((ROOT / "schemas" / "views").glob("*.sql")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"| `{path.stem}` | {first.removeprefix('-- ')} |")
    return "\n".join(lines) + "\n"


def _table(name: str, ddl: str) -> Iterator[str]:
    comment = _COMMENT.search(ddl)
    yield from ("", f"### {name}", "", f"{comment[2] if comment else ''}.", "")
    yield from ("| column | type | null | meaning |", "| --- | --- | --- | --- |")
    for line in ddl.splitlines():
        if column := _COLUMN.match(line):
            null = "no" if column[3] else "yes"
            yield f"| `{column[1]}` | {column[2].lower()} | {null} | {column[5]} |"
    for constraint in _CONSTRAINT.finditer(ddl):
        if constraint.start() == _first(ddl):
            yield from ("", "Constraints:", "")
        yield f"- `{constraint[1]}`: `{constraint[3]}`"


def _first(ddl: str) -> int:
    match = _CONSTRAINT.search(ddl)
    return match.start() if match else -1


if __name__ == "__main__":
    TARGET.write_text(data_dictionary(), encoding="utf-8")

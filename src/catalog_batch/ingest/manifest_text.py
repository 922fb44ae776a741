"""CSV and JSON Lines, parsed strictly and once into Parquet: every line is in a row, or refused.

Spark's own parsers drop, shift or merge what they do not understand. This one streams on the
driver in constant memory. A line that cannot be understood becomes a row with a defect; only what
leaves the whole file in doubt is refused.
"""

import csv
import io
import json
import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.sources import shown_uri

logger = logging.getLogger(__name__)

DEFECT_COLUMN = "_defect"
LINE_COLUMN = "_line"
TEXT_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json")

_MAX_ROW = 10_000_000  # characters: a description may be long, an unclosed quote is longer
_MAX_COLUMNS = 2_000
_PART_ROWS = 10_000
_PART_CHARACTERS = 8_000_000
_UNSAFE = re.compile("[\0\ud800-\udfff]")  # NUL, and what stands for bytes that do not decode
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}


@dataclass(frozen=True)
class TextManifest:
    """What was found in a text manifest; its rows are in the target folder."""

    columns: list[str]
    rows: int
    bad_rows: int
    encoding: str


class _Row(NamedTuple):
    """Cells in the order of the columns, a defect or None, and the first physical line."""

    cells: list[str | None]
    defect: str | None
    line: int


def parse_text_manifest(uri: str, target: str) -> TextManifest:
    """Parse a CSV (``.csv``) or JSON Lines file into Parquet files.

    Args:
        uri: The file: a local path, ``file://``, ``s3://`` or ``s3a://``. It is never unpacked.
        target: Folder that is emptied and filled. Column ``i`` is written as ``column_name(i)``, a
            string; ``_defect`` says what is wrong with a row, and ``_line`` where it begins.

    Raises:
        ManifestError: When the file is missing, empty, compressed or of another form, its header
            is unusable, or a quote is never closed.
    """
    encoding = _find_encoding(uri)
    try:
        with _open_lines(uri, encoding) as lines, _PartWriter(target) as parts:
            if _is_csv(uri):
                parts.columns = _read_header(lines)
                parts.write_all(lines, _csv_rows(lines, len(parts.columns)))
            else:
                parts.write_all(lines, _json_rows(lines, parts.columns))
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"Manifest {uri!r} is not {encoding.upper()}: {error.reason}. Save it as UTF-8."
        ) from error
    if not parts.columns:
        raise ManifestError(f"Manifest {uri!r} {parts.first_defect or 'is empty'}.")
    return TextManifest(list(parts.columns), parts.rows, parts.bad_rows, encoding)


def column_name(index: int) -> str:
    """Return the name of a column in the Parquet files: any text may be a manifest's own name."""
    return f"c{index}"


def locate(uri: str) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path in it.

    Raises:
        ManifestError: When no file system serves the URI.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    try:
        files, path = fs.FileSystem.from_uri(uri.replace("s3a://", "s3://", 1))
    except (OSError, ValueError) as error:
        # The file system's own words may hold the location again, credentials and all.
        raise ManifestError(f"No file system serves {uri!r}: {type(error).__name__}") from None
    return files, path


def suffix_of(uri: str) -> str:
    """Return how a manifest's name ends, in small letters: of a URI without its query."""
    return PurePosixPath(shown_uri(uri)).suffix.lower()


def _is_csv(uri: str) -> bool:
    return suffix_of(uri) == ".csv"


class _Lines:
    """Physical lines of a text, numbered, with what is wrong in those of the current row."""

    def __init__(self, uri: str, text: io.TextIOWrapper, encoding: str) -> None:
        self.uri = uri
        self.encoding = encoding
        self.number = 0
        self.characters = 0
        self.ended = False
        self._text = text
        self._again: deque[str] = deque()
        self.begin_row()

    def begin_row(self) -> None:
        """Forget the lines read so far; the next one is the first of a row."""
        self.row: list[str] = []
        self.first = self.number + 1
        self.flaw: str | None = None
        self._row_end = self.characters + _MAX_ROW

    def unread_all_but_first(self) -> None:
        """Give back the lines after a row's first: rows of their own, if its quote was astray."""
        self._again.extendleft(reversed(self.row[1:]))
        self.number = self.first

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(_MAX_ROW + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.row.append(line)
        self.characters += len(line)
        if self.characters > self._row_end:
            self._refuse_length(line)
        if (not line.isascii() or "\0" in line) and _UNSAFE.search(line):
            what = "holds a NUL byte" if "\0" in line else f"is not {self.encoding.upper()}"
            self.flaw = self.flaw or f"line {self.number} {what}"
        return line

    def _refuse_length(self, line: str) -> None:
        """Skip one endless line; an endless row of many lines is an unclosed quote."""
        if len(self.row) > 1 and len(line) <= _MAX_ROW:
            raise ManifestError(
                f"The row that begins at line {self.first} of {self.uri!r} is longer than "
                f"{_MAX_ROW:,} characters. Is a quote in it never closed? Close or double it."
            )
        rest = line
        while rest and not rest.endswith(("\n", "\r")):
            rest = self._text.readline(_MAX_ROW)
        self.row[-1] = line + "\n"  # Its end is known now, should it be read again.
        raise csv.Error(f"longer than {_MAX_ROW:,} characters")


@contextmanager
def _open_lines(uri: str, encoding: str) -> Iterator[_Lines]:
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    # An escaped or passed surrogate marks a bad byte, and so costs one row.
    errors = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
    files, path = locate(uri)
    with (
        files.open_input_stream(path, compression=None, buffer_size=1 << 20) as stream,
        io.TextIOWrapper(stream, codec, errors, newline="" if _is_csv(uri) else "\n") as text,
    ):
        yield _Lines(uri, text, encoding)


def _find_encoding(uri: str) -> str:
    """Tell UTF-16 by its mark, and cp1252 by having accents but none in UTF-8."""
    files, path = locate(uri)
    try:
        info = files.get_file_info(path)
        if info.type != fs.FileType.File:
            what = "missing" if info.type == fs.FileType.NotFound else "no file"
            raise ManifestError(f"Manifest {uri!r} is {what}.")
        with files.open_input_stream(path, compression=None) as stream:
            encoding = _encoding_of(uri, io.BufferedReader(stream, 1 << 20))
    except OSError as error:
        raise ManifestError(f"Manifest {uri!r} cannot be read: {error}") from error
    if encoding == "cp1252":
        logger.warning("Manifest %r is not UTF-8; it is read as cp1252 (Latin-1).", shown_uri(uri))
    return encoding


def _encoding_of(uri: str, raw: io.BufferedReader) -> str:
    head = raw.peek(6)[:6]
    _refuse_foreign(uri, head)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return _utf8_or_cp1252(raw)


def _refuse_foreign(uri: str, head: bytes) -> None:
    if not head:
        raise ManifestError(f"Manifest {uri!r} is empty.")
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            raise ManifestError(f"Manifest {uri!r} is compressed ({name}); unpack it first.")
    if head.startswith(b"PAR1"):
        raise ManifestError(f"Manifest {uri!r} is a Parquet file; name it .parquet.")


def _utf8_or_cp1252(raw: io.BufferedReader) -> str:
    has_foreign = False
    # A byte order mark says UTF-8 itself: it is the first line's valid character.
    while line := raw.readline(_MAX_ROW):
        if not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError:
                has_foreign = True
            else:
                return "utf-8"
    return "cp1252" if has_foreign else "utf-8"


def _read_header(lines: _Lines) -> dict[str, int]:
    csv.field_size_limit(_MAX_ROW)
    header: list[str] = []
    try:
        while not any(cell.strip() for cell in header):
            lines.begin_row()
            header = next(csv.reader(lines, strict=True))
    except StopIteration:
        raise ManifestError(f"Manifest {lines.uri!r} is empty.") from None
    except csv.Error as error:
        raise _header_error(lines, f"is no CSV: {error}. Mend its quotes.") from error
    if lines.flaw:
        raise _header_error(lines, f"cannot be read: {lines.flaw}. Save the file as UTF-8.")
    if not all(cell.strip() for cell in header):
        number = next(i for i, cell in enumerate(header, 1) if not cell.strip())
        raise _header_error(lines, f"has no name for column {number}. Name it or drop it.")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise _header_error(lines, f"names {repeated} more than once. Rename or drop one.")
    _check_width(lines.uri, len(header))
    return {name: index for index, name in enumerate(header)}


def _header_error(lines: _Lines, problem: str) -> ManifestError:
    return ManifestError(f"The header, line {lines.first} of {lines.uri!r}, {problem}")


def _check_width(uri: str, width: int) -> None:
    if width > _MAX_COLUMNS:
        raise ManifestError(
            f"Manifest {uri!r} has more than {_MAX_COLUMNS:,} columns. Put what varies under one."
        )


def _csv_rows(lines: _Lines, width: int) -> Iterator[_Row]:
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _broken_row(lines, error, width)
            continue
        if len(cells) > 1 or (cells and (width == 1 or cells[0].strip())):
            yield _checked_row(lines, cells, width)


def _checked_row(lines: _Lines, cells: list[str], width: int) -> _Row:
    defect = lines.flaw
    if len(cells) != width and not defect:
        defect = f"line {lines.first} has {len(cells)} cells, the header has {width}"
    # An empty cell says nothing: null.
    kept = [cell or None for cell in cells[:width]]
    return _Row(_made_safe(kept) if lines.flaw else kept, defect, lines.first)


def _broken_row(lines: _Lines, error: csv.Error, width: int) -> _Row:
    """Return the first line as a bad row with the cells before its quote; read the others again."""
    if lines.ended:
        raise ManifestError(
            f"A quote in the row that begins at line {lines.first} of {lines.uri!r} is never "
            "closed. Close it, or double the quotes inside a quoted cell."
        ) from error
    where = _line_range(lines.first, lines.number)
    cells = [cell or None for cell in lines.row[0].split('"', 1)[0].split(",")[:-1]]
    lines.unread_all_but_first()
    return _Row(_made_safe(cells[:width]), f"{where} no CSV: {error}", lines.first)


def _line_range(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


def _made_safe(cells: list[str | None]) -> list[str | None]:
    return [cell and _UNSAFE.sub("\ufffd", cell) for cell in cells]


def _json_rows(lines: _Lines, columns: dict[str, int]) -> Iterator[_Row]:
    """Yield a row a line, and add to ``columns`` the keys that are new."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
    is_first = True
    while not lines.ended:
        lines.begin_row()
        try:
            line = next(lines, "").strip()
            if not line:
                continue
            if is_first:
                _refuse_array(lines.uri, line)
            is_first = False
            yield _json_row(lines, _flat(decoder.decode(line)), columns)
        except RecursionError:
            yield _Row([], f"line {lines.first} is no JSON object: too deeply nested", lines.first)
        except (csv.Error, ValueError) as error:
            if isinstance(error, (ManifestError, UnicodeError)):
                raise
            defect = lines.flaw or f"line {lines.first} is no JSON object: {_reason(error)}"
            yield _Row([], defect, lines.first)


def _json_row(lines: _Lines, record: dict[str, str | None], columns: dict[str, int]) -> _Row:
    defect = lines.flaw
    # Escapes can say what bytes may not: NUL, and half a character.
    if not defect and "\\u" in lines.row[0] and _is_unsafe(record):
        defect = f"line {lines.first} holds an escape that is no character"
    for name in record:
        if name not in columns and not (defect and _UNSAFE.search(name)):
            columns[name] = len(columns)
    _check_width(lines.uri, len(columns))
    cells: list[str | None] = [None] * len(columns)
    for name, value in record.items():
        if name in columns:
            cells[columns[name]] = value
    return _Row(_made_safe(cells) if defect else cells, defect, lines.first)


def _is_unsafe(record: dict[str, str | None]) -> bool:
    return any(_UNSAFE.search(text) for pair in record.items() for text in pair if text)


def _flat(record: object) -> dict[str, str | None]:
    """Return an object's values as text, what is nested as compact JSON."""
    if not isinstance(record, dict):
        raise ValueError("it is another JSON value")
    if "" in record:
        raise ValueError("a key is empty")
    return {
        name: value if value is None or isinstance(value, str) else _as_json(value)
        for name, value in record.items()
    }


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key is there twice")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _refuse_array(uri: str, line: str) -> None:
    is_json_file = PurePosixPath(uri).suffix.lower() == ".json"
    if line == "[" or (is_json_file and line.startswith("[")):
        raise ManifestError(
            f"Manifest {uri!r} is one JSON array. Write one object per line: jq -c '.[]'."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    return str(error)


class _PartWriter:
    """Writes rows into Parquet files of bounded size."""

    def __init__(self, target: str) -> None:
        self.columns: dict[str, int] = {}
        self.rows = 0
        self.bad_rows = 0
        self.first_defect: str | None = None
        self._files, self._folder = locate(target)
        self._part: list[_Row] = []
        self._parts = 0

    def __enter__(self) -> "_PartWriter":
        self._files.create_dir(self._folder, recursive=True)
        self._files.delete_dir_contents(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._part.clear()

    def write_all(self, lines: _Lines, rows: Iterator[_Row]) -> None:
        """Write all rows; at least one file, were it empty."""
        written = 0
        for row in rows:
            self._part.append(row)
            if row.defect is not None:
                self.bad_rows += 1
                self.first_defect = self.first_defect or row.defect
            if len(self._part) >= _PART_ROWS or lines.characters - written >= _PART_CHARACTERS:
                self._write_part()
                written = lines.characters
        if self._part or not self._parts:
            self._write_part()

    def _write_part(self) -> None:
        columns = list(zip_longest(*(row.cells for row in self._part)))
        missing = [None] * len(self._part)
        arrays = {
            column_name(index): pa.array(columns[index] if index < len(columns) else missing, "str")
            for index in range(len(self.columns))
        }
        arrays[DEFECT_COLUMN] = pa.array([row.defect for row in self._part], "str")
        arrays[LINE_COLUMN] = pa.array([row.line for row in self._part], "int64")
        path = f"{self._folder}/part-{self._parts:05d}.parquet"
        with self._files.open_output_stream(path, compression=None) as stream:
            pq.write_table(pa.table(arrays), stream)
        self.rows += len(self._part)
        self._parts += 1
        self._part.clear()

"""Is a CSV manifest what it seems? A forgiving parser drops or merges rows without a word."""

import csv
import io
import os

from pyarrow import fs

from catalog_batch.errors import ManifestError

# A description may be long; a quote that is never closed makes a cell of the rest of the file.
_MAX_CELL = 10_000_000


def check_csv(uri: str) -> None:
    """Read a CSV file through once, strictly; a location that is no file is left to Spark.

    Raises:
        ManifestError: For a row of another length than the header, an unclosed or misplaced quote,
            or bytes that are not UTF-8, with the line.
    """
    location = uri.replace("s3a://", "s3://", 1) if "://" in uri else os.path.abspath(uri)
    files, path = fs.FileSystem.from_uri(location)
    if files.get_file_info(path).type != fs.FileType.File:
        return
    csv.field_size_limit(_MAX_CELL)
    with (
        files.open_input_stream(path, compression=None) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
    ):
        rows = csv.reader(text, strict=True)
        try:
            header = next(rows, [])
            for row in rows:
                if row and len(row) != len(header):
                    raise ManifestError(
                        f"Line {rows.line_num} of {uri!r} has {len(row)} cells, the header "
                        f"{len(header)}: {row[:3]}... Quote cells that hold commas."
                    )
        except csv.Error as error:
            raise ManifestError(
                f"Line {rows.line_num} of {uri!r} is no CSV: {error}. Double the quotes inside a "
                "quoted cell, and close each quote."
            ) from error
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"After line {rows.line_num}, {uri!r} is not UTF-8: {error.reason}. "
                "Save it as UTF-8."
            ) from error

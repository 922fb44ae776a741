"""Images inside the rows of a Parquet manifest, read by a cursor that moves forward."""

import bisect
from collections.abc import Iterator
from itertools import accumulate
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from catalog_batch.imaging import Reason, Rejection
from catalog_batch.ingest.reading import too_large

CONTENT = "content"
_ROWS_PER_BATCH = 16
_BYTES_PER_BATCH = 32_000_000


class ParquetRows:
    """Reads ``content`` row by row; ascending rows of one file cost one pass over it.

    One file and one small batch are held at a time. Rows may be asked for in any order, but each
    step back reads the row group again from its start, and so one reader is not for many threads.
    """

    def __init__(self, store: str = "") -> None:
        """Open nothing yet.

        Args:
            store: An image root on the same object store; the query of its URI (endpoint, region)
                and its credentials open the files too.
        """
        self._store = store
        self._url = ""
        self._cursor: _Cursor | None = None
        self._lock = Lock()

    def read(self, file_url: str, row: int, max_bytes: int) -> bytes | Rejection:
        """Read the image of one row.

        Args:
            file_url: The Parquet file: a path or ``scheme://host/path`` without escapes, as a
                manifest's ``content_file`` has it, or a ``file://`` URL with them.
            row: Its row, from 0, as ``_metadata.row_index`` has it.
            max_bytes: What an image may have.
        """
        try:
            with self._lock:
                content = self._at(file_url).content(row)
        except FileNotFoundError:
            return Rejection(Reason.MISSING, "the Parquet file vanished")
        except IndexError:
            return Rejection(Reason.MISSING, f"the Parquet file has no row {row}")
        except (OSError, ValueError, pa.ArrowException) as error:
            self._url = ""
            return Rejection(Reason.UNREADABLE, f"the Parquet file: {type(error).__name__}")
        return _checked(content, max_bytes)

    def _at(self, file_url: str) -> "_Cursor":
        if self._cursor is None or self._url != file_url:
            self._url, self._cursor = "", None
            self._cursor = _Cursor(_opened(file_url, self._store))
            self._url = file_url
        return self._cursor


class _Cursor:
    """A place in an open Parquet file: a row group, and a batch of its rows."""

    def __init__(self, file: Any) -> None:
        # Without a buffer size a whole column chunk is read at once, and that may be gigabytes.
        self._file = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        metadata = self._file.metadata
        counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = list(accumulate(counts, initial=0))
        self._column = self._file.schema_arrow.names.index(CONTENT)
        self._group = -1
        self._rest: Iterator[Any] = iter(())
        self._batch, self._batch_start, self._batch_end = pa.array([]), 0, 0

    def content(self, row: int) -> Any:
        """Return what the row holds.

        Raises:
            IndexError: When the file has no such row.
        """
        if not 0 <= row < self._starts[-1]:
            raise IndexError(row)
        group = bisect.bisect_right(self._starts, row) - 1
        if group != self._group or row < self._batch_start:
            self._enter(group)
        while row >= self._batch_end:
            self._advance()
        return self._batch[row - self._batch_start].as_py()

    def _enter(self, group: int) -> None:
        self._group = group
        self._rest = self._file.iter_batches(
            batch_size=self._batch_rows(group), row_groups=[group], columns=[CONTENT]
        )
        self._batch, start = pa.array([]), self._starts[group]
        self._batch_start = self._batch_end = start

    def _advance(self) -> None:
        # Let go of one batch before the next is read.
        self._batch = pa.array([])
        batch = next(self._rest, None)
        if batch is None:
            raise ValueError("the row group ends before its count")
        self._batch = batch.column(0)
        self._batch_start, self._batch_end = self._batch_end, self._batch_end + batch.num_rows

    def _batch_rows(self, group: int) -> int:
        metadata = self._file.metadata.row_group(group)
        bytes_per_row: int = metadata.total_byte_size // max(1, metadata.num_rows)
        return max(1, min(_ROWS_PER_BATCH, _BYTES_PER_BATCH // max(1, bytes_per_row)))


def _opened(file_url: str, store: str) -> Any:
    """Open a file by its URL, with the store's endpoint and credentials if it is of its kind."""
    scheme, separator, rest = file_url.partition("://")
    if not separator:
        return fs.LocalFileSystem().open_input_file(file_url)
    if scheme == "file":
        return fs.LocalFileSystem().open_input_file(unquote(rest))
    known = urlsplit(store)
    host, slash, name = rest.partition("/")
    path, query = slash + name, ""
    if scheme in ("s3", "s3a", "s3n"):
        scheme = "s3"
        path = f"{host.rpartition('@')[2]}{path}"
        if known.scheme in ("s3", "s3a"):
            user, at, _ = known.netloc.rpartition("@")
            host, query = f"{user}{at}{host}", known.query
    base = f"{scheme}://{host}/{'?' if query else ''}{query}"
    return fs.FileSystem.from_uri(base)[0].open_input_file(path)


def _checked(content: Any, max_bytes: int) -> bytes | Rejection:
    if content is None:
        return Rejection(Reason.EMPTY, "the row's content is null")
    if not isinstance(content, bytes):
        return Rejection(Reason.UNREADABLE, f"the row's content is {type(content).__name__}")
    return too_large(len(content)) if len(content) > max_bytes else content

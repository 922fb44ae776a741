"""Stored images on their way into the warehouse: one Parquet file a task, written by its worker."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

STAGED_SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("source_uri", pa.string()),
        ("image_id", pa.string()),
        ("content", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_format", pa.string()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_bytes", pa.int64()),
        ("is_animated", pa.bool_()),
        ("perceptual_hash", pa.int64()),
        ("brightness", pa.float64()),
        ("contrast", pa.float64()),
        ("sharpness", pa.float64()),
        ("entropy", pa.float64()),
        ("background_share", pa.float64()),
    ]
)
_ROW_GROUP_BYTES = 8_000_000


class StagedImages(AbstractContextManager["StagedImages"]):
    """A Parquet file of stored images; it is made with the first image, so a task may have none."""

    def __init__(self, uri: str) -> None:
        """Name the file; nothing is written yet."""
        self.uri = uri
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows with the columns of ``STAGED_SCHEMA``; they are written by the megabyte."""
        self._rows.extend(rows)
        self._bytes += sum(len(row["content"]) for row in rows)
        if self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the file; after an error it is left as it is, for no row names it."""
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._writer = self._open()
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=STAGED_SCHEMA))
        self._rows, self._bytes = [], 0

    def _open(self) -> pq.ParquetWriter:
        location = self.uri.replace("s3a://", "s3://", 1)
        files, path = (
            fs.FileSystem.from_uri(location)
            if "://" in location
            else (fs.LocalFileSystem(), location)
        )
        files.create_dir(path.rpartition("/")[0], recursive=True)
        # A JPEG is compressed already, and no two are the same.
        return pq.ParquetWriter(
            path, STAGED_SCHEMA, filesystem=files, compression="none", use_dictionary=False
        )

"""P0, the limit: ingest without any engine, the same work in two plain processes.

    python -m benchmarks.ingest.bare_loop manifest.csv images/ OUT

Each process reads, hashes, decodes and measures every other file with the project's own functions
and writes its rows to one Parquet file; the parent commits both files as one version of a Delta
table. No row passes from process to process: handing all to ``write_deltalake`` in the parent is
slower, and this is to be as fast as the work can be done. What it leaves out: a bad file or a crash
ends it, nothing is remembered for the next night, and no other table is written.
"""

import csv
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, create_table_with_add_actions

from catalog_batch.imaging import DecodePolicy, StoredImage, decode_image
from catalog_batch.ingest.quality import measure
from catalog_batch.ingest.staged_images import STAGED_SCHEMA

PROCESSES = 2
ROW_GROUP = 500
_FACTS = [field for field in STAGED_SCHEMA if field.name not in ("product_id", "source_uri")]
_MEASURES_AT = [field.name for field in _FACTS].index("perceptual_hash")
_STAMPS = [pa.field("ingested_at", pa.timestamp("us", "UTC")), pa.field("run_id", pa.string())]
# The columns of schemas/tables/images.sql, in its order.
SCHEMA = pa.schema([*_FACTS[:_MEASURES_AT], *_STAMPS, *_FACTS[_MEASURES_AT:]])


class Part(NamedTuple):
    """The files of one process and the Parquet file that it writes."""

    files: list[Path]
    output: Path


def stored_row(path: Path, policy: DecodePolicy) -> dict[str, Any]:
    """Return the row of one image."""
    content = path.read_bytes()
    image = decode_image(content, policy)
    if not isinstance(image, StoredImage):
        raise ValueError(f"{path} is rejected: {image}. The benchmark's photos are all good.")
    return {
        "image_id": hashlib.sha256(content).hexdigest(),
        "content": image.content,
        "width": image.width,
        "height": image.height,
        "source_format": image.source_format,
        "source_width": image.source_width,
        "source_height": image.source_height,
        "source_bytes": len(content),
        "is_animated": image.is_animated,
        "ingested_at": datetime.now(UTC),
        "run_id": "bare-loop",
        **asdict(measure(image.picture)),
    }


def write_part(part: Part) -> float:
    """Do the work of one process; return when it began, by the system's monotonic clock."""
    began = time.monotonic()
    policy = DecodePolicy()
    # A JPEG is compressed already.
    settings = {"compression": "none", "use_dictionary": False}
    with pq.ParquetWriter(part.output, SCHEMA, **settings) as writer:
        for rows in _chunks(part.files):
            table = pa.Table.from_pylist([stored_row(path, policy) for path in rows], SCHEMA)
            writer.write_table(table)
    return began


def ingest(files: list[Path], table: Path) -> float:
    """Write the Delta table; return when the first process began with its images."""
    table.mkdir(parents=True)
    parts = [
        Part(files[number::PROCESSES], table / f"part-{number}.parquet")
        for number in range(PROCESSES)
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as processes:
        began = list(processes.map(write_part, parts))
    schema = Schema.from_arrow(SCHEMA)
    create_table_with_add_actions(str(table), schema, [_added(part) for part in parts])
    return min(began)


def _added(part: Part) -> AddAction:
    size, modified_at = part.output.stat().st_size, int(part.output.stat().st_mtime * 1000)
    stats = json.dumps({"numRecords": len(part.files)})
    return AddAction(part.output.name, size, {}, modified_at, True, stats)


def _chunks(files: list[Path]) -> Iterator[list[Path]]:
    iterator = iter(files)
    while chunk := list(islice(iterator, ROW_GROUP)):
        yield chunk


def main(manifest: str, images: str, output: str) -> None:
    # One thread a process, for numpy too.
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.monotonic()
    with Path(manifest).open(encoding="utf-8", newline="") as file:
        files = [Path(images) / row["image_uri"] for row in csv.DictReader(file)]
    began = ingest(files, Path(output))
    status = {
        "images": DeltaTable(output).to_pyarrow_dataset().count_rows(),
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(began - started, 3),
    }
    print(json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""P0, the limit: scoring without any engine, the same work in two plain processes.

    python -m benchmarks.scoring.bare_loop IMAGES BUNDLE OUT shipped|published

Each process reads the table's files, scores every other batch and writes its rows to one Parquet
file; the parent commits both as one version of a Delta table. What it leaves out: a
crash ends it, nothing is known of what was scored before, and no product is decided.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.scoring.rows import LINEAGE, SCHEMA
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, create_table_with_add_actions

PROCESSES = 2
CHUNK = 64
"""Images read at a time, as many as an Arrow batch of ours has at the least."""


class Part(NamedTuple):
    """What one process scores, with what, and the file that it writes."""

    number: int
    files: list[str]
    bundle: Path
    arithmetic: str
    output: Path


def score_part(part: Part) -> tuple[float, int]:
    """Do the work of one process; return when it had its first answer, and its rows."""
    import torch
    from benchmarks.scoring.arithmetic import ARITHMETIC

    from catalog_batch.modeling.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    score = ARITHMETIC[part.arithmetic](part.bundle)
    began, rows = 0.0, 0
    with pq.ParquetWriter(part.output, SCHEMA) as writer:
        for chunk in _chunks(part):
            answers = score(chunk["content"].to_pylist())
            began = began or time.monotonic()
            ids = chunk["image_id"].to_pylist()
            named = [
                {"image_id": image_id, **answer, **LINEAGE}
                for image_id, answer in zip(ids, answers, strict=True)
            ]
            writer.write_table(pa.Table.from_pylist(named, SCHEMA))
            rows += len(named)
    return began, rows


def _chunks(part: Part) -> Iterator[Any]:
    places = count()
    for path in part.files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK, columns=["image_id", "content"]):
                if next(places) % PROCESSES == part.number:
                    yield pa.Table.from_batches([batch])


def score_table(images: str, bundle: Path, output: Path, arithmetic: str) -> tuple[float, int]:
    """Write the Delta table; return when the first answer was there, and the rows."""
    output.mkdir(parents=True)
    files = [unquote(uri.removeprefix("file://")) for uri in DeltaTable(images).file_uris()]
    parts = [
        Part(number, files, bundle, arithmetic, output / f"part-{number}.parquet")
        for number in range(PROCESSES)
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn) as processes:
        done = list(processes.map(score_part, parts))
    schema = Schema.from_arrow(pq.read_schema(parts[0].output))
    actions = [_added(part, rows) for part, (_, rows) in zip(parts, done, strict=True)]
    create_table_with_add_actions(str(output), schema, actions)
    return min(began for began, _ in done), sum(rows for _, rows in done)


def _added(part: Part, rows: int) -> AddAction:
    size, modified_at = part.output.stat().st_size, int(part.output.stat().st_mtime * 1000)
    stats = json.dumps({"numRecords": rows})
    return AddAction(part.output.name, size, {}, modified_at, True, stats)


def main(images: str, bundle: str, output: str, arithmetic: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.monotonic()
    began, rows = score_table(images, Path(bundle), Path(output), arithmetic)
    status = {
        "images": rows,
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(began - started, 3),
    }
    print(json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""P3: scoring by Daft, as its guide to models in a class has it.

    python -m benchmarks.scoring.daft_frames IMAGES BUNDLE OUT shipped|published

A frame of the table's Parquet files, a class that loads the model once in each of two processes,
and Parquet files that are committed as a Delta table. Daft is no dependency of the project: a
folder with it goes on the import path, with ``pip install --no-deps --target build/daft daft`` and
``PYTHONPATH=build/daft make bench-scoring``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import daft
import pyarrow as pa
from benchmarks.scoring.rows import ANSWER, LINEAGE
from deltalake import DeltaTable, convert_to_deltalake

PROCESSES = 2
BATCH = 64
ANSWER_TYPE = daft.DataType.from_arrow_type(ANSWER)


@daft.cls(max_concurrency=PROCESSES, use_process=True)
class Scorer:
    """A process's model."""

    def __init__(self, bundle: str, arithmetic: str) -> None:
        import torch
        from benchmarks.scoring.arithmetic import ARITHMETIC

        from catalog_batch.modeling.allocator import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(1)
        self._score = ARITHMETIC[arithmetic](Path(bundle))

    @daft.method.batch(return_dtype=ANSWER_TYPE, batch_size=BATCH)
    def score(self, contents: daft.Series) -> Any:
        return pa.array(self._score(contents.to_pylist()), ANSWER)


def score_table(images: str, bundle: str, output: str, arithmetic: str) -> None:
    """Write the Delta table."""
    files = [unquote(uri.removeprefix("file://")) for uri in DeltaTable(images).file_uris()]
    scorer = Scorer(bundle, arithmetic)
    (
        daft.read_parquet(files)
        .select("image_id", "content")
        .into_batches(BATCH)
        .select("image_id", scorer.score(daft.col("content")).alias("answer"))
        .select(
            "image_id",
            *(daft.col("answer")[field.name].alias(field.name) for field in ANSWER),
            *(daft.lit(value).alias(name) for name, value in LINEAGE.items()),
        )
        .write_parquet(output)
    )
    convert_to_deltalake(output)


def main(images: str, bundle: str, output: str, arithmetic: str) -> None:
    started = time.monotonic()
    score_table(images, bundle, output, arithmetic)
    status = {
        "images": DeltaTable(output).to_pyarrow_dataset().count_rows(),
        "seconds": round(time.monotonic() - started, 3),
    }
    print(json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

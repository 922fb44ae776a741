"""P2: scoring by Ray Data, as its guide to batch inference has it.

    python -m benchmarks.scoring.ray_data IMAGES BUNDLE OUT shipped|published

A dataset of the table's Parquet files, a class that loads the model once for each of two actors of
one core, ``map_batches``, and Parquet files that are committed as a Delta table.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from benchmarks.scoring.rows import LINEAGE, SCHEMA
from deltalake import DeltaTable, convert_to_deltalake

ACTORS = 2
BATCH = 64


class Scorer:
    """An actor's model."""

    def __init__(self, bundle: str, arithmetic: str) -> None:
        import torch
        from benchmarks.scoring.arithmetic import ARITHMETIC

        from catalog_batch.modeling.allocator import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(1)
        self._score = ARITHMETIC[arithmetic](Path(bundle))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        answers = self._score(list(batch["content"]))
        rows = [
            {"image_id": image_id, **answer, **LINEAGE}
            for image_id, answer in zip(batch["image_id"], answers, strict=True)
        ]
        return pa.Table.from_pylist(rows, SCHEMA)


def score_table(images: str, bundle: str, output: str, arithmetic: str) -> float:
    """Write the Delta table; return when Ray was there."""
    import ray

    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    # More than the machine has: tasks that read and write need a CPU beside the actors.
    ray.init("local", num_cpus=2 * ACTORS, include_dashboard=False, logging_level="warning")
    opened = time.monotonic()
    files = [unquote(uri.removeprefix("file://")) for uri in DeltaTable(images).file_uris()]
    scorer: Any = Scorer
    (
        ray.data.read_parquet(files, columns=["image_id", "content"])
        .map_batches(
            scorer,
            fn_constructor_args=(bundle, arithmetic),
            batch_size=BATCH,
            concurrency=ACTORS,
            num_cpus=1,
        )
        .write_parquet(output)
    )
    convert_to_deltalake(output)
    ray.shutdown()
    return opened


def main(images: str, bundle: str, output: str, arithmetic: str) -> None:
    started = time.monotonic()
    opened = score_table(images, bundle, output, arithmetic)
    status = {
        "images": DeltaTable(output).to_pyarrow_dataset().count_rows(),
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(opened - started, 3),
    }
    print(json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

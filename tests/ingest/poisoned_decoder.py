"""A decoder whose images do to its process what a hostile file would."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from catalog_batch.ingest.decoder import Task


def start_poisoned_decoder() -> Callable[[Sequence[Task]], Iterator[dict[str, Any]]]:
    return process


def process(tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        assert task.file is not None
        kind = Path(task.file.path).name
        if kind == "segfault":
            ctypes.string_at(0)
        while kind == "spin":
            sum(range(1_000_000))
        if kind == "memory":
            bytearray(1 << 30)
        yield {"outcome": "unchanged", "image_id": "id", "reason": None}

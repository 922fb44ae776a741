"""The ways to read training batches that are compared, and a command that times one of them.

    python -m benchmarks.training.reading LANE DATA_FOLDER --count N [--workers N] [--cores N]

Each gives batches of 32 decoded pictures, uint8 [32, 224, 224, 3], with their labels, decoded by
the same function. In a first epoch, which is not timed, the pixels are summed up: lanes that did
the same work print the same sum. After that the command reads an epoch for each line of its input,
and prints a line of JSON about it, so that ways may take turns. The steady state is the middle of
an epoch. It begins after ``WARM_UP`` batches, and ends before the rows that our reader holds to be
drawn from at random, for those are read by then.
"""

import argparse
import json
import os
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from benchmarks.training.data import TrainingData
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catalog_batch.config import TrainSettings
from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train.snapshot import resolve_snapshot

BATCH = 32
SIDE = 224
WARM_UP = 10
SETTINGS = TrainSettings(batch_size=BATCH)
PREPROCESSING = Preprocessing.for_side(SIDE)

Pictures = tuple[Tensor, Tensor]
"""(uint8 [N, 224, 224, 3], int64 [N])."""

Epoch = Callable[[int], Iterable[Pictures]]
"""Gives the batches of an epoch by its number."""


def our_reader(data: TrainingData, workers: int) -> Epoch:
    """Read as a worker of ``train`` does, with ``workers`` threads to decode; 1 is the least."""
    from catalog_batch.train.readers import ShardReader

    settings = SETTINGS.model_copy(update={"decode_threads": workers})
    reader = ShardReader(resolve_snapshot(str(data.table)), PREPROCESSING, settings)

    def epoch(number: int) -> Iterator[Pictures]:
        for batch in reader.training(number):
            rows = int(batch.weights.sum())  # What pads the last batch is no work done.
            yield batch.images[:rows], batch.labels[:rows]

    return epoch


def bare_loop(data: TrainingData, workers: int) -> Epoch:
    """Read row group by row group; each thread decodes whole batches, without any shuffling."""
    snapshot = resolve_snapshot(str(data.table))
    paths = snapshot.splits["train"].paths
    labels = {category: label for label, (category, _) in enumerate(snapshot.classes)}

    def epoch(_: int) -> Iterator[Pictures]:
        waiting: deque[Future[Pictures]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for rows in _chunks(_rows(paths, labels)):
                waiting.append(pool.submit(_decoded, rows))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    return epoch


def data_loader(data: TrainingData, workers: int) -> Epoch:
    """Read files by torch's DataLoader in ``workers`` processes; 0 reads in this one."""
    loader = DataLoader(
        _Files(data.files),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda _: loader


LANES: dict[str, Callable[[TrainingData, int], Epoch]] = {
    "catalog-batch": our_reader,
    "bare loop": bare_loop,
    "DataLoader": data_loader,
}


class _Files(Dataset[tuple[Tensor, int]]):
    """Pictures in a folder for each class; the labels are the folders' places by name."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*/*.jpg"))
        names = sorted({path.parent.name for path in self._paths})
        self._labels = {name: label for label, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self._paths[index]
        picture = PREPROCESSING.decode(path.read_bytes())
        return torch.tensor(picture), self._labels[path.parent.name]


def _rows(paths: Sequence[Path], labels: dict[str, int]) -> Iterator[tuple[bytes, int]]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["content", "category_id"])
                contents, categories = (rows.column(name).to_pylist() for name in rows.column_names)
                yield from zip(contents, map(labels.__getitem__, categories), strict=True)


def _chunks(rows: Iterator[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    while chunk := list(islice(rows, BATCH)):
        yield chunk


def _decoded(rows: list[tuple[bytes, int]]) -> Pictures:
    pictures = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    for picture, (content, _) in zip(pictures, rows, strict=True):
        picture[:] = PREPROCESSING.decode(content)
    return torch.from_numpy(pictures), torch.tensor([label for _, label in rows])


@dataclass(frozen=True)
class Pace:
    """How an epoch went."""

    images: int
    seconds: float
    first_batch_seconds: float
    steady_images_per_second: float | None
    """Of the batches in its middle; None where there are too few."""


def time_epoch(batches: Iterable[Pictures], count: int) -> Pace:
    """Take the batches of an epoch of ``count`` images, and do nothing with them."""
    last = (count - SETTINGS.shuffle_rows) // BATCH
    times, images, start = list[float](), 0, time.perf_counter()
    for pictures, _ in batches:
        times.append(time.perf_counter() - start)
        images += len(pictures)
    seconds = time.perf_counter() - start
    steady = None
    if last > WARM_UP:
        steady = (last - WARM_UP) * BATCH / (times[last - 1] - times[WARM_UP - 1])
    return Pace(images, seconds, times[0], steady)


def checksum(batches: Iterable[Pictures]) -> tuple[int, int]:
    """Return the number of pictures and a sum over their pixels that no order changes."""
    images, total = 0, 0
    for pictures, _ in batches:
        images += len(pictures)
        total += sum(zlib.crc32(picture.numpy().tobytes()) for picture in pictures)
    return images, total


def memory_mib(key: str) -> float:
    """Return what the kernel counts of this process: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def serve(
    lane: str, data: TrainingData, workers: int, batches: int, requests: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield what a first epoch read, then how an epoch went for each request.

    Args:
        lane: One of ``LANES``.
        data: What to read.
        workers: Threads or processes.
        batches: To read of each epoch; 0 reads all.
        requests: One for each timed epoch; what they say does not matter.
    """
    epoch = LANES[lane](data, workers)
    # All that our reader holds is there when the first batch is, and stays as much.
    count = batches * BATCH + SETTINGS.shuffle_rows if batches else data.count
    images, total = checksum(islice(epoch(0), batches or None))
    yield {"images": images, "checksum": total}
    for number, _ in enumerate(requests, 1):
        pace = time_epoch(islice(epoch(number), batches or None), count)
        yield {**vars(pace), "now_mib": memory_mib("VmRSS"), "peak_mib": memory_mib("VmHWM")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one way to read training batches.")
    parser.add_argument("lane", choices=LANES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--workers", type=int, default=SETTINGS.decode_threads)
    parser.add_argument("--cores", type=int, default=0, help="of this machine's; 0 takes all")
    parser.add_argument("--batches", type=int, default=0, help="of each epoch; 0 takes all")
    given = parser.parse_args()
    if given.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    keep_freed_memory()
    data = TrainingData(given.folder, given.count)
    for answer in serve(given.lane, data, given.workers, given.batches, sys.stdin):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

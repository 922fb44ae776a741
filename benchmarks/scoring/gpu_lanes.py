"""The ways to score on a GPU that are compared, and what all of them do alike.

torch, torchvision, numpy, Pillow and safetensors are enough.
"""

import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.bundle import Bundle, load_bundle
from catalog_batch.modeling.predictor import Prediction, Predictor

TOP_K = 5
MEMORY_BATCHES = 8
"""Different batches in the device's memory, which are taken again and again."""


@dataclass(frozen=True)
class Size:
    """Batches of a lane, those before them that warm up, rounds, different photos; the network."""

    warm_up: int
    batches: int
    rounds: int
    photos: int
    architecture: str = "resnet50"
    side: int = 224


@dataclass(frozen=True)
class Task:
    """What is measured: on what, with how many images a batch, how many threads that decode.

    Those threads are one task's, or shared by several.
    """

    device: str
    batch_size: int
    threads: int
    tasks: int
    size: Size
    patience: float = 300
    """Seconds after which a process that does not answer has died."""

    @property
    def images(self) -> int:
        """How many images a round takes."""
        return self.size.batches * self.batch_size

    def wait_for_device(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def batches_on_device(task: Task, bundle: Bundle, photos: Sequence[bytes]) -> list[Tensor]:
    """Return the first batches as the network takes them: float32 [N, 3, S, S], channels last."""
    preprocessing, contents = bundle.spec.preprocessing, cycle(photos)
    batches = []
    for _ in range(MEMORY_BATCHES):
        decoded = [preprocessing.decode(photo) for photo in islice(contents, task.batch_size)]
        pixels = torch.from_numpy(np.stack(decoded)).to(task.device)
        batches.append(preprocessing.normalise(pixels))
    return batches


def time_bare(task: Task, bundle: Bundle, batches: Iterable[Tensor]) -> float:
    """Return the seconds of a round of the network alone."""
    network, again = bundle.module, cycle(batches)
    with torch.inference_mode():
        for batch in islice(again, task.size.warm_up):
            network(batch)
        task.wait_for_device()
        start = time.perf_counter()
        for batch in islice(again, task.size.batches):
            network(batch)
        task.wait_for_device()
    return time.perf_counter() - start


def predictor_of(task: Task, bundle: Bundle) -> Predictor:
    return Predictor(bundle, TOP_K, task.batch_size, task.device, task.threads)


def time_ours(task: Task, predictor: Predictor, photos: Sequence[bytes]) -> float:
    """Return the seconds of a round of the predictor.

    Its stream goes on before and after: as much is decoded ahead at the end as at the start.
    """
    answers = predictor.stream(cycle(photos))
    _take(answers, task.size.warm_up * task.batch_size)
    start = time.perf_counter()
    _take(answers, task.images)
    return time.perf_counter() - start


class Sharing(NamedTuple):
    """What joins the tasks that share the GPU."""

    barrier: Barrier
    """Where all meet before a round's warm-up, at its start and at its end."""

    answered: "Synchronized[int]"
    """Images of the timed parts of all rounds."""


@contextmanager
def tasks_that_share(task: Task, folder: Path, photos: Sequence[bytes]) -> Iterator[Sharing]:
    """Start the processes of the lane with several tasks; they are ready when this yields.

    Raises:
        BrokenBarrierError: When one of them does not come.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(task.tasks + 1)
    sharing = Sharing(barrier, spawn.Value("L"))
    alone = replace(task, threads=max(1, task.threads // task.tasks))
    given = (alone, folder, photos, sharing)
    processes = [spawn.Process(target=_be_one_task, args=given) for _ in range(task.tasks)]
    for process in processes:
        process.start()
    try:
        barrier.wait(task.patience)
        yield sharing
    finally:
        barrier.abort()
        for process in processes:
            process.join()


def _be_one_task(task: Task, folder: Path, photos: Sequence[bytes], sharing: Sharing) -> None:
    be_a_worker(task)
    answers, images = (
        predictor_of(task, load_bundle(folder)).stream(cycle(photos)),
        task.images // task.tasks,
    )
    try:
        sharing.barrier.wait()
        while True:
            sharing.barrier.wait()
            # What was decoded ahead while the others were timed is no part of the round.
            _take(answers, task.size.warm_up * task.batch_size)
            sharing.barrier.wait()
            _take(answers, images)
            with sharing.answered.get_lock():
                sharing.answered.value += images
            sharing.barrier.wait()
    except BrokenBarrierError:
        return  # all rounds are done


def be_a_worker(task: Task) -> None:
    """Set the process up as one that scores."""
    keep_freed_memory()
    torch.set_num_threads(task.threads)


def time_shared(task: Task, sharing: Sharing) -> float:
    """Return the seconds of a round of all tasks together.

    Raises:
        SystemExit: When they have not answered for all images: a lane may not win by losing some.
    """
    before = sharing.answered.value
    sharing.barrier.wait(task.patience)
    sharing.barrier.wait(task.patience)
    start = time.perf_counter()
    sharing.barrier.wait(task.patience)
    seconds = time.perf_counter() - start
    if sharing.answered.value - before != task.images:
        sys.exit(f"Of {task.images} images {sharing.answered.value - before} were answered.")
    return seconds


def _take(answers: Iterable[object], count: int) -> None:
    """Take answers; each is there only when the device has given it.

    Raises:
        SystemExit: For a picture without a prediction.
    """
    for answer in islice(answers, count):
        if not isinstance(answer, Prediction):
            sys.exit(f"A stored photo has no prediction, no figure: {answer}")

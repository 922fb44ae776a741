"""How long does a GPU wait while our predictor decodes JPEGs for it?

    python -m benchmarks.scoring.gpu [--quick] [--force] [--data DIR] [--batch-size N]
        [--threads N] [--tasks N] [--device cpu]

A bundle of a ResNet-50 with random weights is written and loaded, and runs in three lanes, in turn,
with the same batch size, precision and memory layout:

- bare: the network alone, on normalised batches that lie in the memory of the GPU;
- one task: `Predictor.stream` from stored JPEGs, 256 px a side, to predictions, set up as a task
  with a GPU sets it up: threads decode the next batches while one is on the GPU;
- several tasks: as many processes as Spark starts with `spark.task.resource.gpu.amount` of a part
  of the GPU, each with its part of the threads. Python runs one thread of a process at a time
  between two decoded pictures, so that one process alone cannot feed a fast GPU.

Batches that warm up are dropped, and the median of the rounds counts. The share of the time that
the GPU waits is not measured but derived: 1 - images x bare seconds an image / our seconds, the
time in which the bare model would not have been busy. That is 1 less the ratio of the two lanes,
and what else the GPU does for us, copying and normalising, counts as waiting.

The energies of the first images must be the same in both lanes, or there is no figure. Without a
GPU nothing is measured; `--device cpu` is there to try this script, on a tiny network.

torch, torchvision, numpy, Pillow and safetensors are enough: on a machine with a GPU and no more
``PYTHONPATH=src python -m benchmarks.scoring.gpu`` runs.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
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
from benchmarks.ingest.photos import PhotoKind, make_photos
from benchmarks.measure import argument_parser, require_idle, table, write_result
from benchmarks.scoring.random_bundle import write_random_bundle
from torch import Tensor

from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.bundle import Bundle, load_bundle
from catalog_batch.modeling.confidence import energies
from catalog_batch.modeling.predictor import Prediction, Predictor

STORED = PhotoKind("stored", 256, noise=5.0)
CLASSES = 81
TOP_K = 5
BATCH = 32
MEMORY_BATCHES = 8
"""Different batches in the device's memory, which are taken again and again."""

SAME_ENERGY = 1e-3
"""Relative difference up to which both lanes did the same."""

BARE, OURS, SHARED = "bare", "ours", "shared"
TITLES = {
    BARE: "bare model, fed from the GPU's memory",
    OURS: "catalog-batch, from JPEG bytes, one task",
    SHARED: "catalog-batch, from JPEG bytes, {tasks} tasks",
}


@dataclass(frozen=True)
class Size:
    """Batches of a lane, those before them that warm up, rounds, different photos; the network."""

    warm_up: int
    batches: int
    rounds: int
    photos: int
    architecture: str = "resnet50"
    side: int = 224


SIZES = {"cuda": Size(20, 400, 5, 2000), "cpu": Size(1, 10, 3, 100)}
QUICK = {"cuda": Size(10, 100, 1, 500), "cpu": Size(1, 4, 1, 100, "squeezenet1_1", 64)}

Seconds = dict[str, list[float]]
"""Of each lane, by round."""


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


def stored_photos(count: int, data: Path) -> list[bytes]:
    """Return different JPEGs of the size that ingest stores, drawn when the cache lacks them."""
    return [path.read_bytes() for path in make_photos(STORED, count, data).files()]


def random_bundle(size: Size, folder: Path) -> Path:
    return write_random_bundle(folder, size.architecture, CLASSES, size.side)


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
    _as_a_worker(task)
    predictor = Predictor(load_bundle(folder), TOP_K, task.batch_size, task.device, task.threads)
    answers, images = predictor.stream(cycle(photos)), task.images // task.tasks
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


def _as_a_worker(task: Task) -> None:
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


def require_same_answers(
    task: Task, bundle: Bundle, predictor: Predictor, photos: Sequence[bytes], batch: Tensor
) -> None:
    """Stop when the predictor does not compute what the bare model does for its first batch.

    Raises:
        SystemExit: With the largest difference.
    """
    with torch.inference_mode():
        logits = bundle.module(batch).float().cpu().numpy()
    expected = energies(logits, bundle.spec.temperature)
    answers = predictor.predict(list(islice(cycle(photos), task.batch_size)))
    found = [answer.energy if isinstance(answer, Prediction) else np.nan for answer in answers]
    difference = float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())
    if not difference <= SAME_ENERGY:
        sys.exit(f"The lanes do not do the same, no figure: energies differ by {difference:.2%}.")


def measure_lanes(task: Task, photos: Sequence[bytes]) -> Seconds:
    """Run the lanes round by round."""
    found: Seconds = {BARE: [], OURS: [], SHARED: []}
    with tempfile.TemporaryDirectory(prefix="bench-scoring-") as place:
        folder = random_bundle(task.size, Path(place) / "bundle")
        bundle = load_bundle(folder)
        predictor = Predictor(bundle, TOP_K, task.batch_size, task.device, task.threads)
        batches = batches_on_device(task, bundle, photos)
        require_same_answers(task, bundle, predictor, photos, batches[0])
        with tasks_that_share(task, folder, photos) as sharing:
            for number in range(1, task.size.rounds + 1):
                found[BARE].append(time_bare(task, bundle, batches))
                found[OURS].append(time_ours(task, predictor, photos))
                found[SHARED].append(time_shared(task, sharing))
                paces = (f"{lane} {task.images / found[lane][-1]:,.1f}" for lane in found)
                print(f"round {number}, images/s: {', '.join(paces)}", flush=True)
    return found


def images_per_second(task: Task, found: Seconds, lane: str) -> float:
    return task.images / statistics.median(found[lane])


def ratio(found: Seconds, lane: str) -> float:
    """Return a lane's images per second over those of the bare model."""
    return statistics.median(found[BARE]) / statistics.median(found[lane])


def wait_share(found: Seconds, lane: str) -> float:
    """Return the share of a lane's time in which the bare model would not have been busy.

    All lanes take as many images. Never below 0: one process may start the kernels of a small
    batch too slowly for the GPU, and then the bare model is no limit.
    """
    return max(0.0, 1 - ratio(found, lane))


def page_of(task: Task, found: Seconds) -> str:
    """Return the page, as Markdown."""
    intro, size = __doc__.partition("[--device cpu]")[2].strip(), task.size
    header = ("lane", "images/s (range)", "against the bare model", "GPU waits")
    return (
        f"# A GPU that scores JPEGs, beside the bare model\n\n{intro}\n\n"
        f"{device_name(task)}; torch {torch.__version__}; {size.architecture}, fp32, "
        f"{size.side} px; {task.batch_size} images a batch; {task.threads} threads decode; "
        f"{size.rounds} rounds of {size.batches} batches after {size.warm_up}; {size.photos:,} "
        f"different photos.\n\n{table(header, [_line(task, found, lane) for lane in found])}\n"
    )


def _line(task: Task, found: Seconds, lane: str) -> list[str]:
    paces = [task.images / seconds for seconds in found[lane]]
    return [
        TITLES[lane].format(tasks=task.tasks),
        f"{images_per_second(task, found, lane):,.1f} ({min(paces):,.1f}-{max(paces):,.1f})",
        f"{ratio(found, lane):.2f}",
        "" if ratio(found, lane) >= 1 else f"{wait_share(found, lane):.1%}",
    ]


def device_name(task: Task) -> str:
    return torch.cuda.get_device_name() if task.device == "cuda" else "CPU, to try the script"


def question(task: Task) -> str:
    """Name the result's files after what differs from the defaults."""
    parts = ["scoring-gpu"]
    parts += ["on-cpu"] if task.device == "cpu" else []
    parts += [] if task.batch_size == BATCH else [f"batch{task.batch_size}"]
    parts += [] if task.threads == _cores() else [f"threads{task.threads}"]
    parts += [] if task.tasks == _usual_tasks() else [f"tasks{task.tasks}"]
    return "-".join(parts)


def command_of(task: Task) -> str:
    """Return the command that makes this result."""
    options = f"--batch-size {task.batch_size} --threads {task.threads} --tasks {task.tasks}"
    options += " --device cpu" if task.device == "cpu" else ""
    return f"python -m benchmarks.scoring.gpu {options}"


def result_of(task: Task, found: Seconds) -> dict[str, object]:
    """Return what is stored as JSON, but for how the machine was."""
    return {
        "device": task.device,
        "device_name": device_name(task),
        "torch": torch.__version__,
        "architecture": task.size.architecture,
        "side": task.size.side,
        "precision": "fp32",
        "batch_size": task.batch_size,
        "threads": task.threads,
        "tasks": task.tasks,
        "images": task.images,
        "seconds": found,
        "images_per_second": {lane: images_per_second(task, found, lane) for lane in found},
        "ratio": ratio(found, OURS),
        "wait_share": wait_share(found, OURS),
        "ratio_shared": ratio(found, SHARED),
        "wait_share_shared": wait_share(found, SHARED),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _usual_tasks() -> int:
    return max(1, _cores() // 2)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser("Compare the predictor on a GPU with the bare model.")
    parser.add_argument("--device", choices=SIZES, default="cuda", help="cpu: to try the script")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--threads", type=int, default=_cores(), help="that decode, of all tasks")
    parser.add_argument("--tasks", type=int, default=_usual_tasks(), help="that share the GPU")
    return parser.parse_args()


def main() -> None:
    given = parse_arguments()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("Skipped: PyTorch sees no GPU here. --device cpu tries the script on a CPU.")
        return
    size = (QUICK if given.quick else SIZES)[given.device]
    if size.batches * given.batch_size % given.tasks:
        sys.exit(f"{size.batches * given.batch_size} images are no even shares of {given.tasks}.")
    task = Task(given.device, given.batch_size, given.threads, given.tasks, size)
    photos = stored_photos(size.photos, given.data.resolve())
    idle = require_idle(given.force)
    _as_a_worker(task)
    found = measure_lanes(task, photos)
    told = {"quick": given.quick, "forced": given.force, "idle_before": idle}
    result = {**told, **result_of(task, found)}
    # No goal: nothing was asked of the ratio, which depends on how many cores a GPU has beside it.
    write_result(question(task), result, page_of(task, found), [], command_of(task))


if __name__ == "__main__":
    main()

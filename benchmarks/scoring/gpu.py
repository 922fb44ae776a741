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
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from benchmarks.ingest.photos import PhotoKind, make_photos
from benchmarks.measure import argument_parser, require_idle, table, write_result
from benchmarks.scoring.gpu_lanes import (
    Size,
    Task,
    batches_on_device,
    be_a_worker,
    predictor_of,
    tasks_that_share,
    time_bare,
    time_ours,
    time_shared,
)
from benchmarks.scoring.random_bundle import write_random_bundle
from torch import Tensor

from catalog_batch.modeling.bundle import Bundle, load_bundle
from catalog_batch.modeling.confidence import energies
from catalog_batch.modeling.predictor import Prediction, Predictor

STORED = PhotoKind("stored", 256, noise=5.0)
CLASSES = 81
BATCH = 32
SAME_ENERGY = 1e-3
"""Relative difference of energies up to which two lanes did the same."""

BARE, OURS, SHARED = "bare", "ours", "shared"
TITLES = {
    BARE: "bare model, fed from the GPU's memory",
    OURS: "catalog-batch, from JPEG bytes, one task",
    SHARED: "catalog-batch, from JPEG bytes, {tasks} tasks",
}


SIZES = {"cuda": Size(20, 400, 5, 2000), "cpu": Size(1, 10, 3, 100)}
QUICK = {"cuda": Size(10, 100, 1, 500), "cpu": Size(1, 4, 1, 100, "squeezenet1_1", 64)}

Seconds = dict[str, list[float]]
"""Of each lane, by round."""


def stored_photos(count: int, data: Path) -> list[bytes]:
    """Return different JPEGs of the size that ingest stores, drawn when the cache lacks them."""
    return [path.read_bytes() for path in make_photos(STORED, count, data).files()]


def random_bundle(size: Size, folder: Path) -> Path:
    return write_random_bundle(folder, size.architecture, CLASSES, size.side)


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
        predictor = predictor_of(task, bundle)
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
    be_a_worker(task)
    found = measure_lanes(task, photos)
    told = {"quick": given.quick, "forced": given.force, "idle_before": idle}
    result = {**told, **result_of(task, found)}
    # No goal: nothing was asked of the ratio, which depends on how many cores a GPU has beside it.
    write_result(question(task), result, page_of(task, found), [], command_of(task))


if __name__ == "__main__":
    main()

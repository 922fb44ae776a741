"""Does a training step take longer in our loop than in a bare PyTorch loop?

    python -m benchmarks.training.step [--quick] [--force] [--data DIR] [--device cuda]
        [--precision bf16] [--architecture NAME ...] [--batch-size N]

The same network from the same random weights, the same optimiser, batch size, precision and
threads, each lane in a process of its own, lanes in turn: a bare loop and ours, both fed the same
batches from memory and without augmentation, which is the ratio that counts; ours with the
augmentation that is the default; and ours as ``train`` runs it, with that augmentation and fed by
the real reader, where Petastorm is installed. Steps that warm up are left out. On a CPU all lanes
keep the memory that a step frees, as a worker of ours is told to; one more shows the bare loop as
it is without that. The first two of these then take turns alone, for more rounds, each first in
every other one: they are apart by less than a round varies, so the goals are of those rounds.

Without that last lane torch, torchvision and numpy are enough: on a machine with a GPU and no more
``PYTHONPATH=src python -m benchmarks.training.step --device cuda --precision bf16`` runs.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.commands import run_command
from benchmarks.measure import Goal, argument_parser, require_idle, table, write_result
from benchmarks.training.stepping import AS_IT_COMES, AUGMENTED, BARE, OURS, READ

BOUNDS = {"cpu": 0.95, "cuda": 0.90}
# Relative difference of losses up to which two lanes did the same: sums in another order.
SAME_LOSS = {"fp32": 1e-3, "bf16": 2e-2}
ARCHITECTURES = ("mobilenet_v2", "resnet18")
BATCH = 32
READ_IMAGES = 2000
TITLES = {
    AS_IT_COMES: "bare loop, from memory, the C library as it comes",
    BARE: "bare loop, from memory",
    OURS: "catalog-batch, from memory",
    AUGMENTED: "catalog-batch, from memory, augmented",
    READ: "catalog-batch, from the reader, augmented",
}


@dataclass(frozen=True)
class Size:
    """Steps of a lane, those before them that warm up, and rounds of all lanes and of two alone."""

    warm_up: int
    steps: int
    rounds: int
    rounds_alone: int


SIZES = {"cpu": Size(2, 10, 3, 12), "cuda": Size(20, 200, 3, 12)}
QUICK = {"cpu": Size(1, 3, 1, 1), "cuda": Size(10, 50, 1, 1)}

LaneRuns = dict[str, list[dict[str, Any]]]
"""The runs of each lane, by round."""


@dataclass(frozen=True)
class Task:
    """What is measured: on what, how exactly, with how many rows a step."""

    device: str
    precision: str
    batch_size: int
    size: Size
    data: Path | None
    """Folder of the photos for the lane that reads; None leaves that lane out."""

    @property
    def lanes(self) -> list[str]:
        usual = [AS_IT_COMES] if self.device == "cpu" else []
        return [*usual, BARE, OURS, AUGMENTED] + ([READ] if self.data else [])

    def run(self, lane: str, architecture: str) -> dict[str, Any]:
        """Time a lane in a process of its own."""
        options = {
            "--architecture": architecture,
            "--device": self.device,
            "--precision": self.precision,
            "--batch-size": self.batch_size,
            "--warm-up": self.size.warm_up,
            "--steps": self.size.steps,
        }
        if lane == READ:
            options["--data"] = str(self.data)
        words = [str(word) for option in options.items() for word in option]
        module = "benchmarks.training.stepping"
        return run_command([sys.executable, "-W", "ignore", "-m", module, lane, *words]).status


def measure_lanes(task: Task, architecture: str, lanes: Sequence[str], rounds: int) -> LaneRuns:
    """Run lanes round by round, in every other round from the last to the first."""
    found: LaneRuns = {lane: [] for lane in lanes}
    for number in range(1, rounds + 1):
        for lane in lanes if number % 2 else reversed(lanes):
            found[lane].append(task.run(lane, architecture))
            pace = found[lane][-1]["images_per_second"]
            print(
                f"{architecture}, round {number}, {TITLES[lane]}: {pace:,.1f} images/s", flush=True
            )
    require_same_loss(found, SAME_LOSS[task.precision])
    return found


def require_same_loss(found: LaneRuns, tolerance: float) -> None:
    """Stop when our loop did not compute what the bare one did.

    Raises:
        SystemExit: With both losses.
    """
    bare, ours = (found[lane][0]["warm_up_loss"] for lane in (BARE, OURS))
    if abs(ours - bare) > tolerance * abs(bare):
        sys.exit(f"The lanes do not do the same, no figure: loss {bare} bare, {ours} in our loop.")


def images_per_second(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["images_per_second"] for run in runs)


def ratio(found: LaneRuns, lane: str) -> float:
    """Return a lane's images per second over those of the bare loop."""
    return images_per_second(found[lane]) / images_per_second(found[BARE])


def goals_of(architecture: str, alone: LaneRuns, device: str) -> list[Goal]:
    bound = BOUNDS[device]
    return [Goal(f"training_step_{device}_{architecture}_vs_bare", ratio(alone, OURS), bound)]


def section(architecture: str, found: LaneRuns, alone: LaneRuns) -> str:
    """Return the tables of one network, as Markdown."""
    header = ("lane", "images/s (range)", "against bare loop", "waiting for batches")
    every, two = (table(header, [_line(lane, runs) for lane in runs]) for runs in (found, alone))
    return f"\n## {architecture}\n\n{every}\n### The same two alone\n\n{two}"


def _line(lane: str, found: LaneRuns) -> list[str]:
    paces = [run["images_per_second"] for run in found[lane]]
    wait_share = statistics.median(run["wait_share"] for run in found[lane])
    return [
        TITLES[lane],
        f"{statistics.median(paces):,.1f} ({min(paces):,.1f}-{max(paces):,.1f})",
        f"{ratio(found, lane):.2f}",
        f"{wait_share:.1%}" if lane not in (BARE, AS_IT_COMES) else "",
    ]


def page_of(task: Task, found: dict[str, LaneRuns], alone: dict[str, LaneRuns]) -> str:
    intro = __doc__.partition("[--batch-size N]")[2].strip()
    sections = "".join(section(name, found[name], alone[name]) for name in found)
    run = next(iter(found.values()))[BARE][0]
    device = run["gpu"] or f"CPU, {run['threads']} threads"
    size = task.size
    return (
        f"# A training step against a bare loop\n\n{intro}\n\n{device}; torch {run['torch']}; "
        f"{task.precision}; 224 px, {task.batch_size} rows a step; {size.rounds} rounds of all "
        f"lanes and {size.rounds_alone} of two, each of {size.steps} steps after {size.warm_up}.\n"
        f"{sections}\n"
    )


def question(task: Task, architectures: Sequence[str] = ARCHITECTURES) -> str:
    """Name the result's files after what differs from the defaults."""
    parts = ["training-step", task.device, task.precision]
    parts += [] if task.batch_size == BATCH else [f"batch{task.batch_size}"]
    parts += [] if list(architectures) == list(ARCHITECTURES) else architectures
    return "-".join(part for part in parts if part not in ("cpu", "fp32"))


def command_of(task: Task, architectures: Sequence[str] = ARCHITECTURES) -> str:
    """Return the command that makes this result; ``make`` knows the defaults alone."""
    if question(task, architectures) == "training-step":
        return "make bench-training"
    options = f"--device {task.device} --precision {task.precision} --batch-size {task.batch_size}"
    return f"python -m benchmarks.training.step {options} --architecture {' '.join(architectures)}"


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser("Compare a training step of ours with a bare PyTorch loop's.")
    parser.add_argument("--device", choices=BOUNDS, default="cpu")
    parser.add_argument("--precision", choices=SAME_LOSS, default="fp32")
    parser.add_argument("--architecture", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--batch-size", type=int, default=BATCH)
    return parser.parse_args()


def photos_to_read(data: Path) -> Path | None:
    """Return the folder of photos for the lane that reads; None where nothing can read them."""
    if find_spec("petastorm") is None:
        print("No lane is fed by the real reader: Petastorm is not installed here.")
        return None
    from benchmarks.training.data import make_training_data

    return make_training_data(READ_IMAGES, data.resolve()).folder


def main() -> None:
    given = parse_arguments()
    size = (QUICK if given.quick else SIZES)[given.device]
    photos = photos_to_read(given.data)
    task = Task(given.device, given.precision, given.batch_size, size, photos)
    idle = require_idle(given.force)
    found, alone = dict[str, LaneRuns](), dict[str, LaneRuns]()
    for name in given.architecture:
        found[name] = measure_lanes(task, name, task.lanes, size.rounds)
        alone[name] = measure_lanes(task, name, (BARE, OURS), size.rounds_alone)
    goals = [goal for name in alone for goal in goals_of(name, alone[name], task.device)]
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "device": task.device,
        "precision": task.precision,
        "batch_size": task.batch_size,
        "architectures": found,
        "two_alone": alone,
    }
    names = given.architecture
    page = page_of(task, found, alone)
    write_result(question(task, names), result, page, goals, command_of(task, names))


if __name__ == "__main__":
    main()

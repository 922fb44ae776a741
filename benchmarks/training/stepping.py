"""The ways to take training steps that are compared, and a command that times one of them.

    python -m benchmarks.training.stepping LANE [--architecture NAME] [--device cuda] ...

Needs torch, torchvision and numpy; the lane that is fed by the real reader also needs what reads a
training table. All lanes begin with the same random weights and take Adam's steps on cross entropy.
Those fed from memory see the same batches, so the mean loss of the steps that warm up is the same
for lanes that do the same work.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import get_model

from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.augmentation import build_augmentation
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train.loop import Batch, FitSettings, Hooks, train_epoch
from catalog_batch.train.recipe import Recipe, RecipeSettings

CLASSES = 81
LEARNING_RATE = 1e-4
SEED = 17
MEMORY_BATCHES = 8
"""Different batches in memory, which are taken again and again."""

HEADS = {"mobilenet_v2": "classifier.1.", "resnet18": "fc.", "resnet50": "fc."}
"""What the names of the parameters of the head begin with."""


@dataclass(frozen=True)
class Setup:
    """What all lanes do alike."""

    architecture: str = "mobilenet_v2"
    device: str = "cpu"
    precision: str = "fp32"
    batch_size: int = 32
    side: int = 224
    warm_up: int = 3
    steps: int = 10
    data: Path | None = None
    """Folder of ``benchmarks.training.data``, for the lane that reads."""

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.for_side(self.side)

    def network(self) -> nn.Module:
        """Build it from random weights that are the same each time, as a worker of ours does.

        Its dropout drops nothing: our loop draws that by epoch and batch, a bare one does not, and
        then no two lanes would compute the same.
        """
        torch.manual_seed(SEED)
        network = get_model(self.architecture, weights=None, num_classes=CLASSES)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        network.to(self.device, memory_format=torch.channels_last)
        return network.train()

    def wait_for_device(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Steps:
    """How some steps went."""

    loss: float
    """Mean over their rows."""

    wait_share: float = 0.0
    """Of the time, spent waiting for batches."""


Batches = Generator[Batch, None, None]

Take = Callable[[Iterable[Batch]], Steps]
"""Takes a step for each batch."""


def batches_in_memory(setup: Setup) -> Batches:
    """Yield drawn pictures for ever, whose colour says the class, as a reader hands them out.

    For a GPU they lie in memory that is locked.
    """
    draw = torch.Generator().manual_seed(SEED)
    shape = (setup.batch_size, setup.side, setup.side, 3)
    batches = []
    for _ in range(MEMORY_BATCHES):
        labels = torch.randint(CLASSES, (setup.batch_size,), generator=draw)
        noise = torch.randint(175, shape, generator=draw)
        images = (noise + labels.view(-1, 1, 1, 1)).to(torch.uint8)
        batches.append(Batch(images, labels, torch.ones(setup.batch_size)))
    if setup.device.startswith("cuda"):
        batches = [Batch(*(tensor.pin_memory() for tensor in batch)) for batch in batches]
    yield from cycle(batches)


def batches_read(setup: Setup) -> Batches:
    """Yield what our reader reads, epoch after epoch; its padded last batches are left out."""
    from catalog_batch.config import TrainSettings
    from catalog_batch.train.readers import ShardReader
    from catalog_batch.train.snapshot import resolve_snapshot

    assert setup.data is not None
    snapshot = resolve_snapshot(str(setup.data / "training_examples"))
    settings = TrainSettings(batch_size=setup.batch_size)
    reader = ShardReader(snapshot, setup.preprocessing, settings)
    epoch = 0
    while True:
        with closing(reader.training(epoch)) as batches:
            yield from (batch for batch in batches if bool(batch.weights.all()))
        epoch += 1


def bare_steps(setup: Setup) -> Take:
    """Return the usual loop: no hooks, and no loss is looked at before the end."""
    network, normalise = setup.network(), setup.preprocessing.normalise
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    is_reduced = setup.precision == "bf16"
    kind = torch.device(setup.device).type

    def take(batches: Iterable[Batch]) -> Steps:
        losses = list[Tensor]()
        for images, labels, _ in batches:
            images = images.to(setup.device, non_blocking=True)
            labels = labels.to(setup.device, non_blocking=True)
            optimizer.zero_grad(set_to_none=True)
            pixels = normalise(images)
            with torch.autocast(kind, torch.bfloat16, enabled=is_reduced):
                logits = network(pixels)
            loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return Steps(float(torch.stack(losses).mean()))

    return take


def our_steps(setup: Setup, augmentation: str) -> Take:
    """Return the loop of ``train`` with its recipe, as a worker sets it up."""
    network = setup.network()
    settings = RecipeSettings(learning_rate=LEARNING_RATE, precision=setup.precision)
    head = (HEADS.get(setup.architecture, ""),)
    recipe = Recipe(network, settings, setup.steps, setup.device, head)
    fit_settings = FitSettings(CLASSES, epochs=1, patience=1, device=setup.device)
    hooks = Hooks(setup.preprocessing.normalise, build_augmentation(augmentation, SEED))

    def take(batches: Iterable[Batch]) -> Steps:
        totals = train_epoch(network, recipe, batches, fit_settings, hooks)
        return Steps(totals.loss, totals.wait_seconds / totals.seconds)

    return take


@dataclass(frozen=True)
class Kind:
    """Who takes the steps, and where the batches come from."""

    take: Callable[[Setup], Take]
    batches: Callable[[Setup], Batches] = batches_in_memory
    keeps_memory: bool = True
    """Whether the process is told to, as a worker of ours is on a CPU."""


BARE, OURS, AUGMENTED, READ = "bare", "ours", "ours-augmented", "ours-read"
AS_IT_COMES = "bare-as-it-comes"
LANES = {
    AS_IT_COMES: Kind(bare_steps, keeps_memory=False),
    BARE: Kind(bare_steps),
    OURS: Kind(lambda setup: our_steps(setup, "none")),
    AUGMENTED: Kind(lambda setup: our_steps(setup, "article")),
    READ: Kind(lambda setup: our_steps(setup, "article"), batches_read),
}


def run_lane(lane: str, setup: Setup) -> dict[str, Any]:
    """Take the steps that warm up, and then those that are timed."""
    kind = LANES[lane]
    if kind.keeps_memory and setup.device == "cpu":
        keep_freed_memory()
    take = kind.take(setup)
    with closing(kind.batches(setup)) as batches:
        warm_up = take(islice(batches, setup.warm_up))
        setup.wait_for_device()
        start = time.perf_counter()
        timed = take(islice(batches, setup.steps))
        setup.wait_for_device()
        seconds = time.perf_counter() - start
    on_gpu = setup.device.startswith("cuda")
    return {
        "lane": lane,
        "warm_up_loss": warm_up.loss,
        "loss": timed.loss,
        "steps": setup.steps,
        "seconds": seconds,
        "images_per_second": setup.steps * setup.batch_size / seconds,
        "wait_share": timed.wait_share,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if on_gpu else "",
        "gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one way to take training steps.")
    parser.add_argument("lane", choices=LANES)
    parser.add_argument("--architecture", default=Setup.architecture)
    parser.add_argument("--device", default=Setup.device)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=Setup.precision)
    parser.add_argument("--batch-size", type=int, default=Setup.batch_size)
    parser.add_argument("--side", type=int, default=Setup.side)
    parser.add_argument("--warm-up", type=int, default=Setup.warm_up)
    parser.add_argument("--steps", type=int, default=Setup.steps)
    parser.add_argument("--data", type=Path)
    given = vars(parser.parse_args())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(json.dumps(run_lane(given.pop("lane"), Setup(**given))))


if __name__ == "__main__":
    main()

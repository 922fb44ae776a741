"""The training loop in plain PyTorch: batches in, reports out, no Ray and no Petastorm.

The same functions serve one process and many. With many, ``reduce_sum`` adds a tensor up over
the ranks, ``world_size`` is their number, and every rank must take the same number of steps.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from catalog_batch.errors import BadInputError, CatalogBatchError
from catalog_batch.modeling.augmentation import Augmentation
from catalog_batch.train.losses import split_outputs, weighted_loss
from catalog_batch.train.reports import (
    EpochReport,
    EpochTotals,
    Evaluation,
    FitState,
    epoch_report,
)

__all__ = [
    "Batch",
    "EpochReport",
    "EpochTotals",
    "Evaluation",
    "FitSettings",
    "FitState",
    "evaluate",
    "fit",
    "in_one_process",
    "make_optimizer",
    "train_epoch",
]

TensorFunction = Callable[[Tensor], Tensor]


class Batch(NamedTuple):
    """Rows for one step on one rank; padding keeps the ranks' steps equal in number.

    A padding row has weight 0 and any valid label. It adds nothing to the loss, the gradient or
    the counts. It does pass through batch normalisation, which cannot tell it from the others,
    and so shifts that batch's mean and variance: pad with repeats of real rows.
    """

    images: Tensor
    """uint8 [N, H, W, 3]."""

    labels: Tensor
    """int64 [N], class indices."""

    weights: Tensor
    """float32 [N]: 1 for a real row, 0 for padding."""


@dataclass(frozen=True)
class FitSettings:
    """What steers ``fit``, apart from the network and the data."""

    num_classes: int
    """Outputs of the network."""

    epochs: int
    """Most passes over the training rows, those of a resumed state included."""

    patience: int
    """Epochs without a better validation loss after which training stops."""

    device: str = "cpu"
    """Where the network already is and the batches go: ``cpu``, ``cuda`` or ``cuda:1``."""

    world_size: int = 1
    """Ranks that train together."""

    seed: int = 17
    """Of dropout, drawn anew for each epoch; give each rank its own."""


def in_one_process(tensor: Tensor) -> Tensor:
    """Return the tensor as it is: the sum over the ranks when there is one."""
    return tensor


def make_optimizer(
    name: Literal["adam", "adamw", "sgd"],
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Build the optimiser called ``name``; ``sgd`` has momentum 0.9.

    Raises:
        BadInputError: For another name.
    """
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay
        )
    raise BadInputError(f"Unknown optimizer {name!r}. Use 'adam', 'adamw' or 'sgd'.")


def fit(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Callable[[int], Iterable[Batch]],
    validation: Callable[[], Iterable[Batch]],
    settings: FitSettings,
    normalise: TensorFunction,
    augment: Augmentation,
    reduce_sum: TensorFunction = in_one_process,
    state: FitState | None = None,
    on_epoch: Callable[[EpochReport, FitState], None] = lambda report, state: None,
) -> FitState:
    """Train until the epochs are used up or the validation loss stops falling.

    Every rank decides from the same reduced figures, so all stop after the same epoch. Each
    epoch seeds dropout (torch's global generator) and augmentation anew, so that a resumed run
    draws what an undisturbed one does. Without validation rows the training loss and accuracy
    stand in for the validation ones, and ``validation_rows`` is 0.

    Args:
        network: On ``settings.device``; wrapped for data parallelism if there are ranks.
        optimizer: Over the network's parameters.
        training: Gives an epoch's batches; called with the epoch's number.
        validation: Gives the validation batches.
        settings: Limits, device and seed.
        normalise: uint8 [N, H, W, 3] to float32 [N, 3, H, W].
        augment: Applied to normalised training batches.
        reduce_sum: Returns a tensor's sum over the ranks.
        state: Where to go on; ``None`` starts anew.
        on_epoch: Called after each epoch, the place to save a checkpoint and to report.

    Returns:
        The state after the last epoch; ``state`` itself, updated, when one was given.

    Raises:
        CatalogBatchError: When a loss is not finite.
    """
    state = state or FitState()
    device = torch.device(settings.device)
    while state.epoch < settings.epochs and state.epochs_without_improvement < settings.patience:
        torch.manual_seed(settings.seed + state.epoch)
        augment.begin_epoch(state.epoch)
        totals = train_epoch(
            network,
            training(state.epoch),
            optimizer,
            normalise,
            augment,
            device,
            reduce_sum,
            settings.world_size,
            state.epoch,
        )
        evaluation = evaluate(
            network, validation(), normalise, device, reduce_sum, settings.num_classes
        )
        report = epoch_report(state, totals, evaluation)
        _refuse_non_finite(report.validation_loss, f"epoch {state.epoch}, validation", optimizer)
        state.add(report)
        on_epoch(report, state)
    return state


def train_epoch(
    network: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    normalise: TensorFunction,
    augment: TensorFunction,
    device: torch.device,
    reduce_sum: TensorFunction = in_one_process,
    world_size: int = 1,
    epoch: int = 0,
) -> EpochTotals:
    """Take one optimiser step per batch.

    A step's loss is the sum of this rank's row losses, times ``world_size``, over the real rows
    of all ranks: averaged over the ranks, as data parallelism does with gradients, that is the
    exact mean over all real rows, however unevenly the ranks are filled. Auxiliary heads add to
    the step's loss and not to the totals.

    Raises:
        CatalogBatchError: When a loss is not finite, naming epoch, step and learning rate.
    """
    network.train()
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    timed = _TimedBatches(batches)
    for step, batch in enumerate(timed):
        images, labels, weights = (tensor.to(device, non_blocking=True) for tensor in batch)
        logits, auxiliary = split_outputs(network(augment(normalise(images))))
        row_loss = weighted_loss(logits, labels, weights)
        step_loss = row_loss + sum(
            share * weighted_loss(other, labels, weights) for share, other in auxiliary
        )
        # A step in which every rank has padding only divides 0 by 1, and not by 0.
        real_rows = reduce_sum(weights.sum()).clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(step_loss * world_size / real_rows)
        _refuse_non_finite(step_loss.item(), f"epoch {epoch}, step {step}", optimizer)
        optimizer.step()
        correct = (logits.argmax(dim=1) == labels) * weights
        totals += torch.stack([row_loss.detach(), correct.sum(), weights.sum()])
    _average_buffers(network, reduce_sum, world_size)
    loss_sum, correct_rows, rows = reduce_sum(totals).tolist()
    return EpochTotals(loss_sum, int(correct_rows), int(rows), timed.seconds, timed.wait_seconds)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    normalise: TensorFunction,
    device: torch.device,
    reduce_sum: TensorFunction,
    num_classes: int,
) -> Evaluation:
    """Measure loss and confusion matrix; ranks may hold different numbers of batches."""
    # A data parallel wrapper broadcasts its buffers on each call: the rank with the most batches
    # would wait for ever.
    plain = network.module if isinstance(network, DistributedDataParallel) else network
    plain.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    cells = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
    for batch in batches:
        images, labels, weights = (tensor.to(device, non_blocking=True) for tensor in batch)
        logits = plain(normalise(images))
        loss_sum += weighted_loss(logits, labels, weights)
        cells.scatter_add_(0, labels * num_classes + logits.argmax(dim=1), weights.long())
    confusion = reduce_sum(cells).reshape(num_classes, num_classes).cpu()
    rows = int(confusion.sum())
    return Evaluation(reduce_sum(loss_sum).item() / max(rows, 1), rows, confusion)


class _TimedBatches:
    """Iterate over batches and measure how long the consumer waited for them."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        start = asked = time.perf_counter()
        for batch in self._batches:
            self.wait_seconds += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()
        end = time.perf_counter()
        self.wait_seconds += end - asked
        self.seconds = end - start


def _refuse_non_finite(loss: float, where: str, optimizer: torch.optim.Optimizer) -> None:
    if not math.isfinite(loss):
        rate = optimizer.param_groups[0]["lr"]
        raise CatalogBatchError(
            f"The loss is {loss} at {where}, with learning rate {rate:g}. "
            "Lower the learning rate; if it is low already, look for damaged weights."
        )


@torch.no_grad()
def _average_buffers(network: nn.Module, reduce_sum: TensorFunction, world_size: int) -> None:
    """Give all ranks the mean of their batch-norm statistics: each has only seen its own rows."""
    if world_size == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(reduce_sum(buffer.clone()) / world_size)

"""The training loop in plain PyTorch: batches in, reports out, no Ray and no Petastorm.

The same functions serve one process and many. With many, ``reduce_sum`` adds a tensor up over
the ranks, ``world_size`` is their number, and every rank must take the same number of steps.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from catalog_batch.errors import DivergenceError
from catalog_batch.modeling.augmentation import Augmentation
from catalog_batch.modeling.draws import DROPOUT, mixed_seed, seed_global
from catalog_batch.modeling.mixing import Mixing
from catalog_batch.train.losses import Loss, split_outputs
from catalog_batch.train.recipe import Recipe
from catalog_batch.train.reports import (
    EpochReport,
    EpochTotals,
    Evaluation,
    FitState,
    PartialEpoch,
    Progress,
    epoch_report,
)

__all__ = [
    "Batch",
    "EpochReport",
    "EpochTotals",
    "Evaluation",
    "FitSettings",
    "FitState",
    "Hooks",
    "PartialEpoch",
    "Progress",
    "evaluate",
    "fit",
    "in_one_process",
    "train_epoch",
]

TensorFunction = Callable[[Tensor], Tensor]

SECONDS_BETWEEN_TELLS = 2.0
"""Least time between two calls of ``Hooks.on_progress``, except for an epoch's last."""

STEPS_BETWEEN_LOOKS = 50
"""Steps on a GPU after which losses are looked at: each look waits until the GPU has caught up."""


class Batch(NamedTuple):
    """Rows for one step on one rank; padding keeps the ranks' steps equal in number.

    A padding row has weight 0 and any valid label. It adds nothing to the loss, the gradient or
    the counts. It does pass through batch normalisation, which cannot tell it from the others,
    and so shifts that batch's mean and variance: pad with repeats of real rows.
    """

    images: Tensor
    """uint8 [N, H, W, 3]; features, float32 [N, ...], where a backbone's were computed before."""

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

    keep_last: bool = False
    """Whether each epoch's weights are better than those before, whatever the validation says."""

    device: str = "cpu"
    """Where the network already is and the batches go: ``cpu``, ``cuda`` or ``cuda:1``."""

    rank: int = 0
    """This one, from 0."""

    world_size: int = 1
    """Ranks that train together."""

    seed: int = 17
    """Of dropout, drawn anew for each batch; give each rank its own."""


def in_one_process(tensor: Tensor) -> Tensor:
    """Return the tensor as it is: the sum over the ranks when there is one."""
    return tensor


def all_layers_train(network: nn.Module, epoch: int) -> None:
    """Put the whole network in training mode, in every epoch."""
    network.train()


def as_it_is(network: nn.Module, epoch: int) -> nn.Module:
    """Return the network itself, which is what one process trains."""
    return network


def untold(progress: Progress) -> None:
    """Tell nobody how far an epoch is."""


def never() -> bool:
    """Return False: a state is worth saving at the end of an epoch alone."""
    return False


@dataclass(frozen=True)
class Hooks:
    """What the loop calls on the way: what becomes of a batch, and how ranks add up."""

    normalise: TensorFunction
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W]."""

    augment: Augmentation = field(default_factory=Augmentation)
    """Applied to the pictures of training batches, before ``normalise``."""

    mix: Mixing | None = None
    """Applied to training batches after ``normalise``."""

    set_mode: Callable[[nn.Module, int], None] = all_layers_train
    """Called with the plain network and the epoch before each training epoch."""

    in_parallel: Callable[[nn.Module, int], nn.Module] = as_it_is
    """Called after ``set_mode``: wraps the plain network for data parallelism."""

    reduce_sum: TensorFunction = in_one_process
    """Returns a tensor's sum over the ranks."""

    on_progress: Callable[[Progress], None] = untold
    """Called between batches, every few seconds and after an epoch's last one."""

    is_due: Callable[[], bool] = never
    """Asked after each step but an epoch's last: whether to save the state now. All ranks must
    answer the same."""


def fit(
    network: nn.Module,
    recipe: Recipe,
    training: Callable[[int, int], Iterable[Batch]],
    validation: Callable[[], Iterable[Batch]],
    settings: FitSettings,
    hooks: Hooks,
    state: FitState | None = None,
    on_epoch: Callable[[EpochReport, FitState], None] = lambda report, state: None,
    on_partial: Callable[[FitState], None] = lambda state: None,
) -> FitState:
    """Train until the epochs are used up or the validation loss stops falling.

    Every rank decides from the same reduced figures, so all stop after the same epoch. Each
    batch seeds dropout (torch's global generator) and augmentation anew, so that a resumed run
    draws what an undisturbed one does, within an epoch too. Without validation rows the training
    loss and accuracy stand in for the validation ones, and ``validation_rows`` is 0.

    Args:
        network: On ``settings.device``, without a wrapper for data parallelism.
        recipe: Over this network; its averaged weights, if any, are those evaluated.
        training: Gives an epoch's batches; called with the epoch's number and that of the first
            batch to give, which is not 0 when a state is resumed that was saved in between.
        validation: Gives the validation batches.
        settings: Limits, device and seed.
        hooks: What is called on the way.
        state: Where to go on; ``None`` starts anew. One from within an epoch goes on with as
            many ranks as it was saved by.
        on_epoch: Called after each epoch, the place to save a checkpoint and to report.
        on_partial: Called after a step when ``hooks.is_due`` said so, the place to save.

    Returns:
        The state after the last epoch; ``state`` itself, updated, when one was given.

    Raises:
        DivergenceError: When a loss is not finite.
    """
    state = state or FitState()
    device = torch.device(settings.device)

    def save(partial: PartialEpoch) -> None:
        state.partial = partial
        on_partial(state)

    while state.goes_on(settings.epochs, settings.patience):
        done = state.partial or PartialEpoch.none(settings.world_size)
        losses = [report.validation_loss for report in state.history]
        recipe.begin_epoch(state.epoch, losses, done.batches)
        hooks.set_mode(network, state.epoch)
        totals = train_epoch(
            hooks.in_parallel(network, state.epoch),
            recipe,
            training(state.epoch, done.batches),
            settings,
            hooks,
            state.epoch,
            done,
            save,
        )
        evaluation = evaluate(
            recipe.evaluated,
            validation(),
            hooks.normalise,
            device,
            hooks.reduce_sum,
            settings.num_classes,
        )
        report = epoch_report(state, totals, evaluation, recipe.learning_rate, settings.keep_last)
        where = f"epoch {state.epoch}, validation"
        _refuse_non_finite(report.validation_loss, where, recipe.learning_rate)
        state.add(report)
        on_epoch(report, state)
    return state


def train_epoch(
    network: nn.Module,
    recipe: Recipe,
    batches: Iterable[Batch],
    settings: FitSettings,
    hooks: Hooks,
    epoch: int = 0,
    done: PartialEpoch | None = None,
    save: Callable[[PartialEpoch], None] = lambda partial: None,
) -> EpochTotals:
    """Take a step of the recipe for every ``recipe.accumulate_steps`` batches and for the rest.

    The network is in training mode, wrapped for data parallelism if there are ranks. Auxiliary
    heads add to the loss of a step and not to the totals. What was ``done`` of the epoch is in the
    totals and not in ``batches``; ``save`` is called when ``hooks.is_due``.

    Raises:
        DivergenceError: When a loss is not finite, naming epoch, batch and learning rate.
    """
    plain = _plain(network)
    device = torch.device(settings.device)
    done = done or PartialEpoch.none(settings.world_size)
    totals = torch.tensor(done.totals[settings.rank], dtype=torch.float64, device=device)
    timed = _TimedBatches(batches, recipe.accumulate_steps, done, epoch, hooks.on_progress)
    watch = _LossWatch(recipe, epoch, 1 if device.type == "cpu" else STEPS_BETWEEN_LOOKS, done)
    for batch, is_step in timed:
        _seed_draws(settings.seed, device, epoch, timed.number - 1, hooks)
        images, labels, weights = (tensor.to(device, non_blocking=True) for tensor in batch)
        images, targets = _prepared(images, labels, hooks)
        with _exchange(network, is_step):
            totals += _add_to_step(network, recipe, images, targets, weights, watch)
        if is_step:
            recipe.step(hooks.reduce_sum, settings.world_size)
            if not timed.is_last and hooks.is_due():
                watch.look()
                # One rank's are saved: their mean moves on as the mean of all ranks' would.
                _average_statistics(recipe, plain, hooks.reduce_sum, settings.world_size)
                save(_partial(totals, timed, settings, hooks.reduce_sum))
    watch.look()
    _average_statistics(recipe, plain, hooks.reduce_sum, settings.world_size)
    loss_sum, mass, correct, rows = hooks.reduce_sum(totals).tolist()
    loss = loss_sum / mass if mass else 0.0
    return EpochTotals(loss, int(correct), int(rows), timed.seconds, timed.wait_seconds)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    normalise: TensorFunction,
    device: torch.device,
    reduce_sum: TensorFunction,
    num_classes: int,
) -> Evaluation:
    """Measure cross entropy and confusion matrix; ranks may hold unlike numbers of batches."""
    # A data parallel wrapper may exchange something on each call: the rank with the most batches
    # would wait for ever.
    plain = _plain(network)
    plain.eval()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    cells = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
    for batch in batches:
        images, labels, weights = (tensor.to(device, non_blocking=True) for tensor in batch)
        logits = plain(normalise(images))
        loss_sum += Loss().total(logits, labels, weights)
        cells.scatter_add_(0, labels * num_classes + logits.argmax(dim=1), weights.long())
    confusion = reduce_sum(cells).reshape(num_classes, num_classes).cpu()
    rows = int(confusion.sum())
    return Evaluation(reduce_sum(loss_sum).item() / max(rows, 1), rows, confusion)


def _plain(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


def _seed_draws(seed: int, device: torch.device, epoch: int, batch: int, hooks: Hooks) -> None:
    """Give each batch draws of its own: to go on from one, no generator's state is needed."""
    seed_global(mixed_seed(seed, epoch, DROPOUT, batch), device)
    hooks.augment.begin_epoch(epoch, batch)
    if hooks.mix is not None:
        hooks.mix.begin_epoch(epoch, batch)


def _partial(
    totals: Tensor, timed: "_TimedBatches", settings: FitSettings, reduce_sum: TensorFunction
) -> PartialEpoch:
    """Tell how far the epoch is, with each rank's totals on its own, so that none is rounded."""
    by_rank = totals.new_zeros(settings.world_size, len(totals))
    by_rank[settings.rank] = totals
    rows = tuple(map(tuple, reduce_sum(by_rank).tolist()))
    return PartialEpoch(timed.number, rows, timed.seconds, timed.wait_seconds)


def _prepared(images: Tensor, labels: Tensor, hooks: Hooks) -> tuple[Tensor, Tensor]:
    images = hooks.normalise(hooks.augment(images))
    return (images, labels) if hooks.mix is None else hooks.mix(images, labels)


def _exchange(network: nn.Module, is_step: bool) -> AbstractContextManager[None]:
    """Let ranks exchange gradients in the last batch of a step alone."""
    if isinstance(network, DistributedDataParallel) and not is_step:
        silent: AbstractContextManager[None] = network.no_sync()
        return silent
    return nullcontext()


def _add_to_step(
    network: nn.Module,
    recipe: Recipe,
    images: Tensor,
    targets: Tensor,
    weights: Tensor,
    watch: "_LossWatch",
) -> Tensor:
    """Add a batch's gradient to the step; return sum of losses, mass, correct and real rows."""
    with recipe.autocast():
        outputs = network(images)
    logits, auxiliary = split_outputs(outputs)
    row_loss = recipe.loss.total(logits, targets, weights)
    total = row_loss + sum(
        share * recipe.loss.total(other, targets, weights) for share, other in auxiliary
    )
    mass = recipe.loss.mass(targets, weights)
    recipe.backward(total, mass)
    watch.add(total)
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    correct = (logits.argmax(dim=1) == labels) * weights
    return torch.stack([row_loss.detach(), mass, correct.sum(), weights.sum()])


class _TimedBatches:
    """Iterate over batches and whether a step follows each; measure the wait, tell the progress.

    One batch is asked for ahead: the last one of an epoch is always followed by a step, and ranks
    exchange their gradients while they are computed, so this must be known before.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        batches_per_step: int,
        done: PartialEpoch,
        epoch: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._batches = iter(batches)
        self._batches_per_step = batches_per_step
        self._start = time.perf_counter() - done.seconds
        self._epoch = epoch
        self._on_progress = on_progress
        self.number = done.batches
        """Batches of the epoch so far."""
        self.is_last = False
        self.seconds = done.seconds
        self.wait_seconds = done.wait_seconds

    def __iter__(self) -> Iterator[tuple[Batch, bool]]:
        told = time.perf_counter()
        upcoming = self._next()
        while upcoming is not None:
            batch, upcoming = upcoming, self._next()
            self.number += 1
            self.is_last = upcoming is None
            yield batch, self.is_last or self.number % self._batches_per_step == 0
            now = time.perf_counter()
            self.seconds = now - self._start
            if self.is_last or now - told >= SECONDS_BETWEEN_TELLS:
                told = now
                progress = Progress(self._epoch, self.number, self.seconds, self.wait_seconds)
                self._on_progress(progress)

    def _next(self) -> Batch | None:
        asked = time.perf_counter()
        batch = next(self._batches, None)
        self.wait_seconds += time.perf_counter() - asked
        return batch


class _LossWatch:
    """Refuse losses that are not finite; hold some before looking, which waits for the device."""

    def __init__(self, recipe: Recipe, epoch: int, held_at_most: int, done: PartialEpoch) -> None:
        self._recipe = recipe
        self._epoch = epoch
        self._held_at_most = held_at_most
        self._held: list[Tensor] = []
        self._seen = done.batches

    def add(self, loss: Tensor) -> None:
        self._held.append(loss.detach())
        if len(self._held) >= self._held_at_most:
            self.look()

    def look(self) -> None:
        losses = torch.stack(self._held).tolist() if self._held else []
        for batch, loss in enumerate(losses, self._seen):
            where = f"epoch {self._epoch}, batch {batch}"
            _refuse_non_finite(loss, where, self._recipe.learning_rate)
        self._seen += len(losses)
        self._held.clear()


def _refuse_non_finite(loss: float, where: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise DivergenceError(
            f"The loss is {loss} at {where}, with learning rate {learning_rate:g}. "
            "Lower the learning rate; if it is low already, look for damaged weights."
        )


def _average_statistics(
    recipe: Recipe, plain: nn.Module, reduce_sum: TensorFunction, world_size: int
) -> None:
    _average_buffers(plain, reduce_sum, world_size)
    if recipe.evaluated is not plain:
        _average_buffers(recipe.evaluated, reduce_sum, world_size)


@torch.no_grad()
def _average_buffers(network: nn.Module, reduce_sum: TensorFunction, world_size: int) -> None:
    """Give all ranks the mean of their batch-norm statistics: each has only seen its own rows."""
    if world_size == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(reduce_sum(buffer.clone()) / world_size)

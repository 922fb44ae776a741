"""A network with fewer channels, taught to answer as the whole one does.

Channels whose weights have the smallest norms go, those that layers share together (DepGraph, Fang
et al., 2023: https://arxiv.org/abs/2301.12900). What is left learns from the logits of the whole
network (Hinton et al., 2015: https://arxiv.org/abs/1503.02531): it needs no labels, and agreement
is what it is judged by.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from catalog_batch.errors import TrainingDataError
from catalog_batch.modeling.heads import head_layers
from catalog_batch.modeling.preprocessing import Preprocessing

CHANNELS_AT_ONCE = 8
"""Layers keep a multiple of it, for that is how many numbers a processor takes at a time."""

TEMPERATURE = 2.0
"""Of the logits that are learnt from: above 1 the classes that are not the best one count, too."""

ENERGY_WEIGHT = 0.1
"""Of the distance between energies: with 1 fewer answers agree, with 0 energies are anywhere."""

LEARNING_RATE = 1e-3
SEED = 17

Batches = Callable[[], Iterable[Tensor]]
"""Gives the training pictures anew, in batches, uint8 [N, S, S, 3]."""


def pruned_network(network: nn.Module, side: int, share: float) -> nn.Module:
    """Return a copy of a network with a share of the channels of each layer taken out.

    Args:
        network: As trained, on the CPU; left as it is.
        side: Of the pictures that it takes, in pixels.
        share: Of the channels, 0 to 1, neither included; heads keep theirs.

    Raises:
        Exception: Of many kinds, for a network whose layers cannot be traced.
    """
    import torch_pruning

    # Contiguous: what is cut out of channels-last weights would be neither.
    smaller = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
    example = torch.zeros(1, 3, side, side)
    torch_pruning.pruner.BasePruner(
        smaller,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=[smaller.get_submodule(name) for name in head_layers(smaller)],
        round_to=CHANNELS_AT_ONCE,
    ).step()
    return smaller.to(memory_format=torch.channels_last)


def _distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return how far logits, [N, C], are from those that are learnt from."""
    answers = F.kl_div(
        F.log_softmax(logits / TEMPERATURE, dim=1),
        F.log_softmax(wanted / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    # What is added to all logits of a picture is no matter to its answer, but is its energy, by
    # which pictures that are like none of training are told.
    energies = F.smooth_l1_loss(logits.logsumexp(dim=1), wanted.logsumexp(dim=1))
    return answers + ENERGY_WEIGHT * energies


def teach(
    smaller: nn.Module,
    whole: nn.Module,
    preprocessing: Preprocessing,
    batches: Batches,
    steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Bring a pruned network's answers near those of the whole one.

    The rate falls from ``LEARNING_RATE`` to 0 along a cosine. Half of the batches are mirrored.

    Args:
        smaller: Trained in place; in eval mode afterwards.
        whole: In eval mode.
        preprocessing: Of both.
        batches: Gone through as often as it takes.
        steps: Batches to learn from.
        on_step: Called after each.

    Raises:
        TrainingDataError: When there are no pictures.
    """
    optimizer = torch.optim.AdamW(smaller.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    chance = torch.Generator().manual_seed(SEED)
    smaller.train()
    done = 0
    while done < steps:
        before = done
        for pixels in batches():
            batch = preprocessing.normalise(pixels)
            if float(torch.rand(1, generator=chance)) < 0.5:
                batch = batch.flip(3)
            with torch.no_grad():
                wanted = whole(batch)
            loss = _distance(smaller(batch), wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            on_step()
            if done == steps:
                break
        if done == before:
            raise TrainingDataError(
                "There are no training images for a pruned network to learn on."
            )
    smaller.eval()

"""Random draws of training that repeat: on the CPU, by seed and epoch, apart from all others."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

AUGMENTATION, MIXING, DROPOUT = 1, 2, 3
"""Purposes of draws: what one of them draws does not depend on the other's."""


def epoch_generator(seed: int, epoch: int, purpose: int, batch: int = 0) -> torch.Generator:
    """Return a generator on the CPU, so that a seed draws the same for every device.

    Args:
        seed: At least 0; give each rank its own.
        epoch: At least 0: a resumed run draws what an undisturbed one does.
        purpose: ``AUGMENTATION``, ``MIXING`` or ``DROPOUT``.
        batch: Of the epoch, from 0: a run resumed in between needs no generator's state.
    """
    return torch.Generator().manual_seed(mixed_seed(seed, epoch, purpose, batch))


def mixed_seed(seed: int, epoch: int, purpose: int, batch: int = 0) -> int:
    """Return one seed of 32 bits for what ``epoch_generator`` takes."""
    # A generator's start takes 32 bits of a seed alone: mixed first, neighbours do not collide.
    return int(np.random.SeedSequence([seed, epoch, purpose, batch]).generate_state(1)[0])


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of a device, from which dropout draws.

    ``torch.manual_seed`` also goes through kinds of devices that are not there, and for each of
    them writes down where it was called from: half a millisecond, in every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let torch's global generator draw what ``generator`` would, and put it back afterwards.

    For torchvision's transforms, which draw from the global one alone, as dropout does. They
    draw on the CPU: the generators of GPUs are left as they are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def draw_sides(
    count: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw [count] widths and heights of rectangles, as shares of the picture's, at most 1.

    Args:
        count: How many of each.
        scale: Least and largest share of the area, drawn evenly.
        ratio: Least and largest width over height; its logarithm is drawn evenly.
        generator: Of the draws.
    """
    uniform = torch.rand(2, count, generator=generator)
    area = scale[0] + uniform[0] * (scale[1] - scale[0])
    least, largest = math.log(ratio[0]), math.log(ratio[1])
    width_over_height = (least + uniform[1] * (largest - least)).exp()
    sides = (area * width_over_height).sqrt(), (area / width_over_height).sqrt()
    return sides[0].clamp(max=1), sides[1].clamp(max=1)

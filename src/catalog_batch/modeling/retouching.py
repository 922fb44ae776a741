"""Random changes of colour and random blanks, each picture on its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from catalog_batch.modeling.draws import draw_sides
from catalog_batch.modeling.preprocessing import IMAGENET_MEAN, Colour

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a pixel's brightness, as in ITU-R BT.601."""


@dataclass(frozen=True)
class ColourJitter:
    """Change brightness, contrast and saturation of each picture by factors around 1."""

    strength: float
    """Most change of each factor: 0.2 draws evenly from 0.8 to 1.2."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return recoloured copies; uint8 [N, H, W, 3] in and out."""
        uniform = torch.rand(3, len(pictures), generator=generator) * 2 - 1
        brightness, contrast, saturation = 1 + uniform * self.strength
        return recolour(pictures, brightness, contrast, saturation)


@dataclass(frozen=True)
class Erasing:
    """Blank a random rectangle in some pictures: Zhong et al., "Random Erasing" (2020)."""

    share: float
    """Of the pictures that lose a rectangle."""

    colour: Colour = IMAGENET_MEAN
    """What is put there; the mean becomes 0 for the network."""

    scale: tuple[float, float] = (0.02, 0.2)
    """Least and largest share of the area."""

    ratio: tuple[float, float] = (0.3, 3.3)
    """Least and largest width over height, in shares of the picture's."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return copies, some with a blank; uint8 [N, H, W, 3] in and out."""
        count, height, width, _ = pictures.shape
        box_width, box_height = draw_sides(count, self.scale, self.ratio, generator)
        at_x, at_y, chance = torch.rand(3, count, generator=generator)
        columns = _within(width, at_x * (1 - box_width), box_width, pictures.device)
        rows = _within(height, at_y * (1 - box_height), box_height, pictures.device)
        erased = (chance < self.share).to(pictures.device).view(-1, 1, 1)
        blank = (rows[:, :, None] & columns[:, None, :] & erased).unsqueeze(-1)
        colour = torch.tensor(levels(self.colour), dtype=torch.uint8, device=pictures.device)
        return torch.where(blank, colour, pictures)


def recolour(pictures: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Scale the distance of pixels from grey, from the mean grey and from black, in this order.

    Args:
        pictures: uint8 [N, H, W, 3].
        brightness: Factor of each picture, [N]; 1 changes nothing, 0 is black.
        contrast: Likewise; 0 is the picture's mean grey.
        saturation: Likewise; 0 is a picture in greys.

    Returns:
        uint8 [N, H, W, 3] on the device of the pictures.
    """
    factors = torch.stack([brightness, contrast, saturation]).to(pictures.device)
    bright, contrasted, saturated = factors.view(3, -1, 1, 1, 1)
    images = pictures.float()
    red, green, blue = images.unbind(-1)
    grey = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(-1)
    mean = grey.mean(dim=(1, 2), keepdim=True)
    # The three blends multiplied out: one pass over the colours instead of three.
    images *= saturated * contrasted * bright
    images += grey * ((1 - saturated) * contrasted * bright) + mean * ((1 - contrasted) * bright)
    return images.round_().clamp_(0, 255).to(torch.uint8)


def levels(colour: Colour) -> list[int]:
    """Return red, green and blue on a scale of 0 to 255."""
    return [round(255 * channel) for channel in colour]


def _within(length: int, start: Tensor, share: Tensor, device: torch.device) -> Tensor:
    """Return bool [N, length]: which pixels' centres lie in the span, given in shares [N]."""
    centres = (torch.arange(length) + 0.5) / length
    inside = (centres >= start[:, None]) & (centres < (start + share)[:, None])
    return inside.to(device, non_blocking=True)

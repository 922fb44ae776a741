"""The look of a product: its cut, its colours, its pattern.

All categories share one palette, so that colour alone says nothing about the category.
"""

from dataclasses import dataclass

import numpy as np

from catalog_batch.demo.outlines import Layer, Paint
from catalog_batch.demo.patterns import Pattern, choose_pattern
from catalog_batch.demo.silhouettes import SILHOUETTES

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (196, 44, 48),
    (232, 120, 44),
    (240, 196, 64),
    (96, 156, 72),
    (36, 100, 84),
    (64, 148, 196),
    (40, 64, 132),
    (124, 76, 156),
    (224, 132, 164),
    (128, 84, 56),
    (212, 184, 148),
    (236, 236, 232),
    (140, 144, 148),
    (44, 44, 48),
)


@dataclass(frozen=True)
class Look:
    """What makes one product recognisable on all its photos."""

    layers: list[Layer]
    colours: dict[Paint, Colour]
    pattern: Pattern
    pattern_colour: Colour


def luminance(colour: Colour) -> float:
    """Return how bright a colour looks, from 0 to 255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def scaled(colour: Colour, factor: float, lift: float = 0.0) -> Colour:
    """Darken (``factor`` below 1) or brighten a colour, then add ``lift``."""
    red, green, blue = (int(min(255.0, max(0.0, part * factor + lift))) for part in colour)
    return red, green, blue


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    """Return a colour a little off the palette's, as dyes are."""
    return scaled(colour, float(rng.uniform(0.9, 1.1)), float(rng.uniform(-8.0, 8.0)))


def choose_look(category: str, rng: np.random.Generator) -> Look:
    """Draw a look at random: four different colours and one pattern."""
    chosen = rng.choice(len(PALETTE), size=4, replace=False)
    body, trim, metal, second = (_varied(PALETTE[index], rng) for index in chosen)
    is_dark = luminance(body) < 90.0
    colours = {
        Paint.HOLE: body,
        Paint.BODY: body,
        Paint.SHADE: scaled(body, 1.1, 45.0) if is_dark else scaled(body, 0.72),
        Paint.TRIM: trim,
        Paint.METAL: metal,
        Paint.SEAM: scaled(body, 1.2, 80.0) if is_dark else scaled(body, 0.45),
        Paint.OUTLINE: scaled(body, 0.2, 10.0),
    }
    return Look(SILHOUETTES[category](rng), colours, choose_pattern(rng), second)

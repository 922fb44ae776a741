"""Patterns on a product: stripes, dots, checks, a gradient, or none."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

PatternKind = Literal["plain", "stripes", "dots", "checks", "gradient"]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class Pattern:
    """A pattern that covers the body of a product."""

    kind: PatternKind
    repeats: float
    """How often the pattern repeats across the product."""

    angle: float
    """Direction in radians."""


def choose_pattern(rng: np.random.Generator) -> Pattern:
    """Draw a pattern at random; plain is the most common one."""
    kind = get_args(PatternKind)[rng.choice(5, p=(0.6, 0.13, 0.08, 0.07, 0.12))]
    angle = float(rng.choice((0.0, 0.5, 0.25, 0.75))) * np.pi
    return Pattern(kind, float(rng.uniform(4.0, 8.0)), angle)


def pattern_strength(pattern: Pattern, x: Field, y: Field) -> Field | None:
    """Say how much of the second colour shows at each point.

    Args:
        pattern: The pattern to draw.
        x: Object coordinates of the points, -1 to 1 from left to right.
        y: The same from top to bottom.

    Returns:
        Values from 0 (the body's colour) to 1 (the second colour), or None for a plain body.
    """
    cos, sin = np.float32(np.cos(pattern.angle)), np.float32(np.sin(pattern.angle))
    along, across = x * cos + y * sin, y * cos - x * sin
    rate = np.float32(np.pi * pattern.repeats)
    if pattern.kind == "stripes":
        return _sharpened(np.sin(along * rate))
    if pattern.kind == "dots":
        return _sharpened(np.sin(along * rate) * np.sin(across * rate) - np.float32(0.3))
    if pattern.kind == "checks":
        return (_sharpened(np.sin(along * rate)) + _sharpened(np.sin(across * rate))) * np.float32(
            0.5
        )
    if pattern.kind == "gradient":
        return np.clip(along * np.float32(0.6) + np.float32(0.5), 0.0, 1.0)
    return None


def _sharpened(wave: Field) -> Field:
    """Turn a wave into bands with soft edges."""
    return np.clip(wave * np.float32(4.0) + np.float32(0.5), 0.0, 1.0)

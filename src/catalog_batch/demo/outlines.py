"""The outlines that silhouettes are made of.

A silhouette is a list of layers, painted one over the other. Each layer is a polygon in object
coordinates: x to the right and y down, the object between -1 and 1 on both axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Corners of a polygon, shape (corners, 2)."""


class Paint(IntEnum):
    """What a layer is painted with; a product's look gives each of these its colour."""

    HOLE = 0
    BODY = 1
    SHADE = 2
    TRIM = 3
    METAL = 4
    SEAM = 5
    OUTLINE = 6


@dataclass(frozen=True)
class Layer:
    """One polygon of a silhouette."""

    points: Points
    paint: Paint = Paint.BODY
    outlined: bool = True


def polygon(corners: Sequence[tuple[float, float]]) -> Points:
    """Return corners as an array."""
    return np.array(corners, dtype=np.float64)


def symmetric(right_half: Sequence[tuple[float, float]]) -> Points:
    """Close a right half, listed from top to bottom, with its mirror image."""
    right = polygon(right_half)
    return np.vstack([right, right[::-1] * (-1.0, 1.0)])


def mirrored(points: Points) -> Points:
    """Flip left and right."""
    return points * (-1.0, 1.0)


def superellipse(x: float, y: float, rx: float, ry: float, power: float = 2.0) -> Points:
    """Return an ellipse (``power`` 2) or, for higher powers, a rounded rectangle."""
    angle = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.column_stack(
        [
            x + rx * np.sign(cos) * np.abs(cos) ** (2.0 / power),
            y + ry * np.sign(sin) * np.abs(sin) ** (2.0 / power),
        ]
    )


def smooth(corners: Sequence[tuple[float, float]], *, closed: bool = True) -> Points:
    """Draw a Catmull-Rom curve through the corners, eight steps from one to the next."""
    through = polygon(corners)
    if closed:
        padded = np.vstack([through[-1:], through, through[:2]])
    else:
        padded = np.vstack([through[:1], through, through[-1:]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0.0, 1.0, 8, endpoint=closed is False)[:, None, None]
    curve = 0.5 * (
        2.0 * start
        + (end - before) * t
        + (2.0 * before - 5.0 * start + 4.0 * end - after) * t**2
        + (3.0 * start - before - 3.0 * end + after) * t**3
    )
    return np.asarray(curve.transpose(1, 0, 2).reshape(-1, 2))


def ribbon(corners: Points | Sequence[tuple[float, float]], width: float) -> Points:
    """Widen an open line into a polygon."""
    line = np.asarray(corners, dtype=np.float64)
    along = np.gradient(line, axis=0)
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    across = np.column_stack([-along[:, 1], along[:, 0]]) / length * (width / 2.0)
    return np.vstack([line + across, (line - across)[::-1]])


def arc(
    x: float, y: float, rx: float, ry: float, start: float, stop: float, width: float
) -> Points:
    """Return a ribbon along an ellipse; angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 24))
    return ribbon(np.column_stack([x + rx * np.cos(angle), y + ry * np.sin(angle)]), width)


def seam(corners: Sequence[tuple[float, float]], width: float = 0.025) -> Layer:
    """Return a thin line, such as a seam or a fold."""
    return Layer(ribbon(corners, width), Paint.SEAM, outlined=False)

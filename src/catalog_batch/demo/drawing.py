"""Draw a product in a pose, cut out: its colours and its coverage, without a background."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from catalog_batch.demo.looks import Look
from catalog_batch.demo.outlines import Layer, Paint, Points
from catalog_batch.demo.patterns import Field, pattern_strength

SUPERSAMPLING = 2
"""Lines are drawn this many times larger and then reduced, for smooth edges."""


@dataclass(frozen=True)
class Pose:
    """Where a product stands in its photo and how it is turned."""

    matrix: NDArray[np.float64]
    """Object to pixel directions, shape (2, 2)."""

    centre: NDArray[np.float64]
    tilt: NDArray[np.float64]
    """Perspective: how much nearer the right and the bottom edge are."""

    def project(self, points: Points) -> Points:
        """Map object coordinates to pixels."""
        nearer = 1.0 + points @ self.tilt
        return np.asarray((points @ self.matrix.T) / nearer[:, None] + self.centre)

    def object_coordinates(self, size: tuple[int, int]) -> tuple[Field, Field]:
        """Map each pixel back to object coordinates, perspective left out."""
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        x = np.arange(size[0], dtype=np.float32)[None, :] - np.float32(self.centre[0])
        y = np.arange(size[1], dtype=np.float32)[:, None] - np.float32(self.centre[1])
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def choose_pose(size: tuple[int, int], rng: np.random.Generator) -> Pose:
    """Draw a pose at random: turned by up to 20 degrees, half of the time mirrored."""
    half = min(size) / 2.0
    scale = half * rng.uniform(0.76, 0.9)
    angle = np.radians(rng.triangular(-20.0, 0.0, 20.0))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, rng.uniform(-0.07, 0.07)], [0.0, 1.0]])
    flip = np.diag([rng.choice((-1.0, 1.0)), 1.0])
    centre = np.array(size) / 2.0 + rng.uniform(-0.05, 0.05, 2) * half
    return Pose(turn @ shear @ flip * scale, centre, rng.uniform(-0.06, 0.06, 2))


def draw_cutout(look: Look, pose: Pose, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Draw a product.

    Returns:
        Its colours ("RGB") and its coverage ("L", 255 where the product is).
    """
    paints = _paint(look.layers, pose, size)
    coverage = _where(paints, {paint for paint in Paint if paint != Paint.HOLE})
    body = _where(paints, {Paint.BODY})
    paints.putpalette([part for paint in Paint for part in look.colours[paint]])
    colours = paints.convert("RGB").reduce(SUPERSAMPLING)
    x, y = pose.object_coordinates(size)
    strength = pattern_strength(look.pattern, x, y)
    if strength is not None:
        colours.paste(look.pattern_colour, mask=ImageChops.multiply(_as_mask(strength), body))
    colours.paste((0, 0, 0), mask=_as_mask(np.clip(x * 0.18 + y * 0.12 + 0.04, 0.0, 0.4)))
    return colours, coverage


def _paint(layers: list[Layer], pose: Pose, size: tuple[int, int]) -> Image.Image:
    """Paint the layers over each other: each pixel holds the number of its paint."""
    canvas = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), Paint.HOLE)
    draw = ImageDraw.Draw(canvas)
    line_width = max(2, round(min(size) * SUPERSAMPLING / 90))
    for layer in layers:
        corners = (pose.project(layer.points) * SUPERSAMPLING).ravel().tolist()
        draw.polygon(corners, fill=int(layer.paint))
        if layer.outlined:
            draw.line(corners + corners[:2], fill=int(Paint.OUTLINE), width=line_width)
    return canvas


def _where(paints: Image.Image, chosen: set[Paint]) -> Image.Image:
    """Return how much of each pixel of the final size is covered by the chosen paints."""
    return paints.point([255 * (paint in chosen) for paint in range(256)]).reduce(SUPERSAMPLING)


def _as_mask(strength: Field) -> Image.Image:
    """Turn values from 0 to 1 into an image of mode "L"."""
    return Image.fromarray((strength * 255.0).astype(np.uint8))

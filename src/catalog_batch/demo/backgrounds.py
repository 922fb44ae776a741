"""What stands behind a product: paper, a gradient, wood, soft clutter, a table and a wall."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from catalog_batch.demo.looks import Colour, luminance, scaled

BACKDROPS: tuple[Colour, ...] = (
    (250, 250, 250),
    (238, 232, 222),
    (222, 228, 236),
    (226, 236, 222),
    (242, 222, 226),
    (200, 200, 204),
    (186, 160, 128),
    (150, 172, 190),
    (214, 206, 190),
    (168, 176, 190),
    (146, 150, 148),
)


def draw_background(
    size: tuple[int, int], product_colour: Colour, rng: np.random.Generator
) -> Image.Image:
    """Draw one kind of background at random, in a tone that sets the product off."""
    tones = [BACKDROPS[index] for index in rng.choice(len(BACKDROPS), size=3, replace=False)]
    tone = max(tones, key=lambda colour: abs(luminance(colour) - luminance(product_colour)))
    kinds: tuple[Callable[..., Image.Image], ...] = (_plain, _gradient, _wood, _clutter, _table)
    return kinds[rng.choice(5, p=(0.4, 0.22, 0.1, 0.1, 0.18))](size, tone, rng)


def cast_shadow(background: Image.Image, coverage: Image.Image, rng: np.random.Generator) -> None:
    """Darken the background, in place, where the product's soft shadow falls."""
    small = coverage.reduce(8).filter(ImageFilter.BoxBlur(float(rng.uniform(1.0, 3.0))))
    strength = float(rng.uniform(0.1, 0.5))
    mask = small.point([int(value * strength) for value in range(256)])
    moved = int(rng.integers(-12, 13)), int(rng.integers(2, 16))
    background.paste((20, 20, 24), moved, mask.resize(coverage.size, Image.Resampling.BILINEAR))


def _plain(size: tuple[int, int], tone: Colour, rng: np.random.Generator) -> Image.Image:
    """Draw an even surface."""
    return Image.new("RGB", size, scaled(tone, float(rng.uniform(0.95, 1.02))))


def _gradient(size: tuple[int, int], tone: Colour, rng: np.random.Generator) -> Image.Image:
    """Draw a surface that fades from corner to corner."""
    corners = rng.uniform(0.72, 1.1, (2, 2, 1)) * np.array(tone)
    return _enlarged(corners, size)


def _wood(size: tuple[int, int], tone: Colour, rng: np.random.Generator) -> Image.Image:
    """Draw boards with streaks along them."""
    streaks = (
        rng.uniform(0.82, 1.05, (36, 3, 1))
        * np.repeat(rng.uniform(0.92, 1.05, 6), 6)[:, None, None]
    )
    if rng.random() < 0.5:
        streaks = streaks.transpose(1, 0, 2)
    return _enlarged(streaks * np.array(tone), size)


def _clutter(size: tuple[int, int], tone: Colour, rng: np.random.Generator) -> Image.Image:
    """Draw things far out of focus."""
    small = Image.new("RGB", (48, 48), tone)
    draw = ImageDraw.Draw(small)
    for x, y, radius in rng.uniform((0, 0, 4), (48, 48, 14), (7, 3)):
        colour = scaled(tone, float(rng.uniform(0.75, 1.1)), float(rng.uniform(-12, 12)))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return small.filter(ImageFilter.BoxBlur(1.5)).resize(size, Image.Resampling.BICUBIC)


def _table(size: tuple[int, int], tone: Colour, rng: np.random.Generator) -> Image.Image:
    """Draw a wall above and a table top below."""
    image = Image.new("RGB", size, tone)
    horizon = int(size[1] * rng.uniform(0.6, 0.85))
    image.paste(scaled(tone, float(rng.uniform(0.75, 0.95))), (0, horizon, size[0], size[1]))
    return image


def _enlarged(colours: NDArray[np.float64], size: tuple[int, int]) -> Image.Image:
    """Spread a small grid of colours over a whole image."""
    grid = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    return grid.resize(size, Image.Resampling.BICUBIC)

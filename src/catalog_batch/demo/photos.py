"""One photo of a product: the product in a pose, before a background, in some light."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catalog_batch.demo.backgrounds import cast_shadow, draw_background
from catalog_batch.demo.drawing import choose_pose, draw_cutout
from catalog_batch.demo.looks import Look
from catalog_batch.demo.outlines import Paint

NOISE_SIDE = 1024


@dataclass(frozen=True)
class Photo:
    """An upright photo before it is encoded."""

    image: Image.Image
    """Mode "RGB"."""

    coverage: Image.Image
    """Mode "L": 255 where the product is."""

    jpeg_quality: int


def take_photo(look: Look, rng: np.random.Generator) -> Photo:
    """Photograph a product: size, pose, background, light and noise at random."""
    size = choose_size(rng)
    colours, coverage = draw_cutout(look, choose_pose(size, rng), size)
    image = draw_background(size, look.colours[Paint.BODY], rng)
    if rng.random() < 0.7:
        cast_shadow(image, coverage, rng)
    image.paste(colours, mask=coverage)
    return Photo(_exposed(image, rng), coverage, int(rng.integers(62, 93)))


def choose_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a width and a height: a short side of 200 to 420 pixels, portrait or landscape."""
    short = int(rng.integers(200, 421))
    long = int(short * rng.choice((1.0, 1.15, 1.25, 1.33)))
    return (short, long) if rng.random() < 0.5 else (long, short)


def _exposed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light an image unevenly, shift its white balance and add sensor noise."""
    width, height = image.size
    falloff = rng.uniform(-0.12, 0.12, 2).astype(np.float32)
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :] * falloff[0]
    down = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None] * falloff[1]
    balance = (rng.uniform(0.86, 1.06) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    noise = _noise_crop(width, height, rng) * np.float32(rng.uniform(1.0, 6.0))
    pixels = np.asarray(image, dtype=np.float32) * balance
    pixels *= (1.0 + across + down)[:, :, None]
    pixels += noise[:, :, None]
    return Image.fromarray(np.clip(pixels, 0.0, 255.0, out=pixels).astype(np.uint8))


def _noise_crop(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut a random window out of the noise."""
    left = int(rng.integers(0, NOISE_SIDE - width))
    top = int(rng.integers(0, NOISE_SIDE - height))
    return _noise()[top : top + height, left : left + width]


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    """Make the noise that every photo takes a window of: drawing it anew would double the time."""
    return np.random.default_rng(0).standard_normal((NOISE_SIDE, NOISE_SIDE), dtype=np.float32)

"""What a stored picture looks like, in numbers: to find near duplicates, and photos of nothing.

What each number means is the comment of its column in ``schemas/tables/images.sql``.
"""

from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Below it there is nothing but noise to hash, and all plain surfaces would look alike by chance.
PLAIN_CONTRAST = 0.01
# Grey levels that each channel may differ from the border's colour and still be background.
BACKGROUND_TOLERANCE = 20
# The background and the hash, which sees coarse shapes alone, are taken from a picture whose short
# side is about this long.
_COARSE_SIDE = 64
_LEVELS = np.arange(256, dtype=np.float64)


@dataclass(frozen=True)
class Measures:
    """The measured columns of ``images``; ``perceptual_hash`` is None for a plain surface."""

    perceptual_hash: int | None
    brightness: float
    contrast: float
    sharpness: float
    entropy: float
    background_share: float


def measure(picture: Image.Image) -> Measures:
    """Measure an RGB picture of the stored size."""
    grey = picture.convert("L")
    coarse = picture.reduce(max(1, min(picture.size) // _COARSE_SIDE))
    shares = np.array(grey.histogram(), dtype=np.float64) / (grey.width * grey.height)
    mean = float(shares @ _LEVELS)
    contrast = float(np.sqrt(shares @ (_LEVELS - mean) ** 2)) / 255
    return Measures(
        perceptual_hash=_signed_phash(coarse) if contrast >= PLAIN_CONTRAST else None,
        brightness=mean / 255,
        contrast=contrast,
        sharpness=_sharpness(grey),
        entropy=_entropy(shares),
        background_share=_background_share(coarse),
    )


def _signed_phash(coarse: Image.Image) -> int:
    """Return the pHash as a signed number of 64 bits, as BIGINT holds it."""
    bits = np.packbits(imagehash.phash(coarse).hash)
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def _sharpness(grey: Image.Image) -> float:
    """Return the variance of the Laplacian; 0 where no pixel has four neighbours."""
    if min(grey.size) < 3:
        return 0.0
    luma = np.asarray(grey).astype(np.int16)
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1]
    laplacian += luma[1:-1, :-2]
    laplacian += luma[1:-1, 2:]
    laplacian -= luma[1:-1, 1:-1] << 2
    return _variance(laplacian)


def _variance(values: NDArray[np.int16]) -> float:
    flat = values.ravel().astype(np.float32)
    return max(0.0, float(flat @ flat) / flat.size - float(flat.mean(dtype=np.float64)) ** 2)


def _entropy(shares: NDArray[np.float64]) -> float:
    seen = shares[shares > 0]
    return abs(float(seen @ np.log2(seen)))


def _background_share(coarse: Image.Image) -> float:
    """Count the pixels within a tolerance of the border's median colour, per channel."""
    pixels = np.asarray(coarse).astype(np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    distance = np.abs(pixels - np.median(border, axis=0).astype(np.int16)).max(axis=2)
    return float(np.mean(distance <= BACKGROUND_TOLERANCE))

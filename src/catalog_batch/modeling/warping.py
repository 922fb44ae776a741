"""Random affine maps of pictures, each on its own, in one resampling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from catalog_batch.modeling.draws import draw_sides


@dataclass(frozen=True)
class ArticleWarp:
    """Rotate, shift, shear, zoom and mirror each picture on its own, in one resampling.

    The ranges are those of the Keras ``ImageDataGenerator`` line that fine-tuning recipes of
    2016 and later share: ``rotation_range=20, width_shift_range=0.2, height_shift_range=0.2,
    shear_range=0.2, zoom_range=0.2, horizontal_flip=True``, and like there what comes in from
    outside repeats the border. Keras reads ``shear_range`` in degrees, so its 0.2 hardly shows;
    it is taken at its word, for the line to mean here what it means there.

    Each value is drawn evenly from minus to plus its range.
    """

    rotation: float = 20.0
    """Degrees."""

    shift: float = 0.2
    """Share of width and of height, drawn apart."""

    shear: float = 0.2
    """Degrees."""

    zoom: float = 0.2
    """Around 1, drawn apart for width and height."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return warped copies; uint8 [N, H, W, 3] in and out."""
        count, height, width, _ = pictures.shape
        return warp(pictures, self._draw_affine(count, height / width, generator))

    def _draw_affine(self, count: int, aspect: float, generator: torch.Generator) -> Tensor:
        """Draw [count, 2, 3] maps; as in Keras rotation times shear times zoom, then the shift."""
        turn, shear = math.radians(self.rotation), math.radians(self.shear)
        ranges = torch.tensor([turn, self.shift, self.shift, shear, self.zoom, self.zoom])
        uniform = torch.rand(count, 6, generator=generator) * 2 - 1
        turns, shift_x, shift_y, shears, zoom_x, zoom_y = (uniform * ranges).unbind(1)
        mirror = _draw_mirror(count, generator)
        cos, sin = turns.cos(), turns.sin()
        # An angle is one in pixels, which are not square in the -1 to 1 units of a wide picture.
        columns = [
            cos * (1 + zoom_x) * mirror,
            -(turns + shears).sin() * (1 + zoom_y) * aspect,
            2 * shift_x,
            sin * (1 + zoom_x) * mirror / aspect,
            (turns + shears).cos() * (1 + zoom_y),
            2 * shift_y,
        ]
        return torch.stack(columns, dim=1).view(count, 2, 3)


@dataclass(frozen=True)
class RandomCrop:
    """Cut a random part out of each picture, enlarge it to the whole, and mirror half of them.

    The part's share of the area is drawn evenly, the logarithm of its width over its height too:
    Szegedy et al., "Going Deeper with Convolutions" (2015). They start at 8 % of the area. A
    product often fills a small part of its photo, and so little of it would miss it.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    """Least and largest share of the area."""

    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width over height, in shares of the picture's; a side ends at 1."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return enlarged parts; uint8 [N, H, W, 3] in and out."""
        count = len(pictures)
        width, height = draw_sides(count, self.scale, self.ratio, generator)
        to_side = torch.rand(count, 2, generator=generator) * 2 - 1
        none = torch.zeros(count)
        columns = [
            width * _draw_mirror(count, generator),
            none,
            (1 - width) * to_side[:, 0],
            none,
            height,
            (1 - height) * to_side[:, 1],
        ]
        return warp(pictures, torch.stack(columns, dim=1).view(count, 2, 3))


def warp(pictures: Tensor, affine: Tensor) -> Tensor:
    """Move the pixels of each picture by its affine map, in one bilinear resampling.

    What comes in from outside repeats the border. A map that shrinks a picture much leaves out
    pixels instead of averaging them: these here enlarge, or shrink by a fifth.

    Args:
        pictures: uint8 [N, H, W, 3].
        affine: float32 [N, 2, 3], from output to source points, both from -1 to 1 per axis.

    Returns:
        uint8 [N, H, W, 3] on the device of the pictures.
    """
    images = pictures.permute(0, 3, 1, 2).float()
    affine = affine.to(pictures.device, non_blocking=True)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    warped = functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return warped.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _draw_mirror(count: int, generator: torch.Generator) -> Tensor:
    """Draw [count] of 1 and of -1, which mirrors."""
    return torch.randint(0, 2, (count,), generator=generator) * 2 - 1

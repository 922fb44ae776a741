"""Random changes to training batches, on the device, in one resampling."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from catalog_batch.errors import BadInputError


class Augmentation(nn.Module):
    """No change at all: the base of the augmentations, and the one called ``none``."""

    def begin_epoch(self, epoch: int) -> None:
        """Draw from here on what belongs to ``epoch``, whatever was drawn before."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the batch, float32 [N, 3, H, W], as it is."""
        return images


class ArticleAugmentation(Augmentation):
    """Rotate, shift, shear, zoom and mirror each picture on its own, in one resampling.

    The ranges are those of the Keras ``ImageDataGenerator`` line that fine-tuning recipes of
    2016 and later share: ``rotation_range=20, width_shift_range=0.2, height_shift_range=0.2,
    shear_range=0.2, zoom_range=0.2, horizontal_flip=True``, and like there what comes in from
    outside repeats the border. Keras reads ``shear_range`` in degrees, so its 0.2 hardly shows;
    it is taken at its word, for the line to mean here what it means there.

    The draws are made on the CPU: a seed gives the same pictures on every device.
    """

    def __init__(
        self,
        seed: int,
        rotation: float = 20.0,
        shift: float = 0.2,
        shear: float = 0.2,
        zoom: float = 0.2,
    ) -> None:
        """Set the ranges; each value is drawn evenly from minus to plus its range.

        Args:
            seed: Of the draws; give each rank its own.
            rotation: Degrees.
            shift: Share of width and of height, drawn apart.
            shear: Degrees.
            zoom: Around 1, drawn apart for width and height.
        """
        super().__init__()
        self._seed = seed
        self._ranges = torch.tensor(
            [math.radians(rotation), shift, shift, math.radians(shear), zoom, zoom]
        )
        self._generator = torch.Generator().manual_seed(seed)

    def begin_epoch(self, epoch: int) -> None:
        """Draw from here on what belongs to ``epoch``, whatever was drawn before."""
        self._generator.manual_seed(self._seed * 1_000_003 + epoch)

    def forward(self, images: Tensor) -> Tensor:
        """Return changed copies of the batch, float32 [N, 3, H, W]."""
        count, _, height, width = images.shape
        affine = self._draw_affine(count, height / width).to(images.device, non_blocking=True)
        grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        return functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    def _draw_affine(self, count: int, aspect: float) -> Tensor:
        """Draw [count, 2, 3] maps from output to source points, both from -1 to 1 per axis.

        As in Keras: rotation times shear times zoom, then the shift.
        """
        uniform = torch.rand(count, 6, generator=self._generator) * 2 - 1
        turn, shift_x, shift_y, shear, zoom_x, zoom_y = (uniform * self._ranges).unbind(1)
        mirror = torch.randint(0, 2, (count,), generator=self._generator) * 2 - 1
        cos, sin = turn.cos(), turn.sin()
        # An angle is one in pixels, which are not square in the -1 to 1 units of a wide picture.
        columns = [
            cos * (1 + zoom_x) * mirror,
            -(turn + shear).sin() * (1 + zoom_y) * aspect,
            2 * shift_x,
            sin * (1 + zoom_x) * mirror / aspect,
            (turn + shear).cos() * (1 + zoom_y),
            2 * shift_y,
        ]
        return torch.stack(columns, dim=1).view(count, 2, 3)


def build_augmentation(name: Literal["article", "none"], seed: int) -> Augmentation:
    """Build the augmentation called ``name``.

    Raises:
        BadInputError: For another name.
    """
    if name == "article":
        return ArticleAugmentation(seed)
    if name == "none":
        return Augmentation()
    raise BadInputError(f"Unknown augmentation {name!r}. Use 'article' or 'none'.")

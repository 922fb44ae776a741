"""Random changes to the pictures of a training batch, each on its own, on their device."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.draws import AUGMENTATION, drawing_from, epoch_generator
from catalog_batch.modeling.preprocessing import IMAGENET_MEAN, Colour
from catalog_batch.modeling.retouching import ColourJitter, Erasing, levels
from catalog_batch.modeling.warping import ArticleWarp, RandomCrop

Step = Callable[[Tensor, torch.Generator], Tensor]
"""From pictures, uint8 [N, H, W, 3], to changed ones, with what a CPU generator draws."""


class Augmentation:
    """Steps one after the other, whose draws repeat for a seed and an epoch.

    Takes pictures as they were decoded and gives pictures: what is drawn does not depend on the
    mean and deviation that a network expects, and the result can be looked at. Without steps
    there is no change at all: that is the one called ``none``.

    The draws are made on the CPU: a seed gives the same pictures on every device, but for
    rounding and the outermost pixels of a crop.
    """

    def __init__(self, steps: Sequence[Step] = (), seed: int = 0) -> None:
        """Take the steps in order, and the seed of their draws; give each rank its own."""
        self._steps = tuple(steps)
        self._seed = seed
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int, batch: int = 0) -> None:
        """Draw from here on what belongs to ``epoch`` from a batch of it on, from 0."""
        if self._steps:  # Without any nothing is drawn, and a generator takes a while to start.
            self._generator = epoch_generator(self._seed, epoch, AUGMENTATION, batch)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return changed copies of a batch, uint8 [N, H, W, 3] on the same device."""
        # Under autocast the source points would be rounded to bfloat16: off by whole pixels.
        with torch.autocast(pictures.device.type, enabled=False):
            for step in self._steps:
                pictures = step(pictures, self._generator)
        return pictures


class PerPicture:
    """Apply a transform of torchvision's to one picture after the other, each with its own draws.

    Handed a whole batch, it would draw once and change all pictures in the same way. One after
    the other costs a CPU nothing: nearly all the time goes into the pixels.
    """

    def __init__(self, transform: Callable[[Tensor], Any]) -> None:
        """Take a transform of ``torchvision.transforms.v2`` for uint8 [3, H, W]."""
        self._transform = transform

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed copies; uint8 [N, H, W, 3] in and out."""
        with drawing_from(generator):
            images = [self._transform(image) for image in pictures.permute(0, 3, 1, 2)]
        return torch.stack(images).permute(0, 2, 3, 1).contiguous()


def build_augmentation(
    name: Literal["article", "trivial", "rand", "crop", "none"],
    seed: int,
    colour_jitter: float = 0.0,
    erasing: float = 0.0,
    mean: Colour = IMAGENET_MEAN,
) -> Augmentation:
    """Build the augmentation called ``name``, followed by what is switched on beside it.

    Args:
        name: ``article`` is ``ArticleWarp``, ``crop`` is ``RandomCrop``, ``trivial`` is Müller
            and Hutter, "TrivialAugment" (2021), ``rand`` is Cubuk et al., "RandAugment" (2020),
            2 operations of strength 9 of 31.
        seed: Of the draws; give each rank its own.
        colour_jitter: Most change of brightness, contrast and saturation; 0 is none.
        erasing: Share of pictures in which a rectangle is blanked; 0 is none.
        mean: Colour of blanks and of corners that a rotation of ``trivial`` or ``rand`` bares.

    Raises:
        BadInputError: For another name.
    """
    steps = _named_steps(name, mean)
    if colour_jitter:
        steps.append(ColourJitter(colour_jitter))
    if erasing:
        steps.append(Erasing(erasing, mean))
    return Augmentation(steps, seed)


def _named_steps(name: str, mean: Colour) -> list[Step]:
    look = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": levels(mean)}
    if name == "article":
        return [ArticleWarp()]
    if name == "trivial":
        return [PerPicture(v2.TrivialAugmentWide(**look))]
    if name == "rand":
        return [PerPicture(v2.RandAugment(num_ops=2, magnitude=9, **look))]
    if name == "crop":
        return [RandomCrop()]
    if name == "none":
        return []
    raise BadInputError(
        f"Unknown augmentation {name!r}. Use 'article', 'trivial', 'rand', 'crop' or 'none'."
    )

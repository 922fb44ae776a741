"""Two pictures of a batch become one, with the labels of both in the same shares."""

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.draws import MIXING, drawing_from, epoch_generator


class Mixing:
    """MixUp or CutMix, as torchvision has them, with draws that repeat.

    A picture's partner is the one before it in the batch: batches must be shuffled. One share is
    drawn for a batch. ``mixup`` averages the two: Zhang et al., "mixup" (2018); ``cutmix`` pastes
    a rectangle of the partner: Yun et al., "CutMix" (2019); ``both`` draws one of the two for
    each batch; ``none`` leaves pictures as they are.
    """

    def __init__(
        self,
        name: Literal["none", "mixup", "cutmix", "both"],
        num_classes: int,
        seed: int,
        alpha: float = 0.2,
    ) -> None:
        """Choose what is mixed, and how much.

        Args:
            name: ``none``, ``mixup``, ``cutmix`` or ``both``.
            num_classes: Columns of the probabilities.
            seed: Of the draws; give each rank its own.
            alpha: Of the Beta distribution of the share: 1 draws it evenly, 0.2 mostly near 0
                or 1.

        Raises:
            BadInputError: For another name.
        """
        # torch's Beta takes a whole number for an integer tensor, of which it cannot draw.
        self._transform = _transform(name, float(alpha))
        self._num_classes = num_classes
        self._seed = seed
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int, batch: int = 0) -> None:
        """Draw from here on what belongs to ``epoch`` from a batch of it on, from 0."""
        self._generator = epoch_generator(self._seed, epoch, MIXING, batch)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch with itself.

        Rows that pad a batch take part: they repeat real pictures with their real labels, so
        what a real row gets from one is as true as from any other. A row's weight stays its own.

        Args:
            images: float32 [N, 3, H, W], normalised or not.
            labels: int64 [N], class indices.

        Returns:
            The images, and float32 [N, num_classes]: each row's share of each class, in sum 1.
        """
        # Given as probabilities, not indices, `none` and the others take and give the same.
        targets = functional.one_hot(labels, self._num_classes).float()
        with drawing_from(self._generator):
            mixed, probabilities = self._transform(images, targets)
        return mixed, probabilities


def _transform(name: str, alpha: float) -> Any:
    if name == "none":
        return v2.Identity()
    if name == "mixup":
        return v2.MixUp(alpha=alpha)
    if name == "cutmix":
        return v2.CutMix(alpha=alpha)
    if name == "both":
        return v2.RandomChoice([v2.MixUp(alpha=alpha), v2.CutMix(alpha=alpha)])
    raise BadInputError(f"Unknown mixing {name!r}. Use 'none', 'mixup', 'cutmix' or 'both'.")

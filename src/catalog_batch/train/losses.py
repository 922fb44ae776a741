"""Losses over rows that may be padding, and over networks with auxiliary heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models import GoogLeNetOutputs, InceptionOutputs

from catalog_batch.errors import BadInputError

INCEPTION_AUXILIARY_WEIGHT = 0.4
"""Share of Inception v3's auxiliary loss, as its authors' released code trains it."""

GOOGLENET_AUXILIARY_WEIGHT = 0.3
"""Share of each of GoogLeNet's two auxiliary losses (Szegedy et al. 2015, section 5)."""


@dataclass(frozen=True)
class Loss:
    """Cross entropy or focal loss, as a sum over rows and the weight to divide it by.

    Targets are class indices, int64 [N], or class probabilities, float32 [N, C]. The quotient
    ``total / mass`` over any number of batches is the mean as torch's ``cross_entropy`` takes it
    over class indices: with class weights it divides by the sum of the rows' class weights.
    """

    focal_gamma: float = 0.0
    """Of the focal loss (Lin et al. 2017); 0 is cross entropy."""

    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""

    class_weights: Tensor | None = None
    """float32 [C], on the device of the logits."""

    def total(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of the rows' losses times their weights [N], in float32."""
        return (self._rows(logits.float(), targets) * weights).sum()

    def mass(self, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the sum of the rows' weights [N] times their class weights.

        A row of several classes has the mean of their class weights. Label smoothing leaves the
        mass as it is, as it does in torch.
        """
        if self.class_weights is None:
            return weights.sum()
        is_index = targets.ndim == 1
        per_row = self.class_weights[targets] if is_index else targets @ self.class_weights
        return (per_row * weights).sum()

    def _rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.focal_gamma == 0:
            return functional.cross_entropy(
                logits,
                targets,
                weight=self.class_weights,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
        classes = logits.shape[1]
        if targets.ndim == 1:
            targets = functional.one_hot(targets, classes).to(logits.dtype)
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.class_weights is not None:
            targets = targets * self.class_weights
        return focal_rows(logits, targets, self.focal_gamma)


def focal_rows(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return each row's focal loss: cross entropy, times (1 - p) ** gamma class by class.

    Args:
        logits: float32 [N, C].
        targets: float32 [N, C], what each class counts.
        gamma: How much less a class counts that is predicted already.
    """
    log_shares = functional.log_softmax(logits, dim=1)
    # A power below 1 has no slope at 0: a row that is certain would give a gradient of NaN.
    missing = (-torch.expm1(log_shares)).clamp(min=torch.finfo(logits.dtype).eps)
    return -(targets * missing**gamma * log_shares).sum(dim=1)


def balanced_class_weights(rows: Sequence[int]) -> Tensor:
    """Weigh each class by the inverse of its share of the rows: N / (C * rows), float32 [C].

    The mean weight of a row is 1.

    Raises:
        BadInputError: For a class without rows.
    """
    if not rows or min(rows) < 1:
        raise BadInputError(
            f"Classes cannot be balanced by their rows {list(rows)}: each needs at least one. "
            "Label images of the missing ones, or set class_weights = 'none'."
        )
    return torch.tensor([sum(rows) / (len(rows) * count) for count in rows])


def split_outputs(outputs: object) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """Return the logits, and the auxiliary heads' logits with each one's share of the loss."""
    if isinstance(outputs, InceptionOutputs):
        return outputs.logits, [(INCEPTION_AUXILIARY_WEIGHT, outputs.aux_logits)]
    if isinstance(outputs, GoogLeNetOutputs):
        heads = (outputs.aux_logits1, outputs.aux_logits2)
        return outputs.logits, [(GOOGLENET_AUXILIARY_WEIGHT, head) for head in heads]
    assert isinstance(outputs, Tensor)
    return outputs, []

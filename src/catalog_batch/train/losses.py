"""Cross entropy over rows that may be padding, and over networks with auxiliary heads."""

from torch import Tensor
from torch.nn import functional
from torchvision.models import GoogLeNetOutputs, InceptionOutputs

INCEPTION_AUXILIARY_WEIGHT = 0.4
"""Share of Inception v3's auxiliary loss, as its authors' released code trains it."""

GOOGLENET_AUXILIARY_WEIGHT = 0.3
"""Share of each of GoogLeNet's two auxiliary losses (Szegedy et al. 2015, section 5)."""


def split_outputs(outputs: object) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """Return the logits, and the auxiliary heads' logits with each one's share of the loss."""
    if isinstance(outputs, InceptionOutputs):
        return outputs.logits, [(INCEPTION_AUXILIARY_WEIGHT, outputs.aux_logits)]
    if isinstance(outputs, GoogLeNetOutputs):
        heads = (outputs.aux_logits1, outputs.aux_logits2)
        return outputs.logits, [(GOOGLENET_AUXILIARY_WEIGHT, head) for head in heads]
    assert isinstance(outputs, Tensor)
    return outputs, []


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of the rows' cross entropies times their weights, in float32."""
    rows = functional.cross_entropy(logits.float(), labels, reduction="none")
    return (rows * weights).sum()

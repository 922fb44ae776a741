"""Networks that PyTorch runs, as each variant has them."""

import torch
from torch import Tensor, nn

from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.variants import AS_TRAINED, Variant


class Normalised(nn.Module):
    """A network that normalises the pictures it is given, as a graph does."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """Take a network and the preprocessing of its bundle."""
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [N, C] for pictures, uint8 [N, S, S, 3]."""
        logits: Tensor = self.network(self.preprocessing.normalise(pixels))
        return logits


def torch_network(network: nn.Module, variant: Variant) -> nn.Module:
    """Return a network as a variant that PyTorch runs has it; the given one may be changed.

    Convolutions are 1.3 to 1.8 times faster in channels-last order, the order of the pictures.

    Args:
        network: As trained, in eval mode.
        variant: One whose engine is ``torch``.
    """
    if variant.name != AS_TRAINED:
        from torch.fx.experimental import optimization  # slow to import, as PyTorch's compiler is

        # Copies it; what cannot be traced raises errors of many kinds.
        network = optimization.fuse(network)
    if variant.precision == "bf16":
        network = _InBfloat16(network)
    return network.to(memory_format=torch.channels_last).eval()


class _InBfloat16(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.bfloat16()

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(batch.bfloat16())
        return logits.float()

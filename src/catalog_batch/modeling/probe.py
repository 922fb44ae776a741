"""A linear probe: the backbone runs once over the images, then a head is fitted on that alone.

Right only while the backbone stays fixed and the images are not augmented.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from catalog_batch.modeling.heads import head_layers, is_within, main_head


class Probe(nn.Sequential):
    """What is trained of a network with a fixed backbone: the main head and dropout before it.

    The layers are the network's own: what the probe learns, the network has learnt. It takes what
    ``features`` gives, or a batch of such rows, and returns the logits [N, C].
    """

    def __init__(self, network: nn.Module) -> None:
        """Take the layers of a network from ``build_network``, without a parallel wrapper."""
        parent, _, name = main_head(network).rpartition(".")
        siblings = list(network.get_submodule(parent).named_children())
        last = [child for child, _ in siblings].index(name)
        first = last
        # Elsewhere than in a Sequential, neighbours need not follow each other.
        if isinstance(network.get_submodule(parent), nn.Sequential):
            while first > 0 and isinstance(siblings[first - 1][1], nn.Dropout):
                first -= 1
        super().__init__(OrderedDict(siblings[first : last + 1]))
        self.prefix = f"{parent}." if parent else ""
        """Of the names that the layers have in the network."""

    def forward(self, given: Tensor) -> Tensor:
        """Return the logits [N, C] for features."""
        for layer in self:
            given = layer(given)
        return given.flatten(1)  # of SqueezeNet the network itself drops the two last dimensions

    def layers(self) -> tuple[str, ...]:
        """Return the names that the layers have in the network."""
        return tuple(f"{self.prefix}{name}" for name, _ in self.named_children())

    def names_in_network(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of a probe, or of an average of it, the names of the network's."""
        return {f"{self.prefix}{name}": tensor for name, tensor in weights.items()}


def obstacle(network: nn.Module) -> str:
    """Say what keeps a probe from learning what the network with a fixed backbone would.

    Args:
        network: From ``build_network``, without a data parallel wrapper.

    Returns:
        Auxiliary heads, or layers that draw at random in training; empty when there is nothing.
    """
    _, *auxiliary = head_layers(network)
    if auxiliary:
        return f"auxiliary heads {auxiliary}"
    trained = Probe(network).layers()
    drawing = [
        name
        for name, module in network.named_modules()
        if _draws(module) and not is_within(name, trained)
    ]
    return f"layers that draw at random, such as {drawing[0]!r}" if drawing else ""


def _draws(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0)
    return isinstance(module, _DropoutNd | StochasticDepth) and bool(module.p > 0)


@torch.no_grad()
def features(network: nn.Module, probe: Probe, batch: Tensor) -> Tensor:
    """Return what a network's probe is given for a batch; puts the network in eval mode.

    Args:
        network: The one that the probe was made of, without a data parallel wrapper.
        probe: Of it.
        batch: Normalised images, float32 [N, 3, S, S], on the network's device.

    Returns:
        [N, D], ready to train on; of SqueezeNet maps, [N, D, H, W] or [N, D, 1, 1]. D is 512
        for ResNet-18, 1,280 for MobileNet v2; for VGG with the article head 25,088, 100 KB a
        picture.
    """
    seen: list[Tensor] = []
    network.eval()
    hook = probe[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        network(batch)
    finally:
        hook.remove()
    [given] = seen
    return given

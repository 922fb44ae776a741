"""A linear probe: the backbone runs once over the images, then a head is fitted on that alone.

Right only while the backbone stays fixed and the images are not augmented. Dropout that stands
before a linear head (MobileNet, EfficientNet, VGG) is part of the backbone here, and so is off.
"""

import torch
from torch import Tensor, nn

from catalog_batch.modeling.heads import main_head


@torch.no_grad()
def features(network: nn.Module, batch: Tensor) -> Tensor:
    """Return what the main head is given for a batch; puts the network in eval mode.

    Args:
        network: From ``build_network``, without a data parallel wrapper.
        batch: Normalised images, float32 [N, 3, S, S], on the network's device.

    Returns:
        [N, D], ready to train on; of SqueezeNet maps, [N, D, H, W] or [N, D, 1, 1]. D is 512
        for ResNet-18, 768 for Swin-T; for VGG with the article head 25,088, 100 KB a picture.
    """
    seen: list[Tensor] = []
    network.eval()
    hook = head_of(network).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        network(batch)
    finally:
        hook.remove()
    [given] = seen
    return given


def head_of(network: nn.Module) -> nn.Module:
    """Return the main head itself: its mode and parameters are the network's."""
    return network.get_submodule(main_head(network))


def logits_of(head: nn.Module, given: Tensor) -> Tensor:
    """Return the logits [N, C] that a head, or its data parallel wrapper, gives for features."""
    logits: Tensor = head(given)
    return logits.flatten(1)  # of SqueezeNet the network itself drops the two last dimensions

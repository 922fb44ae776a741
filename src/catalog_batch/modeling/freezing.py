"""Which layers are trained in which epoch, and which batch norms keep their statistics."""

import difflib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.heads import head_layers, is_within

_CONTAINERS = {
    "features",
    "layers",
    "trunk_output",
    "blocks",
    "encoder",
    "encoder.layers",
    "classifier",
    "heads",
}
"""Modules of torchvision's classifiers that only line up blocks. A stage of a residual network
(``layer1``, ``stage2``) is a block itself."""

_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


class Freezing:
    """Keep the lower layers of a network as they are, for all of a run or block by block.

    A block is what stands at the top level of a network, or of a container such as VGG's
    ``features``: in ResNet ``conv1`` with ``bn1``, then ``layer1`` to ``layer4``. A norm of its
    own goes with the block before it, and what a vision transformer learns about places with the
    first one. The order is that of the forward pass. Heads, auxiliary ones too, are always
    trained.
    """

    def __init__(
        self,
        network: nn.Module,
        freeze: str = "none",
        unfreeze_every: int = 0,
        freeze_statistics: bool = False,
    ) -> None:
        """Work out what is fixed in which epoch; the network stays as it is.

        Args:
            network: From ``build_network``, without a data parallel wrapper.
            freeze: ``none``, ``backbone`` (all but the heads), or the dotted name of the last
                layer that is fixed, such as ``layer3`` or ``features.4``.
            unfreeze_every: Epochs after which one more block is trained, from the head down;
                0 never.
            freeze_statistics: Whether all batch norms keep their statistics, fixed or not.

        Raises:
            BadInputError: When ``freeze`` names no layer, or a part of a head.
        """
        self._unfreeze_every = unfreeze_every
        self._freeze_statistics = freeze_statistics
        self._stages = _stages(network, _fixed_modules(network, freeze))

    def set_mode(self, network: nn.Module, epoch: int) -> None:
        """Put the network in training mode for ``epoch``: call it at the start of each.

        Parameters of fixed layers need no gradient, and their batch norms are in eval mode.
        Dropout and stochastic depth stay on everywhere, as they were when the weights were made.

        Args:
            network: The one given at first, without a data parallel wrapper.
            epoch: Counted from 0.
        """
        fixed = self._stage(epoch)
        network.train()
        for name, module in network.named_modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(name not in fixed)
            if isinstance(module, _BatchNorm) and (self._freeze_statistics or name in fixed):
                module.eval()

    def changes_at(self, epoch: int) -> bool:
        """Say whether other layers are trained in ``epoch`` than in the one before.

        A data parallel wrapper looks at what needs a gradient only when it is made: make a new
        one after ``set_mode`` then.
        """
        return epoch > 0 and self._stage(epoch) != self._stage(epoch - 1)

    def _stage(self, epoch: int) -> frozenset[str]:
        stage = epoch // self._unfreeze_every if self._unfreeze_every else 0
        return self._stages[min(stage, len(self._stages) - 1)]


def _fixed_modules(network: nn.Module, freeze: str) -> frozenset[str]:
    """Return the names of the modules that ``freeze`` fixes; the network's own name is empty."""
    heads = head_layers(network)
    names = [name for name, _ in network.named_modules()]
    if freeze == "none":
        return frozenset()
    if freeze == "backbone":
        return frozenset(name for name in names if not is_within(name, heads))
    if freeze not in names or not freeze:
        known = [name for name in names if name and not is_within(name, heads)]
        nearest = difflib.get_close_matches(freeze, known, n=3, cutoff=0.3)
        raise BadInputError(
            f"train.freeze is {freeze!r}, and {type(network).__name__} has no such layer. "
            f"Use 'none', 'backbone' or a layer, such as {', '.join(nearest or known[:3])}."
        )
    if is_within(freeze, heads) or any(is_within(head, (freeze,)) for head in heads):
        raise BadInputError(
            f"train.freeze is {freeze!r}, which is or holds a head of {type(network).__name__}. "
            "Use 'backbone' to train the heads alone."
        )
    last = max(place for place, name in enumerate(names) if is_within(name, (freeze,)))
    return frozenset(name for name in names[: last + 1] if not is_within(name, heads))


def _stages(network: nn.Module, fixed: frozenset[str]) -> list[frozenset[str]]:
    """Return the fixed modules at first, with one block less, and so on to none."""
    blocks = [block & fixed for block in _blocks(network) if block & fixed]
    return [frozenset().union(*blocks[:count]) for count in range(len(blocks), -1, -1)]


def _blocks(network: nn.Module) -> list[frozenset[str]]:
    """Return the names of each block's modules, from the images up, heads left out."""
    starts = set(_block_starts(network))
    heads = head_layers(network)
    blocks: list[set[str]] = [set()]
    for name, _ in network.named_modules():
        if is_within(name, heads):
            continue
        # What comes before the first block, such as the network's own tokens, joins it.
        if name in starts and starts & blocks[-1]:
            blocks.append(set())
        blocks[-1].add(name)
    return [frozenset(block) for block in blocks]


def _block_starts(parent: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the name of each block's first module."""
    for child, module in parent.named_children():
        name = prefix + child
        if name in _CONTAINERS:
            yield from _block_starts(module, f"{name}.")
        elif any(True for _ in module.parameters()) and not isinstance(module, _NORMS):
            yield name

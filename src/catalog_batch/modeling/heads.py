"""What turns a network's features into logits: where it is, and the article's form of it."""

from typing import Literal, get_args

from torch import nn
from torchvision.models import VGG, AlexNet, SqueezeNet

from catalog_batch.errors import BadInputError

Head = Literal["linear", "article"]

ARTICLE_WIDTH = 512
ARTICLE_DROPOUT = 0.5

_AUXILIARY_BRANCHES = ("AuxLogits", "aux1", "aux2")
_AUXILIARY_CLASSIFIERS = ("AuxLogits.fc", "aux1.fc2", "aux2.fc2")


class ArticleHead(nn.Sequential):
    """Flatten, dense 512, ReLU, dropout 0.5, dense: the head of fine-tuning recipes since 2016."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        """Build it with fresh weights for ``in_features`` numbers a picture."""
        super().__init__(
            nn.Flatten(),
            nn.Linear(in_features, ARTICLE_WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout(ARTICLE_DROPOUT),
            nn.Linear(ARTICLE_WIDTH, num_classes),
        )


def refuse_unknown_head(head: str) -> None:
    """Check the name of a head.

    Raises:
        BadInputError: For another name than ``linear`` and ``article``.
    """
    if head not in get_args(Head):
        raise BadInputError(f"Unknown head {head!r}. Use 'linear' or 'article'.")


def put_article_head(network: nn.Module, num_classes: int) -> None:
    """Replace the final classifier of a torchvision network by an ``ArticleHead``.

    In VGG and AlexNet that is all after the feature maps, which the article flattens. In
    SqueezeNet, whose last layer is a convolution, the maps are averaged first. Elsewhere it is
    the last linear layer, so that what comes before it, a norm or a dense layer, is kept.
    Auxiliary heads stay as they are.
    """
    if isinstance(network, SqueezeNet):
        channels = network.classifier[1].in_channels
        network.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ArticleHead(channels, num_classes)
        )
    elif isinstance(network, VGG | AlexNet):
        first = next(layer for layer in network.classifier if isinstance(layer, nn.Linear))
        network.classifier = ArticleHead(first.in_features, num_classes)
    else:
        name = classifier_name(network)
        last = network.get_submodule(name)
        assert isinstance(last, nn.Linear)
        network.set_submodule(name, ArticleHead(last.in_features, num_classes))


def classifier_name(network: nn.Module) -> str:
    """Return the dotted name of the layer that gives the logits: the last linear or 1x1 one."""
    layers = (nn.Linear, nn.Conv2d)
    names = [name for name, module in network.named_modules() if isinstance(module, layers)]
    return str(names[-1])


def output_layers(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers with one row a class: main classifier, auxiliary ones."""
    return classifier_name(network), *_present(network, _AUXILIARY_CLASSIFIERS)


def main_head(network: nn.Module) -> str:
    """Return the dotted name of the module that takes features and gives the logits.

    For the linear head that is the last layer; in SqueezeNet all of ``classifier``, which ends
    with activation and pooling.
    """
    for name, module in network.named_modules():
        if isinstance(module, ArticleHead):
            return str(name)
    return "classifier" if isinstance(network, SqueezeNet) else classifier_name(network)


def head_layers(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of all that is head and not backbone, the main head first.

    An auxiliary head is named whole, with the convolutions that only it uses. Every parameter
    whose name is one of these names, a dot and something more belongs to a head.

    Args:
        network: From ``build_network``, without a data parallel wrapper.
    """
    return main_head(network), *_present(network, _AUXILIARY_BRANCHES)


def is_within(name: str, layers: tuple[str, ...]) -> bool:
    """Say whether a module's or parameter's name is one of ``layers`` or inside one."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def is_auxiliary(name: str) -> bool:
    """Say whether a module or parameter belongs to an auxiliary head."""
    return is_within(name, _AUXILIARY_BRANCHES)


def _present(network: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    known = dict(network.named_modules())
    return tuple(name for name in names if name in known)

"""Both heads of every family: one step trains what it should, wherever the head stands."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.freezing import Freezing
from catalog_batch.modeling.heads import ArticleHead, head_layers, output_layers
from catalog_batch.modeling.networks import build_network
from catalog_batch.train.losses import split_outputs

torch.set_num_threads(1)

FAMILIES = [
    ("vgg16", 32, ("classifier.6",), ("classifier",)),
    ("resnet18", 32, ("fc",), ("fc",)),
    ("resnet50", 32, ("fc",), ("fc",)),
    ("inception_v3", 299, ("fc", "AuxLogits"), ("fc", "AuxLogits")),
    ("googlenet", 64, ("fc", "aux1", "aux2"), ("fc", "aux1", "aux2")),
    ("mobilenet_v2", 32, ("classifier.1",), ("classifier.1",)),
    ("mobilenet_v3_small", 32, ("classifier.3",), ("classifier.3",)),
    ("efficientnet_b0", 32, ("classifier.1",), ("classifier.1",)),
    ("convnext_tiny", 32, ("classifier.2",), ("classifier.2",)),
    ("swin_t", 32, ("head",), ("head",)),
    ("squeezenet1_1", 32, ("classifier",), ("classifier.1",)),
]
"""Architecture, side, and the head's layers when it is linear and when it is the article's."""


def take_a_step(network: nn.Module, side: int) -> None:
    """Train on two images with the loss of all heads, by the sign of the gradient alone."""
    logits, auxiliary = split_outputs(network(torch.randn(2, 3, side, side)))
    labels = torch.tensor([0, 2])
    loss = functional.cross_entropy(logits, labels)
    loss = loss + sum(share * functional.cross_entropy(it, labels) for share, it in auxiliary)
    torch.autograd.backward(loss)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad.sign()


@pytest.mark.parametrize("head", ["linear", "article"])
@pytest.mark.parametrize(("architecture", "side", "linear", "article"), FAMILIES)
def test_a_frozen_backbone_leaves_a_step_to_the_heads_until_it_is_thawed(
    architecture: str, side: int, linear: tuple[str, ...], article: tuple[str, ...], head: str
) -> None:
    torch.manual_seed(3)
    network = build_network(architecture, 3, image_side=side, head=head)
    heads = head_layers(network)
    assert heads == (linear if head == "linear" else article)
    Freezing(network, "backbone").set_mode(network, epoch=0)
    sums = {name: value.sum() for name, value in network.state_dict().items()}
    in_head = {name for name in sums if name.startswith(tuple(f"{it}." for it in heads))}
    outputs = {f"{layer}.weight" for layer in output_layers(network)}
    assert outputs <= in_head

    take_a_step(network, side)

    state = network.state_dict()
    changed = {name for name in sums if not torch.equal(state[name].sum(), sums[name])}
    assert changed <= in_head
    assert outputs <= changed
    assert state[f"{output_layers(network)[0]}.bias"].shape == (3,)

    if head == "article":  # a whole step through both would only repeat itself
        Freezing(network).set_mode(network, epoch=1)
        take_a_step(network, side)
        first = next(name for name, value in network.named_parameters() if value.dim() == 4)
        assert not torch.equal(network.state_dict()[first].sum(), sums[first])


@pytest.mark.parametrize(
    ("architecture", "features"),
    [
        ("vgg11", 512 * 7 * 7),
        ("alexnet", 256 * 6 * 6),
        ("resnet18", 512),
        ("squeezenet1_1", 512),
        ("vit_b_32", 768),
        ("mobilenet_v3_small", 1024),
    ],
)
def test_the_article_head_is_flatten_dense_512_relu_dropout_dense(
    architecture: str, features: int
) -> None:
    with torch.device("meta"):
        network = build_network(architecture, 7, head="article")
    head = network.get_submodule(head_layers(network)[0])
    assert isinstance(head, ArticleHead)
    flatten, dense, relu, dropout, last = head
    assert isinstance(flatten, nn.Flatten)
    assert isinstance(relu, nn.ReLU)
    assert (dense.in_features, dense.out_features) == (features, 512)
    assert dropout.p == 0.5
    assert (last.in_features, last.out_features) == (512, 7)


def test_vgg_loses_its_own_dense_layers_to_the_article_head() -> None:
    with torch.device("meta"):
        network = build_network("vgg11", 3, head="article")
    assert [name for name, _ in network.named_children()] == ["features", "avgpool", "classifier"]
    assert sum(isinstance(module, nn.Linear) for module in network.modules()) == 2


def test_inception_below_299_has_no_auxiliary_head() -> None:
    assert head_layers(build_network("inception_v3", 3, image_side=128)) == ("fc",)


def test_another_head_is_refused_by_name() -> None:
    with pytest.raises(BadInputError, match=r"'deep'\. Use 'linear' or 'article'"):
        build_network("resnet18", 3, head="deep")

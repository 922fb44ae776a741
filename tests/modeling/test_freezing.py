from collections.abc import Iterator

import pytest
import torch
from torch import nn

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.freezing import Freezing
from catalog_batch.modeling.heads import head_layers, is_within
from catalog_batch.modeling.networks import build_network

torch.set_num_threads(1)


def outline(architecture: str, side: int = 0, head: str = "linear") -> nn.Module:
    """Build a network without memory: names, shapes and order are all there."""
    with torch.device("meta"):
        return build_network(architecture, 3, image_side=side, head=head)


def trained(network: nn.Module) -> set[str]:
    return {name for name, value in network.named_parameters() if value.requires_grad}


def thawed_by_epoch(network: nn.Module) -> Iterator[set[str]]:
    """Yield what each further epoch trains, one block an epoch, until nothing is fixed."""
    freezing = Freezing(network, "backbone", unfreeze_every=1)
    before: set[str] = set()
    for epoch in range(100):
        freezing.set_mode(network, epoch)
        if trained(network) == before:
            return
        yield trained(network) - before
        before = trained(network)


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ("resnet18", ["layer4", "layer3", "layer2", "layer1", "conv1 bn1"]),
        ("vgg11", [f"features.{index}" for index in (18, 16, 13, 11, 8, 6, 3, 0)]),
        ("vgg11_bn", [f"features.{i} features.{i + 1}" for i in (25, 22, 18, 15, 11, 8, 4, 0)]),
        ("mobilenet_v2", [f"features.{index}" for index in range(18, -1, -1)]),
        ("mobilenet_v3_small", [f"features.{index}" for index in range(12, -1, -1)]),
        ("swin_t", ["features.7 norm", *(f"features.{index}" for index in range(6, -1, -1))]),
        (
            "convnext_tiny",
            ["features.7 classifier.0", *(f"features.{index}" for index in range(6, -1, -1))],
        ),
        (
            "inception_v3",
            [
                *(f"Mixed_7{letter}" for letter in "cba"),
                *(f"Mixed_6{letter}" for letter in "edcba"),
                *(f"Mixed_5{letter}" for letter in "dcb"),
                "Conv2d_4a_3x3",
                "Conv2d_3b_1x1",
                "Conv2d_2b_3x3",
                "Conv2d_2a_3x3",
                "Conv2d_1a_3x3",
            ],
        ),
    ],
)
def test_one_block_an_epoch_is_trained_from_the_head_down(
    architecture: str, blocks: list[str]
) -> None:
    head = "article" if architecture.startswith("vgg") else "linear"
    if architecture == "mobilenet_v3_small":
        blocks = ["classifier.0", *blocks]
    network = outline(architecture, head=head)
    heads = head_layers(network)
    first, *rest = thawed_by_epoch(network)
    assert all(is_within(name, heads) for name in first)
    found = [
        {block for block in blocks if any(is_within(name, tuple(block.split())) for name in names)}
        for names in rest
    ]
    assert found == [{block} for block in blocks]
    assert all(
        is_within(name, tuple(block.split()))
        for names, block in zip(rest, blocks, strict=True)
        for name in names
    )


@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        ("resnet18", 32),
        ("resnext50_32x4d", 32),
        ("vgg11_bn", 32),
        ("alexnet", 64),
        ("mobilenet_v2", 32),
        ("mobilenet_v3_large", 32),
        ("efficientnet_b0", 32),
        ("efficientnet_v2_s", 32),
        ("mnasnet0_5", 32),
        ("shufflenet_v2_x0_5", 32),
        ("squeezenet1_1", 32),
        ("densenet121", 32),
        ("inception_v3", 299),
        ("googlenet", 64),
        ("convnext_tiny", 32),
        ("swin_t", 32),
        ("swin_v2_t", 32),
        ("vit_b_32", 32),
        ("maxvit_t", 224),
    ],
)
def test_at_no_time_is_a_layer_fixed_above_one_that_is_trained(
    architecture: str, side: int
) -> None:
    network = outline(architecture, side)
    heads = head_layers(network)
    order: list[str] = []
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    network.eval()(torch.zeros(2, 3, side, side, device="meta"))
    order = [name for name in order if not is_within(name, heads)]
    steps = 0
    for _ in thawed_by_epoch(network):
        names = {name.rpartition(".")[0] for name in trained(network)}
        at_work = [name in names for name in order]
        assert at_work == sorted(at_work)
        steps += 1
    assert steps > 4
    assert trained(network) == {name for name, _ in network.named_parameters()}


def test_the_first_token_of_a_transformer_is_trained_with_the_first_block() -> None:
    network = outline("vit_b_32")
    *_, last = thawed_by_epoch(network)
    assert last == {
        "class_token",
        "encoder.pos_embedding",
        "conv_proj.weight",
        "conv_proj.bias",
    }


@pytest.mark.parametrize(
    ("freeze", "first_trained"),
    [
        ("none", "conv1.weight"),
        ("conv1", "bn1.weight"),
        ("maxpool", "layer1.0.conv1.weight"),
        ("layer3", "layer4.0.conv1.weight"),
        ("layer4.0", "layer4.1.conv1.weight"),
        ("avgpool", "fc.weight"),
        ("backbone", "fc.weight"),
    ],
)
def test_all_up_to_the_named_layer_is_fixed(freeze: str, first_trained: str) -> None:
    network = outline("resnet18")
    Freezing(network, freeze).set_mode(network, epoch=7)
    names = [name for name, _ in network.named_parameters()]
    assert trained(network) == set(names[names.index(first_trained) :])


def test_a_block_that_is_fixed_in_part_is_trained_whole_first() -> None:
    network = outline("resnet18")
    freezing = Freezing(network, "layer4.0", unfreeze_every=2)
    freezing.set_mode(network, epoch=1)
    assert "layer4.0.conv1.weight" not in trained(network)
    freezing.set_mode(network, epoch=2)
    assert "layer4.0.conv1.weight" in trained(network)
    assert "layer3.1.conv2.weight" not in trained(network)


def test_changes_are_told_when_they_come_and_at_no_other_time() -> None:
    freezing = Freezing(outline("resnet18"), "layer2", unfreeze_every=2)
    assert [epoch for epoch in range(12) if freezing.changes_at(epoch)] == [2, 4, 6]
    assert not any(Freezing(outline("resnet18"), "layer2").changes_at(it) for it in range(12))


def test_fixed_batch_norms_keep_their_statistics_and_the_others_move() -> None:
    network = build_network("resnet18", 3)
    freezing = Freezing(network, "layer2")
    network.eval()
    freezing.set_mode(network, epoch=0)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(4, 3, 32, 32) + 3)
    moved = {
        name.partition(".")[0]
        for name, value in network.named_buffers()
        if not torch.equal(value, before[name])
    }
    assert moved == {"layer3", "layer4"}


def test_all_batch_norms_keep_their_statistics_and_are_trained_if_that_is_asked_for() -> None:
    network = build_network("resnet18", 3)
    Freezing(network, freeze_statistics=True).set_mode(network, epoch=0)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(4, 3, 32, 32) + 3).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert network.bn1.weight.grad.abs().sum() > 0


def test_dropout_stays_on_in_fixed_layers() -> None:
    network = outline("vgg11")
    Freezing(network, "backbone").set_mode(network, epoch=0)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("freeze", "match"),
    [
        ("layer9", r"'layer9', and ResNet has no such layer.*layer\d"),
        ("", "has no such layer"),
        ("Backbone", "has no such layer"),
        ("fc", r"'fc', which is or holds a head.*Use 'backbone'"),
    ],
)
def test_a_layer_that_cannot_be_frozen_is_refused(freeze: str, match: str) -> None:
    with pytest.raises(BadInputError, match=match):
        Freezing(outline("resnet18"), freeze)


@pytest.mark.parametrize("freeze", ["AuxLogits", "AuxLogits.conv0", "fc"])
def test_an_auxiliary_head_is_no_layer_to_freeze_up_to(freeze: str) -> None:
    with pytest.raises(BadInputError, match="is or holds a head"):
        Freezing(outline("inception_v3"), freeze)


def test_what_holds_the_head_is_no_layer_to_freeze_up_to() -> None:
    with pytest.raises(BadInputError, match="is or holds a head of MobileNetV2"):
        Freezing(outline("mobilenet_v2"), "classifier")

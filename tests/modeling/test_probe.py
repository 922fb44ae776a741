import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from catalog_batch.modeling.freezing import Freezing
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.probe import Probe, features, obstacle

torch.set_num_threads(1)


@pytest.mark.parametrize("head", ["linear", "article"])
@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "mobilenet_v2", "vgg11", "convnext_tiny", "swin_t", "squeezenet1_1", "googlenet"],
)
def test_the_probe_on_the_features_gives_the_networks_logits(architecture: str, head: str) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 4, image_side=64, head=head).train()
    batch = torch.randn(2, 3, 64, 64)
    probe = Probe(network)
    given = features(network, probe, batch)
    with torch.no_grad():
        assert torch.equal(probe(given), network.eval()(batch))


def logits_in_training(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    Freezing(network, "backbone").set_mode(network, 0)
    torch.manual_seed(3)
    outputs: torch.Tensor = network(batch)
    return outputs


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("resnet18", "linear"),
        ("mobilenet_v3_small", "linear"),
        ("mobilenet_v2", "article"),
        ("vgg11", "article"),
        ("squeezenet1_1", "linear"),
        ("shufflenet_v2_x0_5", "linear"),
    ],
)
def test_where_nothing_is_in_the_way_dropout_in_training_is_the_networks_own(
    architecture: str, head: str
) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 4, image_side=64, head=head)
    batch = torch.randn(2, 3, 64, 64)
    assert obstacle(network) == ""
    probe = Probe(network)
    given = features(network, probe, batch)
    expected = logits_in_training(network, batch)
    torch.manual_seed(3)
    torch.testing.assert_close(probe.train()(given), expected)


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("googlenet", r"auxiliary heads \['aux1', 'aux2'\]"),
        ("vgg11", "draw at random, such as 'classifier.2'"),
        ("swin_t", "draw at random, such as 'features.1.1.stochastic_depth'"),
        ("efficientnet_b0", "draw at random, such as 'features.2.0.stochastic_depth'"),
    ],
)
def test_what_is_in_the_way_of_a_probe_is_named(architecture: str, what: str) -> None:
    assert re.search(what, obstacle(build_network(architecture, 4, image_side=64)))


def test_the_weights_of_a_probe_have_the_networks_names() -> None:
    for architecture in ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "vit_b_16"):
        with torch.device("meta"):
            network = build_network(architecture, 4)
            probe = Probe(network)
        weights = probe.names_in_network(probe.state_dict())
        own = network.state_dict()
        assert weights and set(weights) <= set(own)
        assert [own[name].shape for name in weights] == [t.shape for t in weights.values()]


def test_features_are_those_of_eval_mode_and_leave_no_hook_behind() -> None:
    network = build_network("resnet18", 4).train()
    statistics = network.bn1.running_mean.clone()
    probe = Probe(network)
    assert features(network, probe, torch.randn(2, 3, 32, 32)).shape == (2, 512)
    assert torch.equal(network.bn1.running_mean, statistics)
    assert not probe[0]._forward_pre_hooks


def test_a_probe_fitted_on_features_classifies_in_the_network() -> None:
    torch.manual_seed(0)
    network = build_network("resnet18", 2)
    images = torch.cat([torch.randn(6, 3, 32, 32) - 1, torch.randn(6, 3, 32, 32) + 1])
    labels = torch.tensor([0] * 6 + [1] * 6)
    probe = Probe(network).train()
    given = features(network, probe, images)
    backbone = network.conv1.weight.clone()
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(probe(given), labels))
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(network.eval()(images).argmax(dim=1), labels)
    assert torch.equal(network.conv1.weight, backbone)

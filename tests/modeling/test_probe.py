import pytest
import torch
from torch.nn import functional

from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.probe import features, head_of, logits_of

torch.set_num_threads(1)


@pytest.mark.parametrize("head", ["linear", "article"])
@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "mobilenet_v2", "vgg11", "convnext_tiny", "swin_t", "squeezenet1_1", "googlenet"],
)
def test_the_head_on_the_features_gives_the_networks_logits(architecture: str, head: str) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 4, image_side=64, head=head).train()
    batch = torch.randn(2, 3, 64, 64)
    given = features(network, batch)
    with torch.no_grad():
        assert torch.equal(logits_of(head_of(network), given), network.eval()(batch))


def test_features_are_those_of_eval_mode_and_leave_no_hook_behind() -> None:
    network = build_network("resnet18", 4).train()
    statistics = network.bn1.running_mean.clone()
    batch = torch.randn(2, 3, 32, 32)
    assert features(network, batch).shape == (2, 512)
    assert torch.equal(network.bn1.running_mean, statistics)
    assert not head_of(network)._forward_pre_hooks


def test_a_head_fitted_on_features_classifies_in_the_network() -> None:
    torch.manual_seed(0)
    network = build_network("resnet18", 2)
    images = torch.cat([torch.randn(6, 3, 32, 32) - 1, torch.randn(6, 3, 32, 32) + 1])
    labels = torch.tensor([0] * 6 + [1] * 6)
    given = features(network, images)
    backbone = network.conv1.weight.clone()
    head = head_of(network).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(logits_of(head, given), labels))
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(network.eval()(images).argmax(dim=1), labels)
    assert torch.equal(network.conv1.weight, backbone)

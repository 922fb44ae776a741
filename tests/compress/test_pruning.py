import numpy as np
import pytest
import torch
from tests.compress.shop import pictures, spec_of_trained, trained_network
from tests.promotion.shop import SIDE

from catalog_batch.compress.pruning import pruned_network, teach
from catalog_batch.errors import TrainingDataError
from catalog_batch.modeling.networks import build_network

torch.set_num_threads(1)
PREPROCESSING = spec_of_trained().preprocessing
PIXELS = torch.from_numpy(np.stack(pictures(32)))


def agreement(one: torch.nn.Module, other: torch.nn.Module) -> float:
    with torch.inference_mode():
        batch = PREPROCESSING.normalise(PIXELS)
        return float((one(batch).argmax(1) == other(batch).argmax(1)).float().mean())


def energies_apart(one: torch.nn.Module, other: torch.nn.Module) -> float:
    with torch.inference_mode():
        batch = PREPROCESSING.normalise(PIXELS)
        return float((one(batch).logsumexp(1) - other(batch).logsumexp(1)).abs().mean())


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_channels_go_and_outputs_stay(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 5, image_side=SIDE).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    smaller = pruned_network(network, SIDE, 0.5)
    weights = [sum(p.numel() for p in each.parameters()) for each in (smaller, network)]
    assert weights[0] < 0.4 * weights[1]
    with torch.inference_mode():
        assert smaller(PREPROCESSING.normalise(PIXELS)).shape == (32, 5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_without_pictures_nothing_is_learnt() -> None:
    network = trained_network()
    with pytest.raises(TrainingDataError, match="no training images"):
        teach(network, network, PREPROCESSING, lambda: [], 1)


def test_a_pruned_network_learns_to_answer_as_the_whole_one_does() -> None:
    torch.manual_seed(0)
    whole = trained_network()
    smaller = pruned_network(whole, SIDE, 0.3)
    before, steps = agreement(smaller, whole), []
    apart = energies_apart(smaller, whole)
    teach(smaller, whole, PREPROCESSING, lambda: PIXELS.split(16), 60, lambda: steps.append(1))
    assert len(steps) == 60
    assert not smaller.training
    assert agreement(smaller, whole) > max(before, 0.9)
    assert energies_apart(smaller, whole) < apart  # answers alone leave them twice as far apart

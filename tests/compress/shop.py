"""A shop whose model tells its pictures apart: most answers are no near ties."""

import numpy as np
import torch
from tests.promotion.shop import CLASSES, SIDE, Shop, spec_of

from catalog_batch.modeling.bundle import BundleSpec
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Picture
from catalog_batch.registry import ModelVersion

ARCHITECTURE = "resnet18"


def spec_of_trained(**changes: object) -> BundleSpec:
    """Describe a ResNet-18, which has batch norms to fold, over the classes of the test."""
    return spec_of(CLASSES, architecture=ARCHITECTURE, **changes)


def trained_network() -> torch.nn.Module:
    """Build a network of random weights that is sure of its answers."""
    torch.manual_seed(3)
    network = build_network(ARCHITECTURE, len(CLASSES), image_side=SIDE)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # The statistics of the pictures, and none of what was before.
    pixels = torch.from_numpy(np.stack(pictures(32)))
    with torch.no_grad():
        network.train()(spec_of_trained().preprocessing.normalise(pixels))
        network.get_submodule("fc").weight.mul_(20)
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def pictures(count: int) -> list[Picture]:
    """Draw pictures of soft noise, uint8 [side, side, 3]."""
    generator = np.random.default_rng(5)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return list(coarse.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2))


def add_trained_model(shop: Shop) -> ModelVersion:
    """Register it as the next version."""
    return shop.register(trained_network(), spec_of_trained())

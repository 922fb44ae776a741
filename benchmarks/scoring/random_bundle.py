"""A bundle whose weights were never trained, for benchmarks that do not ask what it answers."""

from pathlib import Path

import numpy as np
import torch

from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing

SEED = 17


def write_random_bundle(folder: Path, architecture: str, classes: int, side: int) -> Path:
    """Write the bundle of a network for pictures of ``side`` pixels; return its folder."""
    torch.manual_seed(SEED)
    network = build_network(architecture, classes, image_side=side)
    spec = BundleSpec(
        architecture=architecture,
        classes=tuple(ClassLabel(f"c{number}", f"Shop/{number}") for number in range(classes)),
        preprocessing=Preprocessing.for_side(side),
        taxonomy_version=1,
        training_table="training_examples",
        training_table_version=0,
        git_commit="0" * 40,
        metrics={},
        thresholds={},
        created_at="2026-01-01T00:00:00Z",
    )
    write_bundle(folder, network, spec, np.zeros((1, side, side, 3), np.uint8))
    return folder

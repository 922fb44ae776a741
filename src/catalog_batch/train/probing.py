"""A linear probe in place of a network: pictures go through its fixed backbone once a run."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from catalog_batch.config import TrainSettings
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.probe import Probe, features, obstacle
from catalog_batch.train.features import FeatureFile
from catalog_batch.train.readers import ShardReader

GIB = 2**30


def reason_by_settings(settings: TrainSettings) -> str:
    """Say why a picture does not come to the head in the same way each epoch; empty when it does.

    Args:
        settings: Of a run whose backbone is frozen.
    """
    needed = {
        "augmentation": "none",
        "mixing": "none",
        "colour_jitter": 0,
        "erasing": 0,
        "unfreeze_every": 0,
    }
    others = [
        f"train.{name} is {given}"
        for name, value in needed.items()
        if (given := getattr(settings, name)) != value
    ]
    return ", ".join(others)


def reason_against(
    network: nn.Module, reader: ShardReader, features_gib: float, device: torch.device
) -> str:
    """Say why a network cannot be trained by its probe; empty when it can.

    Args:
        network: On ``device``, without a data parallel wrapper; is put in eval mode.
        reader: Of any rank: all come to the same answer.
        features_gib: Most that the features of all ranks may take.
        device: Of the network.
    """
    probe = Probe(network)
    gib = 0.0
    for split in ("train", "validation"):
        shape = _shape(network, probe, reader.preprocessing_of(split), device)
        gib += 4 * math.prod(shape) * reader.snapshot.rows(split) / GIB
    if gib > features_gib:
        return f"features of {gib:.3g} GiB, and train.features_gib is {features_gib:g}"
    return obstacle(network)


def feature_reader(
    reader: ShardReader,
    network: nn.Module,
    probe: Probe,
    folder: Path,
    device: torch.device,
    autocast: AbstractContextManager[object],
) -> ShardReader:
    """Run a rank's rows of training and validation through the backbone.

    Args:
        reader: Of pictures.
        network: On ``device``, without a data parallel wrapper; is put in eval mode.
        probe: Of the network.
        folder: Where there is room for the features.
        device: Where the batches go.
        autocast: In which the training rows go through; validation is in fp32, as in the loop.

    Returns:
        A reader of the same rows in the same order, as features.
    """
    contexts: dict[str, AbstractContextManager[object]]
    contexts = {"train": autocast, "validation": nullcontext()}
    found = {}
    for split, context in contexts.items():
        shape = _shape(network, probe, reader.preprocessing_of(split), device)
        rows = reader.snapshot.rows_of_shard(split, reader.rank, reader.world_size)
        found[split] = FeatureFile(folder, rows, shape)
        with context:
            _fill(found[split], reader, split, network, probe, device)
    return replace(reader, features=found)


def _fill(
    file: FeatureFile,
    reader: ShardReader,
    split: str,
    network: nn.Module,
    probe: Probe,
    device: torch.device,
) -> None:
    image_ids: list[str] = []
    start = 0
    for batch in reader.evaluation(split, image_ids):
        images = reader.preprocessing.normalise(batch.images.to(device))
        given = features(network, probe, images).float().cpu()
        for place, values in enumerate(given[batch.weights > 0].numpy(), start):
            file.add(image_ids[place], values)
        start += int(batch.weights.sum())


def _shape(
    network: nn.Module, probe: Probe, preprocessing: Preprocessing, device: torch.device
) -> tuple[int, ...]:
    """Return the shape of one picture's features."""
    side = preprocessing.side
    black = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=device)
    return tuple(features(network, probe, preprocessing.normalise(black)).shape[1:])

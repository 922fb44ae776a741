"""The network that training starts from, which may be an earlier model with other classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from catalog_batch.errors import ModelRefusedError
from catalog_batch.modeling.bundle import Bundle, BundleSpec, check_bundle, load_bundle
from catalog_batch.modeling.heads import output_layers
from catalog_batch.modeling.networks import (
    build_network,
    default_preprocessing,
    default_side,
    is_built_for_one_side,
)
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.variants import AS_TRAINED
from catalog_batch.modeling.weights import refuse_other_digest


def starting_network(
    architecture: str,
    class_ids: Sequence[str],
    weights: str = "none",
    weights_sha256: str = "",
    image_side: int = 0,
    head: str = "linear",
    renamed: Mapping[str, str] | None = None,
) -> nn.Module:
    """Build the network of ``build_network``, or go on with that of an earlier bundle.

    From a bundle everything is taken but the outputs of classes that are not in ``class_ids``
    any more; outputs of new classes start fresh. The bundle may be of another image side where
    the architecture's weights do not depend on it, as in all but the transformers.

    Args:
        architecture: A torchvision classification model's name.
        class_ids: Category id of each output, in order.
        weights: As for ``build_network``, or a bundle's folder.
        weights_sha256: Checksum of the file, or digest of the bundle; empty accepts any.
        image_side: Side in pixels, 0 for the architecture's own.
        head: ``linear`` or ``article``.
        renamed: New ids by old ones, of the bundle's categories that are others now. The output of
            what was merged begins as the mean of its parts.

    Raises:
        BadInputError: As ``build_network`` does.
        ModelRefusedError: As ``build_network`` and ``load_bundle`` do, and for a bundle of
            another architecture, head or, for a transformer, image side.
    """
    if not is_bundle(weights):
        return build_network(
            architecture, len(class_ids), weights, weights_sha256, image_side, head
        )
    folder = Path(weights)
    _refuse_other_network(folder, check_bundle(folder), architecture, head, image_side)
    # Before the bundle's own network: the seed alone decides how new classes start.
    network = build_network(architecture, len(class_ids), image_side=image_side, head=head)
    bundle = load_bundle(folder)
    refuse_other_digest(folder, bundle.digest, weights_sha256)
    _copy_known(bundle, network, class_ids, renamed or {})
    return network


def starting_preprocessing(architecture: str, weights: str, image_side: int = 0) -> Preprocessing:
    """Return how pictures are prepared: as for the bundle that is gone on with, if it is one.

    Its weights have learnt what its mean, deviation and interpolation make of a picture. At
    another ``image_side`` the resized side grows or shrinks with it.

    Args:
        architecture: A torchvision classification model's name.
        weights: As for ``starting_network``.
        image_side: Side in pixels, 0 for the bundle's, or without one the architecture's own.

    Raises:
        BadInputError: For an unknown name.
        ModelRefusedError: For a folder that is no bundle, or a damaged one.
    """
    if not is_bundle(weights):
        return default_preprocessing(architecture, image_side)
    stored = check_bundle(Path(weights)).preprocessing
    if image_side in (0, stored.side):
        return stored
    resize_side = round(image_side * stored.resize_side / stored.side)
    return replace(stored, side=image_side, resize_side=resize_side)


def is_bundle(weights: str) -> bool:
    """Say whether weights are meant to be a bundle's: those of a folder."""
    return weights not in ("none", "imagenet") and Path(weights).is_dir()


def _refuse_other_network(
    folder: Path, spec: BundleSpec, architecture: str, head: str, image_side: int
) -> None:
    if spec.variant != AS_TRAINED:
        raise ModelRefusedError(
            f"Training cannot go on from {str(folder)!r}: it is the variant "
            f"{spec.variant!r}, which only scores. Start from the bundle that it was made from, "
            f"whose digest is {spec.made_from}."
        )
    stored, wanted = [spec.architecture, spec.head], [architecture, head]
    if is_built_for_one_side(architecture):
        stored.append(str(spec.preprocessing.side))
        wanted.append(str(image_side or default_side(architecture)))
    if stored != wanted:
        raise ModelRefusedError(
            f"Training cannot go on from {str(folder)!r}: it is {', '.join(stored)}, and "
            f"{', '.join(wanted)} was asked for. Set train.architecture, train.head and "
            "train.image_side to the bundle's, or start from other weights."
        )


@torch.no_grad()
def _copy_known(
    bundle: Bundle, network: nn.Module, class_ids: Sequence[str], renamed: Mapping[str, str]
) -> None:
    old_rows: dict[str, list[int]] = {}
    for row, label in enumerate(bundle.spec.classes):
        old_rows.setdefault(renamed.get(label.category_id, label.category_id), []).append(row)
    rows = [row for row, category in enumerate(class_ids) if category in old_rows]
    outputs = output_layers(network)
    stored = bundle.module.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in stored:
            continue  # an auxiliary head, for which the bundle's image side had no room
        if name.rpartition(".")[0] in outputs:
            for row in rows:
                # What was merged begins between its parts.
                tensor[row] = stored[name][old_rows[class_ids[row]]].mean(dim=0)
        else:
            tensor.copy_(stored[name])

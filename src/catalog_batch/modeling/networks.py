"""Any torchvision classifier by name, with fresh outputs for our classes."""

import difflib
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.heads import put_article_head, refuse_unknown_head
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.weights import load_backbone_weights

_SMALLEST_SIDE_WITH_AUXILIARY = {"inception_v3": 299}


def build_network(
    architecture: str,
    num_classes: int,
    weights: str = "none",
    weights_sha256: str = "",
    image_side: int = 0,
    head: str = "linear",
) -> nn.Module:
    """Build a torchvision classifier with ``num_classes`` outputs and a fresh head.

    The network takes float32 [N, 3, S, S] with the mean and deviation of
    ``default_preprocessing`` and gives logits [N, ``num_classes``]; in training mode
    Inception v3 and GoogLeNet also give auxiliary logits.

    Args:
        architecture: A torchvision classification model's name.
        num_classes: Outputs, at least 1.
        weights: ``none``, ``imagenet`` (downloaded once), or the path of a state_dict file
            (.safetensors, else read by ``torch.load`` with ``weights_only``). The file's
            head may be of any kind and any number of classes: it is not loaded.
        weights_sha256: Checksum the weights' file must have; empty accepts any.
        image_side: Side S in pixels, 0 for the architecture's own. Vision transformers are
            built for one side; Inception v3 has no auxiliary head below 299, where it does not
            fit.
        head: ``linear`` is torchvision's own; ``article`` puts flatten, dense 512, ReLU and
            dropout 0.5 before the outputs, see ``put_article_head``.

    Raises:
        BadInputError: For an unknown name or a size it cannot take, weights that are missing or
            cannot be downloaded.
        ModelRefusedError: For a weights' file with another checksum, or of another architecture.
    """
    refuse_unknown_head(head)
    network = _fresh_network(architecture, num_classes, image_side)
    if head == "article":
        put_article_head(network, num_classes)
    if weights != "none":
        load_backbone_weights(network, architecture, weights, weights_sha256)
    return network


def refuse_untrainable(
    architecture: str, num_classes: int, batch_size: int, image_side: int, head: str = "linear"
) -> None:
    """Take a batch through a network of shapes alone, as a step of training would.

    Raises:
        BadInputError: When it does not get through: pictures are smaller than a layer takes, or a
            batch norm gets a single value for each channel.
    """
    with torch.device("meta"), torch.no_grad():
        network = build_network(architecture, num_classes, image_side=image_side, head=head)
        try:
            network.train()(torch.empty(batch_size, 3, image_side, image_side))
        except (RuntimeError, ValueError) as error:
            raise BadInputError(
                f"{architecture} cannot be trained on batches of {batch_size} pictures of side "
                f"{image_side}: {error}. Raise the side, whose own is "
                f"{default_side(architecture)}, or the size of a batch."
            ) from error


def default_side(architecture: str) -> int:
    """Return the side in pixels that the architecture's ImageNet weights were measured at.

    Raises:
        BadInputError: For an unknown name.
    """
    _refuse_unknown(architecture)
    return int(get_model_weights(architecture).DEFAULT.transforms().crop_size[0])


def default_preprocessing(architecture: str, side: int = 0) -> Preprocessing:
    """Return the steps that the architecture's ImageNet weights were measured with.

    At the architecture's own side these are torchvision's own resize and cut, which may
    enlarge stored images (Inception v3 cuts 299 out of 342). At another side 224 is to 256 as
    ``side`` is to the resized one; mean, deviation and interpolation stay the architecture's.

    Args:
        architecture: A torchvision classification model's name.
        side: In pixels; 0 for the architecture's own.

    Raises:
        BadInputError: For an unknown name.
    """
    own_side = default_side(architecture)
    published = get_model_weights(architecture).DEFAULT.transforms()
    steps = Preprocessing.for_side(side or own_side)
    resize_side = published.resize_size[0] if steps.side == own_side else steps.resize_side
    return replace(
        steps,
        resize_side=resize_side,
        mean=tuple(published.mean),
        std=tuple(published.std),
        interpolation=published.interpolation.value,
    )


def is_built_for_one_side(architecture: str) -> bool:
    """Say whether weights fit one image side alone, as in transformers that learn about places."""
    return architecture.startswith(("vit_", "maxvit_"))


def require_one_network(architecture: str, side: int, test_side: int) -> None:
    """Refuse to train at one side and score at another what is built otherwise for each.

    Raises:
        BadInputError: Naming both.
    """
    if _options(architecture, side) != _options(architecture, test_side):
        raise BadInputError(
            f"{architecture} for images of side {side} is another network than for {test_side}. "
            "Set train.test_image_side to 0, or use another architecture."
        )


def _refuse_unknown(architecture: str) -> None:
    known = list_models(module=torchvision.models)
    if architecture not in known:
        nearest = difflib.get_close_matches(architecture, known, n=3, cutoff=0.4)
        raise BadInputError(
            f"Unknown architecture {architecture!r}. "
            f"Use a torchvision classifier, such as {', '.join(nearest or known[:3])}."
        )


def _fresh_network(architecture: str, num_classes: int, image_side: int) -> nn.Module:
    _refuse_unknown(architecture)
    if num_classes < 1:
        raise BadInputError(f"A network with {num_classes} outputs was asked for; give 1 or more.")
    try:
        options = _options(architecture, image_side)
        network: nn.Module = get_model(
            architecture, weights=None, num_classes=num_classes, **options
        )
    except (ValueError, AssertionError) as error:
        raise BadInputError(
            f"{architecture} cannot be built for images of side {image_side}: {error}. "
            f"Use {default_side(architecture)}, or another architecture."
        ) from error
    return network


def _options(architecture: str, image_side: int) -> dict[str, Any]:
    if architecture in ("inception_v3", "googlenet"):
        smallest = _SMALLEST_SIDE_WITH_AUXILIARY.get(architecture, 0)
        # Both were trained on inputs from -1 to 1; without transform_input torchvision would
        # expect that of the caller, and only ask ImageNet's statistics of pretrained ones.
        return {
            "init_weights": False,
            "transform_input": True,
            "aux_logits": image_side == 0 or image_side >= smallest,
        }
    if architecture.startswith("vit_") and image_side:
        return {"image_size": image_side}
    if architecture == "maxvit_t":
        side = image_side or default_side(architecture)
        return {"input_size": (side, side)}
    return {}

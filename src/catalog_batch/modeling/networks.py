"""Any torchvision classifier by name, with fresh outputs for our classes."""

import difflib
import hashlib
import http.client
import os
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from catalog_batch.errors import BadInputError, ModelRefusedError

_SMALLEST_SIDE_WITH_AUXILIARY = {"inception_v3": 299}
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_AUXILIARY_CLASSIFIERS = ("AuxLogits.fc.", "aux1.fc2.", "aux2.fc2.")
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def build_network(
    architecture: str,
    num_classes: int,
    weights: str = "none",
    weights_sha256: str = "",
    image_side: int = 0,
) -> nn.Module:
    """Build a torchvision classifier with ``num_classes`` outputs.

    The network takes float32 [N, 3, S, S] with ImageNet's mean and deviation and gives logits
    [N, ``num_classes``]; in training mode Inception v3 and GoogLeNet also give auxiliary logits.

    Args:
        architecture: A torchvision classification model's name.
        num_classes: Outputs, at least 1.
        weights: ``none``, ``imagenet`` (downloaded once), or the path of a state_dict file
            (.safetensors, else read by ``torch.load`` with ``weights_only``). The file's last
            layer may have any number of classes: it is left fresh.
        weights_sha256: Checksum the weights' file must have; empty accepts any.
        image_side: Side S in pixels, 0 for the architecture's own. Vision transformers are
            built for one side; Inception v3 has no auxiliary head below 299, where it does not
            fit.

    Raises:
        BadInputError: For an unknown name or a size it cannot take, weights that are missing or
            cannot be downloaded.
        ModelRefusedError: For a weights' file with another checksum, or of another architecture.
    """
    network = _fresh_network(architecture, num_classes, image_side)
    if weights == "none":
        return network
    if weights == "imagenet":
        path, expected = _imagenet_file(architecture)
        expected = weights_sha256 or expected
    else:
        path, expected = Path(weights), weights_sha256
    _refuse_other_digest(path, expected)
    _load_backbone(network, _read_state(path), path)
    return network


def default_side(architecture: str) -> int:
    """Return the side in pixels that the architecture's ImageNet weights were measured at.

    Raises:
        BadInputError: For an unknown name.
    """
    _refuse_unknown(architecture)
    return int(get_model_weights(architecture).DEFAULT.transforms().crop_size[0])


def classifier_name(network: nn.Module) -> str:
    """Return the dotted name of the layer that gives the logits: the last linear or 1x1 one."""
    layers = (nn.Linear, nn.Conv2d)
    names = [name for name, module in network.named_modules() if isinstance(module, layers)]
    return str(names[-1])


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


def _imagenet_file(architecture: str) -> tuple[Path, str]:
    """Download the default weights unless they are there; return file and checksum's beginning."""
    url = str(get_model_weights(architecture).DEFAULT.url)
    name = url.rsplit("/", 1)[-1]
    found = re.search(r"-([0-9a-f]{8,})\.", name)
    expected = found.group(1) if found else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path, expected
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, os.fspath(path), expected, progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise BadInputError(
            f"ImageNet weights of {architecture!r} cannot be had from {url}: {error}. "
            "Give the path of a state_dict file, or 'none' to start from random weights."
        ) from error
    return path, expected


def _refuse_other_digest(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(
            f"Weights {str(path)!r} cannot be read: {error}. "
            "Give the path of a state_dict file, 'imagenet' or 'none'."
        ) from error
    if not digest.startswith(expected.lower()):
        raise ModelRefusedError(
            f"Weights {str(path)!r} have SHA-256 {digest}, not {expected}. "
            "Fetch the file again, or correct the checksum in the settings."
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the two readers' failures have no common base
        raise ModelRefusedError(
            f"Weights {str(path)!r} cannot be read: {str(error).partition(chr(10))[0]} "
            "Give a state_dict of tensors only, as .safetensors or from torch.save."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelRefusedError(
            f"Weights {str(path)!r} hold no state_dict (names to tensors). "
            "Save network.state_dict() and not the network or a training checkpoint."
        )
    return state


def _load_backbone(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load all but the classifiers into ``network``; auxiliary heads may be absent on either side.

    The dictionary is changed in place: a copy would lose the versions that torch keeps beside
    the tensors, by which modules read states that older releases wrote.
    """
    own = network.state_dict()
    fresh = (f"{classifier_name(network)}.", *_AUXILIARY_CLASSIFIERS)
    for name in list(state):
        current = _OLD_DENSENET_NAME.sub(r"\1\2", name)
        tensor = state.pop(name)
        is_extra = name.startswith(_AUXILIARY) and name not in own
        if not name.startswith(fresh) and not is_extra:
            state[current] = tensor
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        problems = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    else:
        problems = [
            *(
                f"{name} is missing"
                for name in missing
                if not name.startswith((*fresh, *_AUXILIARY))
            ),
            *(f"{name} is unknown" for name in unexpected),
        ]
    if problems:
        raise ModelRefusedError(
            f"Weights {str(path)!r} do not fit {type(network).__name__}: "
            f"{'; '.join(problems[:3])} ({len(problems)} in all). "
            "Name the architecture that they were trained with."
        )

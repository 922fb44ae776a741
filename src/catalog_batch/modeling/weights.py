"""Weights to start from: torchvision's own or a file's, checked before they are used."""

import hashlib
import http.client
import os
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.heads import is_auxiliary, is_within, main_head, output_layers

_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def load_backbone_weights(
    network: nn.Module, architecture: str, weights: str, expected_sha256: str
) -> None:
    """Load all but the head into ``network``.

    Args:
        network: Of ``architecture``; keeps its own head.
        architecture: A torchvision classification model's name.
        weights: ``imagenet`` or the path of a state_dict file.
        expected_sha256: Beginning of the checksum the file must have; empty accepts any.

    Raises:
        BadInputError: For weights that are missing or cannot be downloaded.
        ModelRefusedError: For a file with another checksum, or of another architecture.
    """
    if weights == "imagenet":
        path, published = _imagenet_file(architecture)
        expected_sha256 = expected_sha256 or published
    else:
        path = Path(weights)
    refuse_other_digest(path, _digest(path), expected_sha256)
    _load_backbone(network, _read_state(path), path)


def refuse_other_digest(path: Path, digest: str, expected: str) -> None:
    """Compare a digest with the beginning of one that was set; empty accepts any.

    Raises:
        ModelRefusedError: When they differ.
    """
    if not digest.startswith(expected.lower()):
        raise ModelRefusedError(
            f"Weights {str(path)!r} have SHA-256 {digest}, not {expected}. "
            "Fetch the file again, or correct the checksum in the settings."
        )


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


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(
            f"Weights {str(path)!r} cannot be read: {error}. "
            "Give the path of a state_dict file or of a bundle's folder, 'imagenet' or 'none'."
        ) from error


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
    """Load all but the head into ``network``; auxiliary heads may be absent on either side.

    The dictionary is changed in place: a copy would lose the versions that torch keeps beside
    the tensors, by which modules read states that older releases wrote.
    """
    own = network.state_dict()
    fresh = (main_head(network), *output_layers(network))
    for name in list(state):
        current = _OLD_DENSENET_NAME.sub(r"\1\2", name)
        tensor = state.pop(name)
        is_extra = is_auxiliary(name) and name not in own
        if not is_within(name, fresh) and not is_extra:
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
                if not is_within(name, fresh) and not is_auxiliary(name)
            ),
            *(f"{name} is unknown" for name in unexpected),
        ]
    if problems:
        raise ModelRefusedError(
            f"Weights {str(path)!r} do not fit {type(network).__name__}: "
            f"{'; '.join(problems[:3])} ({len(problems)} in all). "
            "Name the architecture that they were trained with."
        )

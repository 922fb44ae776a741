"""A model with everything needed to use it, in a folder that is checked before it is trusted.

::

    model.safetensors   the weights; in a variant that PyTorch does not run, model.onnx, a graph
    model.json          what ``BundleSpec`` holds, with ``format_version``
    golden.npz          pictures (``inputs``) and the logits they must give (``logits``), before
                        any temperature
    MANIFEST.sha256     the checksums of the three; its own is the bundle's digest

Nothing here is a pickle, and nothing is parsed before its checksum has been compared.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.manifest import (
    GOLDEN,
    GRAPH,
    SPEC,
    WEIGHTS,
    refusal,
    verify_bundle,
    write_manifest,
)
from catalog_batch.modeling.runtimes import (
    Graph,
    Network,
    logits_of,
    on_device,
    open_graph,
)
from catalog_batch.modeling.spec import BundleSpec, ClassLabel, check_bundle, read_spec
from catalog_batch.modeling.variants import VARIANTS

# A worker that runs a graph does without PyTorch, see runtimes.py.
if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Bundle",
    "BundleSpec",
    "ClassLabel",
    "check_bundle",
    "golden_images",
    "load_bundle",
    "write_bundle",
]


MAX_GOLDEN_IMAGES = 16


@dataclass(frozen=True)
class Bundle:
    """A model that passed every check, in eval mode."""

    network: Network
    """As its variant runs it: what ``logits_of`` takes."""

    spec: BundleSpec
    digest: str
    """SHA-256 of ``MANIFEST.sha256``."""

    @property
    def module(self) -> "nn.Module":
        """The network of a variant that PyTorch runs.

        Raises:
            BadInputError: When it is a graph.
        """
        if isinstance(self.network, Graph):
            raise BadInputError(
                f"The model is the variant {self.spec.variant!r}, a graph that PyTorch does not "
                f"run. Take the model that it was made from: its digest is {self.spec.made_from}."
            )
        return self.network


def write_bundle(
    folder: Path,
    model: "nn.Module | Path",
    spec: BundleSpec,
    golden_images: npt.NDArray[np.uint8],
) -> str:
    """Write a bundle, load it back with every check, and only then give it its name.

    Args:
        folder: Must not exist; appears complete or not at all.
        model: Built by ``build_network`` for ``spec``, without a data parallel wrapper; on any
            device, left as it is. For a variant that PyTorch does not run, the file of its graph.
        spec: What ``model.json`` will say.
        golden_images: uint8 [N, side, side, 3], decoded by ``spec.preprocessing``; 1 to 16.

    Returns:
        The bundle's digest.

    Raises:
        BadInputError: When the folder exists or the golden pictures have another shape.
        ModelRefusedError: When the bundle cannot be loaded: the network is not the one that
            ``spec`` describes, or has weights that are not finite.
    """
    if folder.exists():
        raise BadInputError(f"{str(folder)!r} exists. Give each bundle a folder of its own.")
    side, count = spec.preprocessing.side, len(golden_images)
    if golden_images.shape != (count, side, side, 3) or not 1 <= count <= MAX_GOLDEN_IMAGES:
        raise BadInputError(
            f"Golden images have shape {golden_images.shape}. "
            f"Give 1 to {MAX_GOLDEN_IMAGES} of ({side}, {side}, 3)."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        (partial / SPEC).write_text(json.dumps(spec.to_json(), indent=2) + "\n", encoding="utf-8")
        if isinstance(model, Path):
            shutil.copyfile(model, partial / GRAPH)
        else:
            import safetensors.torch

            tensors = {
                name: value.detach().cpu().contiguous()
                for name, value in model.state_dict().items()
            }
            safetensors.torch.save_file(tensors, partial / WEIGHTS)
            # safetensors lets only the owner read its files; scorers may run as somebody else.
            (partial / WEIGHTS).chmod((partial / SPEC).stat().st_mode)
        logits = logits_of(_network_of(partial, spec, None), spec.preprocessing, golden_images)
        np.savez(partial / GOLDEN, inputs=golden_images, logits=logits)
        digest = write_manifest(partial)
        load_bundle(partial)
        partial.rename(folder)
    return digest


def golden_images(folder: Path) -> npt.NDArray[np.uint8]:
    """Return the pictures of a bundle's golden batch, uint8 [N, side, side, 3].

    Raises:
        ModelRefusedError: When they cannot be read.
    """
    return _read_golden(folder)[0]


def load_bundle(folder: Path, device: str = "cpu", threads: int | None = None) -> Bundle:
    """Load a bundle after checking, in this order, all that can be wrong with it.

    Files and checksums, before anything is parsed; ``model.json``; names, types and shapes of
    the weights; that they are finite; that the golden pictures give the golden logits, which is
    tried on the CPU, where results do not depend on a device's fast approximations.

    Args:
        folder: Of the bundle.
        device: Where PyTorch's networks go afterwards; graphs stay on the CPU.
        threads: On which a graph runs; as many as PyTorch has unless given.

    Raises:
        ModelRefusedError: Naming the folder, what is wrong and what to do.
    """
    digest = verify_bundle(folder)
    spec = read_spec(folder)
    network = _network_of(folder, spec, threads)
    _refuse_other_logits(network, spec, folder)
    return Bundle(on_device(network, device), spec, digest)


def _network_of(folder: Path, spec: BundleSpec, threads: int | None) -> Network:
    """Return the network, on the CPU, as its variant runs it."""
    variant = VARIANTS[spec.variant]
    if variant.engine == "torch":
        from catalog_batch.modeling.torch_variants import torch_network

        return torch_network(_network_with(_read_weights(folder), spec, folder), variant)
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    try:
        return open_graph(folder / GRAPH, variant, threads)
    except ModelRefusedError:
        raise
    except Exception as error:  # each library has its own, with no common base
        raise refusal(folder, f"{variant.engine} does not take {GRAPH}: {error}") from error


def _read_weights(folder: Path) -> "dict[str, Tensor]":
    import safetensors.torch

    try:
        return safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise refusal(folder, f"{WEIGHTS} is not in the safetensors format: {error}") from error


def _network_with(tensors: "Mapping[str, Tensor]", spec: BundleSpec, folder: Path) -> "nn.Module":
    """Build the network that ``spec`` describes, on the CPU, with these weights."""
    from catalog_batch.modeling.networks import build_network

    try:
        network = build_network(
            spec.architecture,
            len(spec.classes),
            image_side=spec.preprocessing.side,
            head=spec.head,
        )
    except BadInputError as error:
        raise refusal(folder, f"{SPEC} names a network that cannot be built: {error}") from error
    own = network.state_dict()
    problems = _differences(own, tensors)
    if problems:
        raise refusal(
            folder,
            f"the weights are not those of {spec.architecture} with the {spec.head} head and "
            f"{len(spec.classes)} classes: "
            f"{'; '.join(problems[:3])} ({len(problems)} in all)",
        )
    infinite = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if infinite:
        raise refusal(folder, f"{infinite[:3]} hold values that are not finite")
    # Copied and not given to load_state_dict, whose hooks read versions that safetensors lacks.
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
    return network.eval()


def _differences(own: "Mapping[str, Tensor]", given: "Mapping[str, Tensor]") -> list[str]:
    missing = [f"{name} is missing" for name in own if name not in given]
    unknown = [f"{name} is unknown" for name in given if name not in own]
    other = [
        f"{name} is {given[name].dtype} {tuple(given[name].shape)}, "
        f"not {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given
        and (given[name].shape != tensor.shape or given[name].dtype != tensor.dtype)
    ]
    return missing + unknown + other


def _read_golden(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    try:
        with (folder / GOLDEN).open("rb") as file, np.load(file, allow_pickle=False) as golden:
            return golden["inputs"], golden["logits"]
    except Exception as error:  # what numpy, zip and zlib raise on such bytes has no common base
        raise refusal(folder, f"{GOLDEN} cannot be read: {error}") from error


def _refuse_other_logits(network: Network, spec: BundleSpec, folder: Path) -> None:
    images, expected = _read_golden(folder)
    side = spec.preprocessing.side
    if (
        images.dtype != np.uint8
        or images.shape != (len(images), side, side, 3)
        or not 1 <= len(images) <= MAX_GOLDEN_IMAGES
        or expected.shape != (len(images), len(spec.classes))
    ):
        raise refusal(
            folder, f"{GOLDEN} holds {images.dtype} {images.shape} and logits {expected.shape}"
        )
    difference = float(np.abs(logits_of(network, spec.preprocessing, images) - expected).max())
    allowed = VARIANTS[spec.variant].tolerance * float(np.abs(expected).max())
    if not difference <= allowed:
        raise refusal(
            folder,
            f"the golden pictures give logits that are off by {difference:g}, with {allowed:g} "
            "allowed: the weights or the preprocessing are not the ones it was written with",
        )

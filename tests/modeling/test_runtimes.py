"""Each variant of a bundle: written, loaded with every check, and asked."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.commands import run_command
from tests.compress.shop import pictures, spec_of_trained, trained_network

from catalog_batch.compress.graphs import export_graph, quantise_graph
from catalog_batch.config import VariantName
from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.bundle import Bundle, check_bundle, load_bundle, write_bundle
from catalog_batch.modeling.manifest import write_manifest
from catalog_batch.modeling.predictor import Predictor
from catalog_batch.modeling.runtimes import Logits, logits_of
from catalog_batch.modeling.starting import starting_network
from catalog_batch.modeling.variants import AS_TRAINED, VARIANTS

torch.set_num_threads(1)
GOLDEN = np.stack(pictures(4))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a bundle of each variant."""
    place, network = tmp_path_factory.mktemp("variants"), trained_network()
    graphs = {"fp32": place / "fp32.onnx", "int8": place / "int8.onnx"}
    export_graph(network, spec_of_trained().preprocessing, graphs["fp32"])
    quantise_graph(graphs["fp32"], pictures(32), graphs["int8"])
    for name, variant in VARIANTS.items():
        spec = replace(spec_of_trained(), variant=name, made_from="a" * 64)
        graph = graphs["int8" if variant.precision == "int8" else "fp32"]
        write_bundle(place / name, network if variant.engine == "torch" else graph, spec, GOLDEN)
    return {name: place / name for name in VARIANTS}


def logits(bundle: Bundle) -> Logits:
    return logits_of(bundle.network, bundle.spec.preprocessing, np.stack(pictures(16)))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_gives_the_logits_of_the_network_within_its_tolerance(
    folders: dict[str, Path], name: str
) -> None:
    bundle = load_bundle(folders[name])
    expected, found = logits(load_bundle(folders[AS_TRAINED])), logits(bundle)
    assert found.dtype == np.float32
    # The golden logits of int8 are its own: from those of the network it is further away.
    share = 0.25 if VARIANTS[name].precision == "int8" else VARIANTS[name].tolerance
    allowed = share * float(np.abs(expected).max())
    assert float(np.abs(found - expected).max()) <= allowed


def test_a_folded_network_has_no_batch_norm_left(folders: dict[str, Path]) -> None:
    kinds = {type(layer) for layer in load_bundle(folders["torch-folded"]).module.modules()}
    assert torch.nn.Conv2d in kinds and torch.nn.BatchNorm2d not in kinds


def test_settings_name_every_variant_there_is() -> None:
    assert {AS_TRAINED, *get_args(VariantName)} == set(VARIANTS)


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-int8"])
def test_a_graph_that_was_exchanged_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / "model"))
    other = trained_network()
    with torch.no_grad():
        other.get_submodule("fc").weight.neg_()
    export_graph(other, spec_of_trained().preprocessing, folder / "model.onnx")
    with pytest.raises(ModelRefusedError, match=r"model\.onnx has SHA-256"):
        check_bundle(folder)
    (folder / "MANIFEST.sha256").unlink()
    write_manifest(folder)
    with pytest.raises(ModelRefusedError, match="golden pictures give logits that are off"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-fp32"])
def test_a_graph_that_is_none_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / "model"))
    (folder / "model.onnx").write_bytes(b"no graph")
    (folder / "MANIFEST.sha256").unlink()
    write_manifest(folder)
    with pytest.raises(ModelRefusedError, match=r"does not take model\.onnx"):
        load_bundle(folder)


def test_a_graph_without_its_variant_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["onnx-fp32"], tmp_path / "model"))
    shutil.copy(folders[AS_TRAINED] / "model.json", folder)
    (folder / "MANIFEST.sha256").unlink()
    write_manifest(folder)
    with pytest.raises(ModelRefusedError, match=r"'torch-fp32', without model\.safetensors"):
        check_bundle(folder)
    with pytest.raises(BadInputError, match="Variant 'tpu' is none of"):
        replace(spec_of_trained(), variant="tpu")


def test_a_library_that_is_missing_is_named(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def hiding(name: str, *arguments: Any) -> Any:
        return None if name == "openvino" else found(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", hiding)
    with pytest.raises(ModelRefusedError, match=r"'openvino' is not installed"):
        load_bundle(folders["openvino-fp32"])


def test_a_graph_is_refused_on_a_gpu_and_where_embeddings_are_kept(
    folders: dict[str, Path],
) -> None:
    bundle = load_bundle(folders["onnx-fp32"])
    with pytest.raises(ModelRefusedError, match="runs on CPUs, and the task was given 'cuda:0'"):
        Predictor(bundle, device="cuda:0")
    with pytest.raises(ModelRefusedError, match="gives no embeddings"):
        Predictor(bundle, keep_embeddings=True)


WORKER = """
import io, sys
from pathlib import Path
from PIL import Image
from catalog_batch.score import worker
photo = io.BytesIO()
Image.new("RGB", (64, 64), "red").save(photo, "JPEG")
bundle = worker.load_bundle(Path(sys.argv[1]), threads=1)
[answer] = worker.Predictor(bundle).predict([photo.getvalue()])
print(len(answer.top_k), {"torch", "torchvision"} & set(sys.modules))
"""


@pytest.mark.parametrize("name", ["onnx-int8", "openvino-fp32"])
def test_a_worker_runs_a_graph_without_pytorch_which_takes_seconds(
    folders: dict[str, Path], name: str
) -> None:
    classes = len(spec_of_trained().classes)
    finished = run_command([sys.executable, "-c", WORKER, folders[name]])
    assert finished.output == f"{min(classes, 5)} set()\n", finished.errors


def test_a_graph_is_no_network_to_train(folders: dict[str, Path]) -> None:
    bundle = load_bundle(folders["onnx-fp32"])
    with pytest.raises(BadInputError, match=r"'onnx-fp32', a graph .* its digest is aaaa"):
        _ = bundle.module


def test_training_does_not_go_on_from_a_variant(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelRefusedError, match=r"only scores.*digest is aaaa"):
        starting_network("resnet18", ["bags"], str(folders["torch-folded"]), image_side=32)

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.compress.shop import pictures, spec_of_trained, trained_network

from catalog_batch.compress.graphs import export_graph, quantise_graph
from catalog_batch.modeling.runtimes import Logits, Network, logits_of, open_graph
from catalog_batch.modeling.variants import VARIANTS

torch.set_num_threads(1)
PREPROCESSING = spec_of_trained().preprocessing


@pytest.fixture(scope="module")
def quantised(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantised") / "int8.onnx"
    quantise_graph(exported, pictures(32), path)
    return path


def logits(network: Network, count: int) -> Logits:
    return logits_of(network, PREPROCESSING, np.stack(pictures(count)))


def kinds_of(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-fp32"])
@pytest.mark.parametrize("count", [1, 7])
def test_a_graph_answers_any_number_of_pictures_as_the_network_does(
    exported: Path, name: str, count: int
) -> None:
    graph = open_graph(exported, VARIANTS[name], threads=1)
    expected = logits(trained_network(), count)
    np.testing.assert_allclose(logits(graph, count), expected, rtol=1e-4, atol=1e-3)


def test_batch_norms_are_folded_into_the_convolutions(exported: Path) -> None:
    assert "Conv" in kinds_of(exported)
    assert "BatchNormalization" not in kinds_of(exported)


@pytest.mark.parametrize("name", ["onnx-int8", "openvino-int8"])
def test_a_quantised_graph_is_near_but_not_the_same(quantised: Path, name: str) -> None:
    graph = open_graph(quantised, VARIANTS[name], threads=1)
    expected, found = logits(trained_network(), 32), logits(graph, 32)
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert 1e-4 < off < 0.25
    # Logits themselves are not rounded: more of them differ than int8 has steps.
    assert len(np.unique(found)) > 0.9 * found.size


class _Deep(torch.nn.Module):
    """Three layers with weights; the middle one sees a token a picture, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.token = torch.nn.Parameter(torch.ones(1, 4))
        self.middle = torch.nn.Linear(8 + 4, 16)
        self.last = torch.nn.Linear(16, 5)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        pooled = self.first(batch).relu().mean((2, 3))
        tokens = self.token.expand(batch.shape[0], 4)
        logits: torch.Tensor = self.last(self.middle(torch.cat([pooled, tokens], 1)).relu())
        return logits


def test_only_the_first_and_the_last_layer_stay_in_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_graph(_Deep().eval(), PREPROCESSING, tmp_path / "fp32.onnx")
    assert "Shape" in kinds_of(tmp_path / "fp32.onnx")
    quantise_graph(tmp_path / "fp32.onnx", pictures(16), tmp_path / "int8.onnx")
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    in_int8 = [tensor.dims for tensor in stored if tensor.data_type == onnx.TensorProto.INT8]
    assert [sorted(dims) for dims in in_int8 if len(dims) > 1] == [[12, 16]]


def test_depthwise_convolutions_stay_in_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, groups=2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 5),
    ]
    export_graph(torch.nn.Sequential(*layers).eval(), PREPROCESSING, tmp_path / "fp32.onnx")
    quantise_graph(tmp_path / "fp32.onnx", pictures(16), tmp_path / "int8.onnx")
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    in_int8 = [tensor.dims for tensor in stored if tensor.data_type == onnx.TensorProto.INT8]
    assert [list(dims) for dims in in_int8 if len(dims) > 1] == [[16, 4, 3, 3]]


def test_weights_are_in_int8_with_a_scale_for_each_channel_and_keep_to_seven_bits(
    exported: Path, quantised: Path
) -> None:
    stored = onnx.load(quantised).graph.initializer
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in stored
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    convolutions = [node for node in onnx.load(exported).graph.node if node.op_type == "Conv"]
    assert len(weights) == len(convolutions) - 1  # the first one stays in fp32
    assert all(np.abs(values).max(axis=(1, 2, 3)).min() == 64 for values in weights)
    assert quantised.stat().st_size < exported.stat().st_size / 3

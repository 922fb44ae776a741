"""A network as an ONNX graph, in fp32 and in int8."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from catalog_batch.modeling.preprocessing import Picture, Preprocessing
from catalog_batch.modeling.runtimes import LOGITS, PIXELS
from catalog_batch.modeling.torch_variants import Normalised

OPSET = 20
CALIBRATION_BATCH = 8
WITH_WEIGHTS = ("Gemm", "MatMul", "Conv")
"""Kinds of nodes that hold a layer's weights."""


def export_graph(network: nn.Module, preprocessing: Preprocessing, path: Path) -> None:
    """Write a network as a graph that takes decoded pictures, any number at a time.

    ``torch.export`` traces it, and its ONNX passes fold constants and batch norms.

    Args:
        network: From a bundle, as it was trained, on the CPU.
        preprocessing: Of the same bundle; the graph normalises.
        path: File to write, without external data.

    Raises:
        Exception: Of many kinds, for a network that cannot be traced.
    """
    side = preprocessing.side
    # Two, for one would be taken for a constant.
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    logging.getLogger("onnxscript").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch.export and its passes deprecate
        torch.onnx.export(
            Normalised(network, preprocessing).eval(),
            (example,),
            path,
            dynamo=True,
            external_data=False,
            input_names=[PIXELS],
            output_names=[LOGITS],
            dynamic_shapes={"pixels": {0: torch.export.Dim("images")}},
            opset_version=OPSET,
            verbose=False,
        )


def quantise_graph(graph: Path, images: Sequence[Picture], path: Path) -> None:
    """Write a graph with weights and activations in int8, their ranges taken from pictures.

    Weights have a scale for each channel. They keep to 7 bits: processors without VNNI add two
    products of 8 bits into 16, which overflow, and the answers would depend on the machine. Some
    layers stay in fp32: the one that makes the logits, for 256 steps are too few to tell near
    classes apart; the one that sees the pixels, which OpenVINO 2026.4 computes wrongly where there
    is no VNNI; and depthwise convolutions, which it computes wrongly with VNNI too.

    Args:
        graph: From ``export_graph``.
        images: Decoded pictures as the model will see, uint8 [S, S, 3].
        path: File to write.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="catalog-batch-") as place:
        prepared = Path(place) / graph.name
        quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _Pictures(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=[
                *_seers_of_pixels(prepared),
                *_depthwise(prepared),
                *_makers_of_logits(prepared),
            ],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _seers_of_pixels(graph: Path) -> list[str]:
    """Return the names of the nodes from the pixels down to the first layers that have weights."""
    import onnx

    found: list[str] = []
    reached = {PIXELS}
    for node in onnx.load(graph).graph.node:
        if reached & set(node.input):
            found.append(node.name)
            # How many pictures there are is asked by layers anywhere: it is no way to them.
            if node.op_type not in (*WITH_WEIGHTS, "Shape"):
                reached |= set(node.output)
    return found


def _depthwise(graph: Path) -> list[str]:
    """Return the names of the convolutions that see one channel at a time."""
    import onnx

    network = onnx.load(graph).graph
    of_one = {weights.name for weights in network.initializer if list(weights.dims[1:2]) == [1]}
    return [
        each.name for each in network.node if each.op_type == "Conv" and each.input[1] in of_one
    ]


def _makers_of_logits(graph: Path) -> list[str]:
    """Return the names of the nodes from the logits up to the layer that has their weights."""
    import onnx

    found: list[str] = []
    wanted = {LOGITS}
    for node in reversed(onnx.load(graph).graph.node):
        if wanted & set(node.output):
            found.append(node.name)
            wanted = set(node.input)
            if node.op_type in WITH_WEIGHTS:
                break
    return found


class _Pictures:
    """What ONNX Runtime calibrates with: batches by the input's name, then nothing."""

    def __init__(self, images: Sequence[Picture]) -> None:
        self._batches = self._cut(images)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)

    @staticmethod
    def _cut(images: Sequence[Picture]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(images), CALIBRATION_BATCH):
            yield {PIXELS: np.stack(images[start : start + CALIBRATION_BATCH])}

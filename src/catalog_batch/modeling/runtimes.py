"""Networks as each variant runs them, behind one interface: a module from pictures to logits."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.variants import AS_TRAINED, Variant, require_engine

PIXELS, LOGITS = "pixels", "logits"
"""Names of a graph's input, uint8 [N, S, S, 3], and of its output, float32 [N, classes]."""


class Graph(nn.Module):
    """An ONNX graph that another library runs, on the CPU, with as many threads as PyTorch has.

    It takes decoded pictures, and normalises them itself.
    """


class Normalised(nn.Module):
    """A network that normalises the pictures it is given, as a graph does."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """Take a network and the preprocessing of its bundle."""
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [N, C] for pictures, uint8 [N, S, S, 3]."""
        logits: Tensor = self.network(self.preprocessing.normalise(pixels))
        return logits


def logits_of(network: nn.Module, preprocessing: Preprocessing, pixels: Tensor) -> Tensor:
    """Return the logits that a bundle's network gives for decoded pictures.

    Args:
        network: Of a bundle; in eval mode.
        preprocessing: Of the same bundle.
        pixels: uint8 [N, S, S, 3], on the network's device.

    Returns:
        float32 [N, C], on the same device.
    """
    batch = pixels if isinstance(network, Graph) else preprocessing.normalise(pixels)
    logits: Tensor = network(batch)
    return logits.float()


def torch_network(network: nn.Module, variant: Variant) -> nn.Module:
    """Return a network as a variant that PyTorch runs has it; the given one may be changed.

    Convolutions are 1.3 to 1.8 times faster in channels-last order, the order of the pictures.

    Args:
        network: As trained, in eval mode.
        variant: One whose engine is ``torch``.
    """
    if variant.name != AS_TRAINED:
        from torch.fx.experimental import optimization  # slow to import, as PyTorch's compiler is

        # Copies it; what cannot be traced raises errors of many kinds.
        network = optimization.fuse(network)
    if variant.precision == "bf16":
        network = _InBfloat16(network)
    return network.to(memory_format=torch.channels_last).eval()


def open_graph(path: Path, variant: Variant) -> Graph:
    """Open a graph with the library of a variant.

    Raises:
        ModelRefusedError: When the library is not installed.
    """
    require_engine(variant)
    return _OnnxRuntime(path) if variant.engine == "onnxruntime" else _OpenVino(path, variant)


class _InBfloat16(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.bfloat16()

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.network(batch.bfloat16())
        return logits.float()


class _OnnxRuntime(Graph):
    def __init__(self, path: Path) -> None:
        super().__init__()
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # A thread that waits by spinning takes the core from the task beside it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, pixels: Tensor) -> Tensor:
        [logits] = self._session.run([LOGITS], {PIXELS: pixels.numpy()})
        return torch.from_numpy(logits)


class _OpenVino(Graph):
    def __init__(self, path: Path, variant: Variant) -> None:
        super().__init__()
        openvino: Any = importlib.import_module("openvino")
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if variant.precision == "bf16" else "f32",
            # Each process would pin its threads to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(str(path), "CPU", settings).create_infer_request()

    def forward(self, pixels: Tensor) -> Tensor:
        answers = self._request.infer({PIXELS: pixels.numpy()}, share_inputs=True)
        return torch.from_numpy(answers[LOGITS].copy())

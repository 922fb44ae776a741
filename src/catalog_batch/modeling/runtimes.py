"""Networks as each variant runs them, behind one function: from pictures to logits.

Nothing here imports PyTorch before a network of its own is asked: a worker that runs a graph does
without it, which is 2 s of a core before its first answer.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.variants import Variant, require_engine

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PIXELS, LOGITS = "pixels", "logits"
"""Names of a graph's input, uint8 [N, S, S, 3], and of its output, float32 [N, classes]."""

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


class Graph(ABC):
    """An ONNX graph that another library runs, on the CPU.

    It takes decoded pictures, and normalises them itself.
    """

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Logits:
        """Return logits [N, C] for pictures, [N, S, S, 3]."""


Network: TypeAlias = "nn.Module | Graph"


def logits_of(network: Network, preprocessing: Preprocessing, pixels: Pixels) -> Logits:
    """Return the logits that a bundle's network gives for decoded pictures.

    Args:
        network: Of a bundle; in eval mode, on any device.
        preprocessing: Of the same bundle.
        pixels: uint8 [N, S, S, 3].

    Returns:
        float32 [N, C].
    """
    return begin_logits(network, preprocessing, pixels)()


def begin_logits(
    network: Network, preprocessing: Preprocessing, pixels: Pixels
) -> Callable[[], Logits]:
    """Begin what ``logits_of`` does; return the function that waits for the logits.

    A GPU computes while the caller goes on, which must leave ``pixels`` as they are until then; it
    copies them beside that from memory that is locked. A CPU has the logits already.
    """
    if isinstance(network, Graph):
        computed = network(pixels)
        return lambda: computed
    import torch

    device = next(network.parameters()).device
    with torch.inference_mode():
        batch = torch.from_numpy(pixels).to(device, non_blocking=True)
        logits = network(preprocessing.normalise(batch)).float()
        if device.type != "cuda":
            return lambda: logits.cpu().numpy()
        # Now: asked for later, the copy would wait for the batch after this one too.
        copied = logits.to("cpu", non_blocking=True)
    return _Computing(pixels, copied, torch.cuda.current_stream(device).record_event())


@dataclass(frozen=True)
class _Computing:
    """What a GPU computes."""

    pixels: Pixels
    """Kept until it has read them."""

    logits: "Tensor"
    """To which it writes."""

    done: "torch.cuda.Event"

    def __call__(self) -> Logits:
        self.done.synchronize()
        logits: Logits = self.logits.numpy()
        return logits


def on_device(network: Network, device: str) -> Network:
    """Return a network on a device; a graph as it is."""
    return network if isinstance(network, Graph) else network.to(device)


def open_graph(path: Path, variant: Variant, threads: int) -> Graph:
    """Open a graph with the library of a variant, to run on so many threads.

    Raises:
        ModelRefusedError: When the library is not installed.
    """
    require_engine(variant)
    if variant.engine == "onnxruntime":
        return _OnnxRuntime(path, threads)
    return _OpenVino(path, variant, threads)


class _OnnxRuntime(Graph):
    def __init__(self, path: Path, threads: int) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A thread that waits by spinning takes the core from the task beside it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, pixels: Pixels) -> Logits:
        logits: Logits = self._session.run([LOGITS], {PIXELS: pixels})[0]
        return logits


class _OpenVino(Graph):
    def __init__(self, path: Path, variant: Variant, threads: int) -> None:
        openvino: Any = importlib.import_module("openvino")
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if variant.precision == "bf16" else "f32",
            # Each process would pin its threads to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(str(path), "CPU", settings).create_infer_request()

    def __call__(self, pixels: Pixels) -> Logits:
        logits: Logits = self._request.infer({PIXELS: pixels}, share_inputs=True)[LOGITS]
        return logits.copy()  # the library writes the next answer to the same place

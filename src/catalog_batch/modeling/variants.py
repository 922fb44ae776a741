"""The ways a trained network can be run: which library computes, and in which numbers."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from catalog_batch.errors import ModelRefusedError
from catalog_batch.modeling.manifest import GRAPH, WEIGHTS

AS_TRAINED = "torch-fp32"
"""The variant that training writes."""


@dataclass(frozen=True)
class Variant:
    """A way to run a network."""

    name: str
    engine: Literal["torch", "onnxruntime", "openvino"]
    """Library that computes, by the name it is imported under."""

    precision: Literal["fp32", "bf16", "int8"]
    tolerance: float
    """Largest difference from a golden logit, as a share of the largest golden logit."""

    is_pruned: bool = False
    """Whether channels were taken out."""

    @property
    def weights_file(self) -> str:
        """Name of the bundle's file that holds the weights."""
        return WEIGHTS if self.engine == "torch" else GRAPH


_EXACT = 1e-3
"""Another memory layout, batch or library adds in another order, which moved float32 logits by at
most 3e-6 of the largest where it was tried; bfloat16 by 3e-3 to 1e-2, swapped channels by much
more."""

_ROUNDED = 5e-2
"""Processors round bfloat16 and int8 at other places: with AMX, with VNNI, and without either."""

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(AS_TRAINED, "torch", "fp32", _EXACT),
        Variant("torch-folded", "torch", "fp32", _EXACT),
        Variant("torch-bf16", "torch", "bf16", _ROUNDED),
        Variant("onnx-fp32", "onnxruntime", "fp32", _EXACT),
        Variant("onnx-int8", "onnxruntime", "int8", _ROUNDED),
        Variant("onnx-pruned", "onnxruntime", "fp32", _EXACT, is_pruned=True),
        Variant("onnx-pruned-int8", "onnxruntime", "int8", _ROUNDED, is_pruned=True),
        Variant("openvino-fp32", "openvino", "fp32", _EXACT),
        Variant("openvino-pruned", "openvino", "fp32", _EXACT, is_pruned=True),
        Variant("openvino-pruned-int8", "openvino", "int8", _ROUNDED, is_pruned=True),
        Variant("openvino-bf16", "openvino", "bf16", _ROUNDED),
        Variant("openvino-int8", "openvino", "int8", _ROUNDED),
    )
}
"""By name. ``torch-folded`` has its batch norms folded into the convolutions before them, which the
other libraries do on their own."""


def require_engine(variant: Variant) -> None:
    """Refuse a variant whose library is not installed here.

    Raises:
        ModelRefusedError: Naming the library.
    """
    if importlib.util.find_spec(variant.engine) is None:
        raise ModelRefusedError(
            f"The model is the variant {variant.name!r}, and {variant.engine!r} is not installed "
            "here. Install catalog-batch[runtimes] on the driver and on every executor, or score "
            "with the version that it was made from."
        )

"""What all engines do with an image: the project's own function, or a published benchmark's.

Rows are those of ``image_predictions`` that a model decides: id, best categories, margin.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from torchvision.transforms import v2

from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Failure, Predictor

TOP_K = 5
BATCH = 32

GUESSES = pa.list_(pa.struct([("category_id", pa.string()), ("confidence", pa.float32())]))
SCHEMA = pa.schema([("image_id", pa.string()), ("top_k", GUESSES), ("margin", pa.float32())])
"""The columns that every lane writes, at the least."""

Score = Callable[[Sequence[bytes]], list[dict[str, Any]]]
"""From stored JPEGs to ``top_k`` and ``margin``."""


def shipped(bundle: Path) -> Score:
    """Return what a scoring worker of ours calls."""
    predictor = Predictor(load_bundle(bundle), TOP_K, BATCH)

    def score(contents: Sequence[bytes]) -> list[dict[str, Any]]:
        results = predictor.predict(contents)
        return [_row(result.top_k, result.margin) for result in results if not _failed(result)]

    return score


def published(bundle: Path) -> Score:
    """Return the arithmetic of published benchmarks.

    Full decode, resizing in floating point, planes of colour, an eager network.
    """
    loaded = load_bundle(bundle)
    names = [label.category_id for label in loaded.spec.classes]
    steps = loaded.spec.preprocessing
    network = loaded.network.to(memory_format=torch.contiguous_format).eval()
    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize(steps.resize_side, antialias=True),
            v2.CenterCrop(steps.side),
            v2.Normalize(steps.mean, steps.std),
        ]
    )

    @torch.inference_mode()
    def score(contents: Sequence[bytes]) -> list[dict[str, Any]]:
        rows = list[dict[str, Any]]()
        for start in range(0, len(contents), BATCH):
            pictures = [
                transform(Image.open(io.BytesIO(content)).convert("RGB"))
                for content in contents[start : start + BATCH]
            ]
            shares, classes = network(torch.stack(pictures)).softmax(1).topk(TOP_K)
            for share, best in zip(shares.tolist(), classes.tolist(), strict=True):
                top_k = tuple(zip([names[index] for index in best], share, strict=True))
                rows.append(_row(top_k, share[0] - share[1]))
        return rows

    return score


ARITHMETIC = {"shipped": shipped, "published": published}


def _failed(result: object) -> bool:
    if isinstance(result, Failure):
        raise ValueError(f"The benchmark's photos are all good: {result}")
    return False


def _row(top_k: Sequence[tuple[str, float]], margin: float) -> dict[str, Any]:
    guesses = [{"category_id": name, "confidence": share} for name, share in top_k]
    return {"top_k": guesses, "margin": margin}

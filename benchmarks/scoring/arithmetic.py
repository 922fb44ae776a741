"""What all engines do with an image: the project's own function, or a published benchmark's."""

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from benchmarks.scoring.rows import Guesses, row_of
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Failure, Prediction, Predictor

TOP_K = 5
BATCH = 32

Score = Callable[[Sequence[bytes]], list[dict[str, Any]]]
"""From stored JPEGs to what ``ANSWER`` holds."""


def shipped(bundle: Path) -> Score:
    """Return what a scoring worker of ours calls."""
    predictor = Predictor(load_bundle(bundle), TOP_K, BATCH)

    def score(contents: Sequence[bytes]) -> list[dict[str, Any]]:
        results = predictor.predict(contents)
        return [row_of(*_parts(result)) for result in results]

    return score


class Published:
    """The arithmetic of published benchmarks.

    Full decode, resizing in floating point, planes of colour, an eager network.
    """

    def __init__(self, bundle: Path) -> None:
        loaded = load_bundle(bundle)
        self._names = [label.category_id for label in loaded.spec.classes]
        self._network = loaded.network.to(memory_format=torch.contiguous_format).eval()
        steps = loaded.spec.preprocessing
        self.side = steps.side
        self._transform = v2.Compose(
            [
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Resize(steps.resize_side, antialias=True),
                v2.CenterCrop(steps.side),
                v2.Normalize(steps.mean, steps.std),
            ]
        )

    def tensor(self, content: bytes) -> Tensor:
        """Decode a picture: float32 [3, side, side]."""
        picture: Tensor = self._transform(Image.open(io.BytesIO(content)).convert("RGB"))
        return picture

    @torch.inference_mode()
    def answers(self, pictures: Tensor) -> list[dict[str, Any]]:
        """Score float32 [N, 3, side, side]."""
        best = self._network(pictures).softmax(1).topk(min(TOP_K, len(self._names)))
        shares, classes = best.values.tolist(), best.indices.tolist()
        return [
            row_of([(self._names[index], part) for index, part in zip(found, share, strict=True)])
            for found, share in zip(classes, shares, strict=True)
        ]

    def __call__(self, contents: Sequence[bytes]) -> list[dict[str, Any]]:
        """Decode and score, a batch at a time."""
        rows = list[dict[str, Any]]()
        for start in range(0, len(contents), BATCH):
            batch = contents[start : start + BATCH]
            rows += self.answers(torch.stack([self.tensor(content) for content in batch]))
        return rows


@cache
def published(bundle: Path) -> Published:
    """Return the one of this process."""
    return Published(bundle)


ARITHMETIC = {"shipped": shipped, "published": published}


def _parts(result: Prediction | Failure) -> tuple[Guesses, Guesses, Guesses, float]:
    if isinstance(result, Failure):
        raise ValueError(f"The benchmark's photos are all good: {result}")
    return result.top_k, result.others, result.nodes, result.energy

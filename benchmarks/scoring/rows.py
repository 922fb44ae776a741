"""What every engine writes of an image: the columns of ``image_predictions``.

What a published benchmark does not compute is empty there.
"""

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

Guesses = Sequence[tuple[str, float]]
"""Category id and confidence."""

GUESSES = pa.list_(pa.struct([("category_id", pa.string()), ("confidence", pa.float32())]))
ANSWER = pa.struct(
    [
        ("top_k", GUESSES),
        ("others", GUESSES),
        ("margin", pa.float32()),
        ("nodes", GUESSES),
        ("energy", pa.float32()),
        ("failure", pa.string()),
        ("answered_at", pa.float64()),
    ]
)
"""What a model says of an image, and when."""

LINEAGE = {"model_name": "bench", "model_version": 1, "run_id": "benchmark"}
"""What an engine writes beside it."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        *ANSWER,
        ("model_name", pa.string()),
        ("model_version", pa.int32()),
        ("run_id", pa.string()),
    ]
)
"""The columns that every lane writes; catalog-batch also those of embeddings and of the night."""


def row_of(
    top_k: Guesses, others: Guesses = (), nodes: Guesses = (), energy: float | None = None
) -> dict[str, Any]:
    """Return a row of ``ANSWER``; it was answered now."""
    first, second = [*(share for _, share in top_k), 0.0][:2]
    return {
        "top_k": _named(top_k),
        "others": _named(others),
        "margin": first - second,
        "nodes": _named(nodes),
        "energy": energy,
        "failure": None,
        "answered_at": time.time(),
    }


def _named(guesses: Guesses) -> list[dict[str, Any]]:
    return [{"category_id": name, "confidence": share} for name, share in guesses]

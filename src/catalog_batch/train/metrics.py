"""Classification figures from a confusion matrix; a division by zero counts as 0.0."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog_batch.errors import BadInputError

Confusion = npt.NDArray[np.integer[Any]]
"""[C, C] counts: rows are true classes, columns predicted ones."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class, by its index in the network's outputs."""

    index: int

    precision: float
    """Share of the rows predicted as this class that are it."""

    recall: float
    """Share of this class's rows that were predicted as it."""

    f1: float
    """Harmonic mean of the two."""

    support: int
    """Rows whose true class this is."""


def class_metrics(confusion: Confusion) -> list[ClassMetrics]:
    """Return the figures of every class, in class order.

    Raises:
        BadInputError: When the matrix is not square.
    """
    _refuse_odd_shape(confusion)
    hits = confusion.diagonal().astype(np.float64)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _share(hits, predicted), _share(hits, true)
    f1 = _share(2 * hits, true + predicted)
    return [
        ClassMetrics(index, float(precision[index]), float(recall[index]), float(f1[index]), rows)
        for index, rows in enumerate(true.tolist())
    ]


def summary(confusion: Confusion) -> dict[str, float]:
    """Return accuracy, macro averages and the number of rows.

    The macro averages run over the classes that occur, as true or as predicted: a class that a
    small validation split lacks says nothing about the model.

    Raises:
        BadInputError: When the matrix is not square.
    """
    classes = class_metrics(confusion)
    occurs = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    present = [metrics for metrics in classes if occurs[metrics.index]]
    count = max(len(present), 1)
    return {
        "accuracy": accuracy(confusion),
        "macro_precision": sum(metrics.precision for metrics in present) / count,
        "macro_recall": sum(metrics.recall for metrics in present) / count,
        "macro_f1": sum(metrics.f1 for metrics in present) / count,
        "rows": float(confusion.sum()),
    }


def accuracy(confusion: Confusion) -> float:
    """Return the share of rows whose predicted class is the true one.

    Raises:
        BadInputError: When the matrix is not square.
    """
    _refuse_odd_shape(confusion)
    return float(confusion.trace() / max(int(confusion.sum()), 1))


def _share(part: _Floats, whole: Confusion) -> _Floats:
    shares: _Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares


def _refuse_odd_shape(confusion: Confusion) -> None:
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise BadInputError(
            f"A confusion matrix of shape {confusion.shape} is not square. "
            "Give one row and one column per class."
        )

"""Confidences that mean what they say: a temperature, and how far off they are.

Guo et al., On Calibration of Modern Neural Networks, 2017: https://arxiv.org/abs/1706.04599
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from catalog_batch.evaluate.predictions import Flags, Floats, Labels, Predictions
from catalog_batch.modeling.confidence import confidences, energies

BINS = 15
"""Bins of equal width over the confidences, as in the paper."""

MIN_ROWS = 50
"""Rows below which a temperature would follow chance more than the model."""

BEYOND_LIMIT = 0.01
"""Share of validation rows that are taken for unlike the training pictures."""

MIN_ROWS_OF_LIMIT = 200
"""Rows below which that share is of fewer than two."""

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are tried."""

_TINY = np.finfo(np.float32).tiny
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


@dataclass(frozen=True)
class Calibration:
    """A temperature, and why it is 1.0 if none was fitted."""

    temperature: float
    """What logits are divided by before softmax; above 1 confidences become smaller."""

    reason: str = ""
    """Why nothing was fitted, for people; empty when something was."""


@dataclass(frozen=True)
class CalibrationBin:
    """The rows whose confidence lies in one bin; the last bin includes 1.0."""

    low: float
    high: float
    rows: int
    mean_confidence: float
    accuracy: float


def best_confidences(predictions: Predictions, temperature: float = 1.0) -> Floats:
    """Return float32 [N], the confidence in each row's predicted class."""
    best: Floats = confidences(predictions.logits, temperature).max(axis=1, initial=0)
    return best


def by_product(predictions: Predictions, temperature: float) -> Predictions:
    """Combine the images of each product as scoring does: by the mean of their confidences.

    Those below 0.01 count here, and there as nothing (``modeling.predictor.LEAST_SHARE``).

    Args:
        predictions: Of images.
        temperature: That their confidences are computed with.

    Returns:
        A row a product, in the order of their ids, whose softmax at temperature 1 is the mean.
    """
    products, first, place, images = np.unique(
        predictions.product_ids, return_index=True, return_inverse=True, return_counts=True
    )
    means = np.zeros((len(products), len(predictions.category_ids)), np.float64)
    np.add.at(means, place, confidences(predictions.logits, temperature))
    means /= images[:, None]
    return replace(
        predictions,
        image_ids=products,
        product_ids=products,
        labels=predictions.labels[first],
        logits=np.log(np.maximum(means, _TINY)).astype(np.float32),
    )


def unlike_training(predictions: Predictions, temperature: float, limit: float | None) -> Flags:
    """Say of which products scoring takes no picture to be like those of training.

    Args:
        predictions: Of images.
        temperature: Of the model.
        limit: Energy that the picture least unlike them exceeds; None for none.

    Returns:
        [P], in the order of ``by_product``.
    """
    products, place = np.unique(predictions.product_ids, return_inverse=True)
    least = np.full(len(products), np.inf)
    np.minimum.at(least, place, energies(predictions.logits, temperature).astype(np.float64))
    unlike: Flags = least > (np.inf if limit is None else limit)
    return unlike


def energy_limit(validation: Predictions, temperature: float) -> float | None:
    """Return the energy that 99 of 100 validation rows do not exceed; None for few rows."""
    if validation.rows < MIN_ROWS_OF_LIMIT:
        return None
    return float(np.quantile(energies(validation.logits, temperature), 1 - BEYOND_LIMIT))


def cross_entropy(logits: Floats, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean negative log likelihood of the true classes, of which there must be some."""
    losses = functional.cross_entropy(
        torch.from_numpy(logits).div(temperature), torch.from_numpy(labels), reduction="none"
    )
    return losses.double().mean().item()


def fit_temperature(validation: Predictions) -> Calibration:
    """Find the temperature with the least cross entropy on the validation rows.

    It stays 1.0, with the reason, when there are fewer than ``MIN_ROWS`` rows, when all are right
    (the lower the better then), when the best temperature is beyond those tried, or when none is
    better than 1.0.
    """
    if validation.rows < MIN_ROWS:
        return Calibration(1.0, f"{validation.rows} validation rows are fewer than {MIN_ROWS}")
    if validation.correct.all():
        return Calibration(1.0, f"all {validation.rows} validation rows are right")

    def loss(log_temperature: float) -> float:
        return cross_entropy(validation.logits, validation.labels, math.exp(log_temperature))

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    if not found.fun < loss(0.0) - 1e-9:
        return Calibration(1.0, "no temperature gives a lower cross entropy than 1.0")
    if min(found.x - bounds[0], bounds[1] - found.x) < 0.01:
        return Calibration(1.0, f"the best temperature is not between {LOWEST} and {HIGHEST}")
    return Calibration(math.exp(found.x))


def calibration_error(predictions: Predictions, temperature: float = 1.0) -> float:
    """Return the expected calibration error: |accuracy - confidence| averaged over all rows."""
    error = multiclass_calibration_error(
        torch.from_numpy(_binnable(confidences(predictions.logits, temperature))),
        torch.from_numpy(predictions.labels),
        num_classes=len(predictions.category_ids),
        n_bins=BINS,
        norm="l1",
    )
    return float(error)


def reliability(predictions: Predictions, temperature: float = 1.0) -> tuple[CalibrationBin, ...]:
    """Return the bins that ``calibration_error`` averages over; empty ones are left out."""
    best = _binnable(best_confidences(predictions, temperature))
    edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
    places = np.digitize(best, edges) - 1
    rows = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, weights=best, minlength=BINS)
    right = np.bincount(places, weights=predictions.correct, minlength=BINS)
    return tuple(
        CalibrationBin(
            low=index / BINS,
            high=(index + 1) / BINS,
            rows=int(rows[index]),
            mean_confidence=float(sums[index] / rows[index]),
            accuracy=float(right[index] / rows[index]),
        )
        for index in np.flatnonzero(rows).tolist()
    )


def _binnable(shares: Floats) -> Floats:
    # torchmetrics gives a confidence of exactly 1 a bin of its own.
    lowered: npt.NDArray[np.float32] = np.minimum(shares, _BELOW_ONE)
    return lowered

"""The least confidence per class at which its predictions are accepted.

"Enough rows to say so" is a one-sided Wilson bound of 90%: for a target of 0.95 it takes 32 rows
if all are right, more with each mistake. Rare classes do not have them, and share a threshold that
is fitted on all rows. The bound holds at each confidence, not for the search over them: simulated,
the precision of all accepted rows reached 0.95 on new rows, that of single classes in about two of
three cases, and 0.93 in four of five.

Wilson, Probable inference, the law of succession, and statistical inference, 1927.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog_batch.evaluate.calibration import best_confidences
from catalog_batch.evaluate.predictions import Flags, Floats, Predictions

NEVER = 2.0
"""Threshold of a class that is never accepted: finite, as JSON needs, and above any confidence."""

Z = 1.2816
"""Standard normal quantile of the bounds: one-sided, 90%."""

MIN_ROWS = 100
"""Validation rows below which no thresholds are fitted: none would be found for most models."""

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Acceptance:
    """What a threshold lets through."""

    predicted: int
    """Rows it was asked about."""

    accepted: int
    right: int

    @property
    def coverage(self) -> float | None:
        """Share of the rows that is accepted; None without rows."""
        return self.accepted / self.predicted if self.predicted else None

    @property
    def precision(self) -> float | None:
        """Share of the accepted rows that is right; None when none is accepted."""
        return self.right / self.accepted if self.accepted else None


@dataclass(frozen=True)
class ThresholdCheck:
    """What thresholds let through of a split."""

    overall: Acceptance
    by_class: dict[str, Acceptance]
    """By the predicted class's category id, of every class."""


def fit_thresholds(
    validation: Predictions, target_precision: float, temperature: float = 1.0
) -> dict[str, float]:
    """Find, for each class, the lowest confidence at which its precision reaches the target.

    In this order, a class gets

    1. the lowest confidence at which its own rows show the target: the lower bound of their
       precision reaches it;
    2. ``NEVER``, when at the pooled threshold its own rows speak against the target: the upper
       bound of their precision lies below it;
    3. the pooled threshold: the lowest confidence at which all rows together show the target;
    4. ``NEVER``, when there is no such confidence.

    Args:
        validation: Rows that the model was not trained on.
        target_precision: 0 to 1, neither included.
        temperature: That confidences are computed with, here as when scoring.

    Returns:
        Thresholds by category id, of all classes; of none when there are fewer than ``MIN_ROWS``
        rows, or than would show the target if all were right.
    """
    if validation.rows < max(MIN_ROWS, rows_to_show(target_precision)):
        return {}
    shares = best_confidences(validation, temperature)
    pooled = lowest_showing(shares, validation.correct, target_precision)
    return {
        category: threshold_of(
            shares[validation.predicted == index],
            validation.correct[validation.predicted == index],
            pooled,
            target_precision,
        )
        for index, category in enumerate(validation.category_ids)
    }


def rows_to_show(target_precision: float) -> int:
    """Return how many rows, all of them right, show that a precision is reached."""
    return math.ceil(Z**2 * target_precision / (1 - target_precision))


def lowest_showing(shares: Floats, correct: Flags, target_precision: float) -> float | None:
    """Return the lowest confidence at which rows show the target precision; None if none does.

    Args:
        shares: [N], confidences in the predicted class.
        correct: [N], whether it is the true one.
        target_precision: For the lower bound of the precision among rows at least that confident.
    """
    order = np.argsort(-shares, kind="stable")
    ordered = shares[order]
    accepted = np.arange(1, len(ordered) + 1)
    lower, _ = wilson_bounds(np.cumsum(correct[order]), accepted)
    # Rows of equal confidence are accepted together.
    is_last_of_equals = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    reached = np.flatnonzero(is_last_of_equals & (lower >= target_precision))
    return float(ordered[reached[-1]]) if len(reached) else None


def wilson_bounds(
    right: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[_Numbers, _Numbers]:
    """Return the one-sided lower and upper bounds of shares ``right / rows``; rows are not 0."""
    share = right / rows
    centre = share + Z**2 / (2 * rows)
    spread = Z * np.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    scale = 1 + Z**2 / rows
    return (centre - spread) / scale, (centre + spread) / scale


def check_thresholds(
    predictions: Predictions,
    thresholds: Mapping[str, float],
    temperature: float = 1.0,
    otherwise: float = 0.0,
    withheld: Flags | None = None,
) -> ThresholdCheck:
    """Count what thresholds accept of a split they were not fitted on.

    Args:
        predictions: Of that split.
        thresholds: Least confidence by category id.
        temperature: As in ``fit_thresholds``.
        otherwise: Least confidence of a category without a threshold.
        withheld: [N], rows that are not accepted for another reason; None for none.
    """
    accepted = reaching(predictions, thresholds, temperature, otherwise)
    if withheld is not None:
        accepted &= ~withheld
    right = accepted & predictions.correct
    count, classes = np.bincount, len(predictions.category_ids)
    by_class = zip(
        predictions.category_ids,
        count(predictions.predicted, minlength=classes).tolist(),
        count(predictions.predicted[accepted], minlength=classes).tolist(),
        count(predictions.predicted[right], minlength=classes).tolist(),
        strict=True,
    )
    overall = Acceptance(predictions.rows, int(accepted.sum()), int(right.sum()))
    return ThresholdCheck(
        overall, {category: Acceptance(*counts) for category, *counts in by_class}
    )


def reaching(
    predictions: Predictions,
    thresholds: Mapping[str, float],
    temperature: float = 1.0,
    otherwise: float = 0.0,
) -> Flags:
    """Return [N], whether the confidence in the best class reaches its threshold.

    Takes what ``check_thresholds`` takes.
    """
    least = least_confidences(predictions.category_ids, thresholds, otherwise)
    found: Flags = best_confidences(predictions, temperature) >= least[predictions.predicted]
    return found


def least_confidences(
    category_ids: Sequence[str], thresholds: Mapping[str, float], otherwise: float
) -> Floats:
    """Return float32 [C], each class's threshold: as the confidences are and scoring compares."""
    return np.array([thresholds.get(name, otherwise) for name in category_ids], dtype=np.float32)


def threshold_of(
    shares: Floats, correct: Flags, pooled: float | None, target_precision: float
) -> float:
    """Find the threshold of one class among the rows predicted as it: see ``fit_thresholds``.

    Args:
        shares: [N], confidences.
        correct: [N], whether each row is right.
        pooled: The threshold that all rows show, if any.
        target_precision: As there.
    """
    own = lowest_showing(shares, correct, target_precision)
    if own is not None:
        return own
    if pooled is None:
        return NEVER
    accepted = shares >= np.float32(pooled)
    rows = accepted.sum()
    if rows:
        _, upper = wilson_bounds(correct[accepted].sum(), rows)
        if upper < target_precision:
            return NEVER
    return pooled

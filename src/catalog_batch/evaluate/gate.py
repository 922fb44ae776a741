"""Whether a challenger may take the champion's place, by what both answered for the same rows.

Classes are matched by category id, since two models need not have the same ones:

- a row whose class a model lacks counts as wrong for it, in accuracy, recall and calibration;
- a class that the champion lacks cannot get worse: ``max_class_loss`` passes over it;
- a class that the champion has and the challenger lacks falls to a recall of 0. If no row is of
  that class, no figure shows it: ``lost_classes`` names such classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import binary_calibration_error

from catalog_batch.evaluate.calibration import BINS
from catalog_batch.evaluate.predictions import Flags, Floats

Names = npt.NDArray[np.str_]

TOLERANCE = 1e-7
"""By how much a figure may miss its bound: in binary 0.85 - 0.80 is a little less than 0.05."""

_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))

_FIGURES = {
    "min_accuracy": "accuracy",
    "min_improvement": "accuracy",
    "max_class_loss": "recall",
    "max_calibration_error": "calibration error",
}


@dataclass(frozen=True)
class Bounds:
    """What is asked of a challenger; ``config.PromoteSettings`` explains each."""

    min_accuracy: float
    min_improvement: float
    max_class_loss: float
    min_class_rows: int
    max_calibration_error: float
    min_test_rows: int
    allow_doubt: bool


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answered for N rows: the category it would publish, and how sure it is."""

    classes: Mapping[str, str]
    """Paths of the model's classes by category id."""

    categories: Names
    """[N], the category id answered for each row."""

    confidences: Floats
    """[N], after the model's temperature."""


@dataclass(frozen=True)
class Check:
    """One bound, and the figures that it was compared with."""

    name: str
    """Of the setting under ``promote``."""

    bound: float
    champion: float | None
    """The champion's figure; None when there is no champion, or nothing to compare."""

    challenger: float | None
    passed: bool
    rows: int
    """Test rows that the figures are of."""

    category_path: str | None = None
    """The class that got worst, for ``max_class_loss``."""

    def __str__(self) -> str:
        """Return bound and figures as a part of a sentence."""
        if self.name == "min_test_rows":
            return f"promote.{self.name} is {self.bound:g}, and there are {self.rows:,} test rows"
        if self.name == "allow_doubt":
            return f"promote.{self.name} is false, and it may have seen some of the test rows"
        where = f" of {self.category_path!r}" if self.category_path else ""
        figures = [
            f"{value:.6g} for the {model}"
            for model, value in (("challenger", self.challenger), ("champion", self.champion))
            if value is not None
        ]
        return (
            f"promote.{self.name} is {self.bound:g}, and the {_FIGURES[self.name]}{where} over "
            f"{self.rows:,} test rows is {' and '.join(figures) or 'unknown'}"
        )


@dataclass(frozen=True, eq=False)
class _Figures:
    """A model's figures on one row or more."""

    correct: Flags
    """[N], whether the answer is the true category."""

    accuracy: float
    calibration_error: float


def check_challenger(
    true: Names,
    challenger: Answers,
    champion: Answers | None,
    bounds: Bounds,
    is_doubtful: bool = False,
) -> list[Check]:
    """Compare a challenger with the bounds and with the champion.

    Args:
        true: [N], category ids of the test rows, which both models answered in this order.
        challenger: Its answers.
        champion: None for a model that has no champion: then only ``min_accuracy`` and
            ``max_calibration_error`` apply.
        bounds: That must hold; a figure that equals its bound passes.
        is_doubtful: Whether the challenger may have been trained on some of the rows.

    Returns:
        A check of each bound that applies; of ``min_test_rows`` and ``allow_doubt`` only where they
        fail. Without rows only ``min_accuracy``, not passed.
    """
    if not len(true):
        return [Check("min_accuracy", bounds.min_accuracy, None, None, passed=False, rows=0)]
    new = _figures(true, challenger)
    old = _figures(true, champion) if champion else None
    checks = [
        Check(
            "min_accuracy",
            bounds.min_accuracy,
            old.accuracy if old else None,
            new.accuracy,
            at_least(new.accuracy, bounds.min_accuracy),
            len(true),
        ),
        Check(
            "max_calibration_error",
            bounds.max_calibration_error,
            old.calibration_error if old else None,
            new.calibration_error,
            at_least(bounds.max_calibration_error, new.calibration_error),
            len(true),
        ),
    ]
    if len(true) < bounds.min_test_rows:
        checks.append(_without_figures("min_test_rows", bounds.min_test_rows, len(true)))
    if is_doubtful and not bounds.allow_doubt:
        checks.append(_without_figures("allow_doubt", 0, len(true)))
    if champion and old:
        checks += [
            Check(
                "min_improvement",
                bounds.min_improvement,
                old.accuracy,
                new.accuracy,
                at_least(new.accuracy - old.accuracy, bounds.min_improvement),
                len(true),
            ),
            _check_worst_class(true, old.correct, new.correct, champion.classes, bounds),
        ]
    return checks


def lost_classes(challenger: Mapping[str, str], champion: Mapping[str, str]) -> list[str]:
    """Return the paths of the champion's classes that the challenger lacks, of both by id."""
    return sorted(path for category, path in champion.items() if category not in challenger)


def _without_figures(name: str, bound: float, rows: int) -> Check:
    return Check(name, bound, None, None, passed=False, rows=rows)


def _figures(true: Names, answers: Answers) -> _Figures:
    correct: Flags = answers.categories == true
    # torchmetrics gives a confidence of exactly 1 a bin of its own.
    shares = np.minimum(answers.confidences, _BELOW_ONE)
    error = binary_calibration_error(
        torch.from_numpy(shares), torch.from_numpy(correct), n_bins=BINS, norm="l1"
    )
    return _Figures(correct, float(correct.mean()), float(error))


def _check_worst_class(
    true: Names, old: Flags, new: Flags, known: Mapping[str, str], bounds: Bounds
) -> Check:
    """Check the class whose recall falls most, among those with enough rows.

    Args:
        true: [N], category ids.
        old: [N], whether the champion is right.
        new: [N], whether the challenger is.
        known: Paths of the champion's classes by category id.
        bounds: ``max_class_loss`` and ``min_class_rows``.
    """
    categories, codes, rows = np.unique(true, return_inverse=True, return_counts=True)
    old_recall = np.bincount(codes, weights=old) / rows
    new_recall = np.bincount(codes, weights=new) / rows
    counts = np.isin(categories, list(known)) & (rows >= bounds.min_class_rows)
    if not counts.any():
        return Check("max_class_loss", bounds.max_class_loss, None, None, passed=True, rows=0)
    worst = int(np.where(counts, old_recall - new_recall, -np.inf).argmax())
    return Check(
        "max_class_loss",
        bounds.max_class_loss,
        float(old_recall[worst]),
        float(new_recall[worst]),
        at_least(bounds.max_class_loss, old_recall[worst] - new_recall[worst]),
        int(rows[worst]),
        known[str(categories[worst])],
    )


def at_least(figure: float, bound: float) -> bool:
    """Return whether a figure reaches its bound, but for ``TOLERANCE``."""
    return bool(figure >= bound - TOLERANCE)

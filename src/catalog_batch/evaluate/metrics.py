"""The figures of a model on one split, from its predictions.

Classes that occur nowhere, neither as true nor as predicted, are left out of macro averages: a
class that a small split lacks says nothing about the model. A division by zero counts as 0.0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_accuracy

from catalog_batch.evaluate import calibration
from catalog_batch.evaluate.calibration import CalibrationBin
from catalog_batch.evaluate.hierarchy import Tree, hierarchical_scores
from catalog_batch.evaluate.predictions import Flags, Predictions
from catalog_batch.evaluate.resampling import Interval, Intervals, Outcomes, bootstrap_intervals

TOP_K = 5
CURVE_POINTS = 200
"""Most points of a coverage curve."""


@dataclass(frozen=True)
class Figure:
    """A figure with its bootstrap interval of 95%, where it has one."""

    value: float
    interval: Interval = None


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class."""

    category_id: str
    category_path: str
    support: int
    """Rows whose true class this is."""

    predicted: int
    """Rows predicted as this class."""

    precision: Figure
    recall: Figure
    f1: Figure


@dataclass(frozen=True)
class ConfusionCell:
    """How many rows of one class were predicted as another, or as itself."""

    true: str
    """Category id."""

    predicted: str
    rows: int


@dataclass(frozen=True)
class CurvePoint:
    """What accepting every prediction of at least a confidence would give."""

    threshold: float
    coverage: float
    """Share of all rows that is accepted."""

    precision: float
    """Share of the accepted rows that is right."""


@dataclass(frozen=True)
class SplitEvaluation:
    """All figures of a model on one split; those that need a row are empty without any."""

    split: str
    rows: int
    figures: dict[str, Figure]
    """By name, as ``evaluate_split`` lists them."""

    classes: tuple[ClassFigures, ...]
    """In the order of the network's outputs."""

    confusion: tuple[ConfusionCell, ...]
    """Cells that are not zero."""

    curve: tuple[CurvePoint, ...]
    """Of products, from the most confident one on to all."""

    bins: tuple[CalibrationBin, ...]
    """Reliability with the temperature."""

    uncalibrated_bins: tuple[CalibrationBin, ...]
    """Reliability without it."""


def evaluate_split(
    predictions: Predictions, temperature: float = 1.0, seed: int = 17, resamples: int = 1000
) -> SplitEvaluation:
    """Compute every figure of a split.

    ``figures`` holds, each with an interval but for losses and calibration errors:

    - ``accuracy``, ``top5_accuracy``, ``macro_`` and ``weighted_f1``, ``macro_precision``,
      ``macro_recall``;
    - ``accuracy_level_1``, ...: of the rows whose path has that level, the share whose predicted
      path agrees up to it;
    - ``hierarchical_precision``, ``hierarchical_recall``, ``hierarchical_f1``;
    - ``mistake_severity``: mean number of edges in the tree between true and predicted class, over
      the mistakes; not there when there are none;
    - ``loss``, ``calibrated_loss``: mean cross entropy, without and with the temperature;
    - ``calibration_error``, ``uncalibrated_calibration_error``: with the temperature and without.

    Args:
        predictions: Of the split; of no rows they give no figures.
        temperature: Fitted on the validation split.
        seed: Of the resampling.
        resamples: Of the products, for the intervals.
    """
    if not predictions.rows:
        return SplitEvaluation(predictions.split, 0, {}, (), (), (), (), ())
    tree = Tree.of(predictions.category_paths)
    outcomes = Outcomes.of(
        predictions.labels,
        predictions.predicted,
        in_top_k(predictions, TOP_K),
        len(predictions.category_ids),
        predictions.product_ids,
    )
    intervals = bootstrap_intervals(outcomes, tree, seed, resamples)
    values = {
        **_flat_figures(predictions),
        **_tree_figures(predictions, tree),
        **_confidence_figures(predictions, temperature),
    }
    return SplitEvaluation(
        split=predictions.split,
        rows=predictions.rows,
        figures={
            name: Figure(value, intervals.overall.get(name)) for name, value in values.items()
        },
        classes=_class_figures(predictions, intervals),
        confusion=confusion_cells(predictions),
        curve=coverage_curve(calibration.by_product(predictions, temperature)),
        bins=calibration.reliability(predictions, temperature),
        uncalibrated_bins=calibration.reliability(predictions),
    )


def in_top_k(predictions: Predictions, k: int) -> Flags:
    """Return [N], whether fewer than ``k`` classes have a larger logit than the true one."""
    own = predictions.logits[np.arange(predictions.rows), predictions.labels]
    better: Flags = (predictions.logits > own[:, None]).sum(axis=1) < k
    return better


def confusion_cells(predictions: Predictions) -> tuple[ConfusionCell, ...]:
    """Count the rows by true and predicted class, in class order."""
    classes = len(predictions.category_ids)
    codes, rows = np.unique(
        predictions.labels * classes + predictions.predicted, return_counts=True
    )
    names = predictions.category_ids
    return tuple(
        ConfusionCell(names[code // classes], names[code % classes], count)
        for code, count in zip(codes.tolist(), rows.tolist(), strict=True)
    )


def coverage_curve(predictions: Predictions, temperature: float = 1.0) -> tuple[CurvePoint, ...]:
    """Return coverage and precision at up to ``CURVE_POINTS`` of the confidences that occur."""
    shares = calibration.best_confidences(predictions, temperature)
    order = np.argsort(-shares, kind="stable")
    ordered, right = shares[order], np.cumsum(predictions.correct[order])
    # Rows of equal confidence are accepted together: a point stands after the last of them.
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    chosen = np.unique(np.linspace(0, len(ends) - 1, min(CURVE_POINTS, len(ends))).astype(int))
    return tuple(
        CurvePoint(
            threshold=float(ordered[end]),
            coverage=(end + 1) / predictions.rows,
            precision=float(right[end]) / (end + 1),
        )
        for end in ends[chosen].tolist()
    )


def _flat_figures(predictions: Predictions) -> dict[str, float]:
    true, predicted = predictions.labels, predictions.predicted
    # Without labels= these run over the classes that occur.
    precision, recall, macro_f1, _ = precision_recall_fscore_support(
        true, predicted, average="macro", zero_division=0.0
    )
    *_, weighted_f1, _ = precision_recall_fscore_support(
        true, predicted, average="weighted", zero_division=0.0
    )
    top_k = multiclass_accuracy(
        torch.from_numpy(predictions.logits),
        torch.from_numpy(true),
        num_classes=len(predictions.category_ids),
        top_k=min(TOP_K, len(predictions.category_ids)),
        average="micro",
    )
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        f"top{TOP_K}_accuracy": float(top_k),
        "macro_precision": float(precision),
        "macro_recall": float(recall),
        "macro_f1": float(macro_f1),
        "weighted_f1": float(weighted_f1),
    }


def _tree_figures(predictions: Predictions, tree: Tree) -> dict[str, float]:
    true, predicted = predictions.labels, predictions.predicted
    figures = {}
    for level in tree.levels:
        has_level = tree.depth[true] >= level
        if has_level.any():
            agrees = tree.agrees(true[has_level], predicted[has_level], level)
            figures[f"accuracy_level_{level}"] = float(agrees.mean())
    figures |= hierarchical_scores(predictions, tree)
    mistakes = ~predictions.correct
    if mistakes.any():
        distances = tree.distance(true[mistakes], predicted[mistakes])
        figures["mistake_severity"] = float(distances.mean())
    return figures


def _confidence_figures(predictions: Predictions, temperature: float) -> dict[str, float]:
    logits, labels = predictions.logits, predictions.labels
    return {
        "loss": calibration.cross_entropy(logits, labels),
        "calibrated_loss": calibration.cross_entropy(logits, labels, temperature),
        "uncalibrated_calibration_error": calibration.calibration_error(predictions),
        "calibration_error": calibration.calibration_error(predictions, temperature),
    }


def _class_figures(predictions: Predictions, intervals: Intervals) -> tuple[ClassFigures, ...]:
    indices = range(len(predictions.category_ids))
    precision, recall, f1, support = precision_recall_fscore_support(
        predictions.labels, predictions.predicted, labels=list(indices), zero_division=0.0
    )
    predicted = np.bincount(predictions.predicted, minlength=len(indices))
    by_class = intervals.by_class
    return tuple(
        ClassFigures(
            category_id=predictions.category_ids[index],
            category_path=predictions.category_paths[index],
            support=int(support[index]),
            predicted=int(predicted[index]),
            precision=Figure(float(precision[index]), by_class["precision"][index]),
            recall=Figure(float(recall[index]), by_class["recall"][index]),
            f1=Figure(float(f1[index]), by_class["f1"][index]),
        )
        for index in indices
    )

"""A judgement as rows of the tables ``evaluation_metrics``, ``class_metrics`` and others."""

from collections.abc import Iterator, Mapping
from typing import Any

from catalog_batch.evaluate.calibration import CalibrationBin
from catalog_batch.evaluate.judgement import Judgement
from catalog_batch.evaluate.metrics import ClassFigures, Figure, SplitEvaluation
from catalog_batch.evaluate.thresholds import Acceptance

Row = dict[str, Any]

EVALUATION_TABLES = (
    "evaluation_metrics",
    "class_metrics",
    "confusion_matrix",
    "threshold_curve",
    "calibration_bins",
)
"""What ``evaluation_rows`` has rows of."""


def evaluation_rows(judgement: Judgement) -> dict[str, list[Row]]:
    """Return the rows by table, without the columns that say which model they are of."""
    evaluations = judgement.evaluations.values()
    rows = {
        "evaluation_metrics": [
            *_temperature_rows(judgement),
            *(row for found in evaluations for row in _metric_rows(found, judgement)),
        ],
        "class_metrics": [row for found in evaluations for row in _class_rows(found, judgement)],
        "confusion_matrix": [
            _of(
                found,
                true_category_id=cell.true,
                predicted_category_id=cell.predicted,
                rows=cell.rows,
            )
            for found in evaluations
            for cell in found.confusion
        ],
        "threshold_curve": [
            _of(found, **vars(point)) for found in evaluations for point in found.curve
        ],
        "calibration_bins": [row for found in evaluations for row in _bin_rows(found)],
    }
    return rows


def _of(evaluation: SplitEvaluation, **values: Any) -> Row:
    return {"split": evaluation.split, **values}


def _temperature_rows(judgement: Judgement) -> Iterator[Row]:
    if "validation" in judgement.evaluations:
        yield {
            "split": "validation",
            "name": "temperature",
            "value": judgement.decider.temperature,
            **_bounds(None),
        }


def _metric_rows(evaluation: SplitEvaluation, judgement: Judgement) -> Iterator[Row]:
    for name, figure in evaluation.figures.items():
        yield _of(evaluation, name=name, value=figure.value, **_bounds(figure))
    yield _of(evaluation, name="rows", value=float(evaluation.rows), **_bounds(None))
    for name, value in judgement.decision_figures(evaluation.split).items():
        yield _of(evaluation, name=name, value=value, **_bounds(None))


def _class_rows(evaluation: SplitEvaluation, judgement: Judgement) -> Iterator[Row]:
    check = judgement.acceptance.get(evaluation.split)
    by_class = check.by_class if check else {}
    for figures in evaluation.classes:
        yield _of(
            evaluation,
            category_id=figures.category_id,
            category_path=figures.category_path,
            support=figures.support,
            predicted=figures.predicted,
            **_class_figures(figures),
            threshold=judgement.decider.thresholds.get(figures.category_id),
            **_accepted(by_class.get(figures.category_id)),
        )


def _class_figures(figures: ClassFigures) -> Row:
    named = {"precision": figures.precision, "recall": figures.recall, "f1": figures.f1}
    row: Row = {}
    for name, figure in named.items():
        row[name] = figure.value
        row |= {f"{name}_{bound}": value for bound, value in _bounds(figure).items()}
    return row


def _accepted(acceptance: Acceptance | None) -> Row:
    return {
        "accepted": acceptance.accepted if acceptance else None,
        "accepted_precision": acceptance.precision if acceptance else None,
    }


def _bin_rows(evaluation: SplitEvaluation) -> Iterator[Row]:
    kinds: Mapping[bool, tuple[CalibrationBin, ...]] = {
        True: evaluation.bins,
        False: evaluation.uncalibrated_bins,
    }
    for is_calibrated, bins in kinds.items():
        for found in bins:
            yield _of(evaluation, is_calibrated=is_calibrated, **vars(found))


def _bounds(figure: Figure | None) -> Row:
    low, high = (figure and figure.interval) or (None, None)
    return {"low": low, "high": high}

"""A temperature, thresholds and figures from what a model said of validation and test rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from catalog_batch.evaluate.calibration import fit_temperature
from catalog_batch.evaluate.metrics import SplitEvaluation, evaluate_split
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.thresholds import (
    Acceptance,
    ThresholdCheck,
    check_thresholds,
    fit_thresholds,
)


@dataclass(frozen=True)
class Decider:
    """What turns a model's logits into confidences, and these into accepted categories."""

    temperature: float
    thresholds: dict[str, float]
    """Least confidence by category id; of all classes, or of none."""

    reason: str = field(default="", compare=False)
    """What was not fitted and why, for people; empty when both were."""


@dataclass(frozen=True)
class Judgement:
    """All that is known of a model from its predictions."""

    decider: Decider
    evaluations: dict[str, SplitEvaluation]
    """By split."""

    acceptance: dict[str, ThresholdCheck]
    """By split: what the thresholds let through; empty without thresholds."""

    def metrics(self) -> dict[str, float]:
        """Return the figures by split and name: ``test_accuracy``, ``validation_macro_f1``, ..."""
        return {
            f"{split}_{name}": value
            for split, evaluation in self.evaluations.items()
            if evaluation.rows
            for name, value in {
                **{name: figure.value for name, figure in evaluation.figures.items()},
                **accepted_figures(self.acceptance[split].overall if self.acceptance else None),
                "rows": float(evaluation.rows),
            }.items()
        }


def fit_decider(validation: Predictions, target_precision: float) -> Decider:
    """Fit the temperature, and with it the thresholds, on the validation rows."""
    calibration = fit_temperature(validation)
    thresholds = fit_thresholds(validation, target_precision, calibration.temperature)
    problems = [f"temperature stays 1: {calibration.reason}"] if calibration.reason else []
    if not thresholds:
        problems.append(f"no thresholds: {validation.rows} validation rows are too few")
    return Decider(calibration.temperature, thresholds, "; ".join(problems))


def judge(
    predictions: Mapping[str, Predictions], decider: Decider, seed: int, resamples: int = 1000
) -> Judgement:
    """Evaluate a model on each split, and count what its thresholds accept there.

    Args:
        predictions: By split.
        decider: Fitted on the validation split.
        seed: Of the bootstrap.
        resamples: For each interval.
    """
    return Judgement(
        decider,
        {
            split: evaluate_split(found, decider.temperature, seed, resamples)
            for split, found in predictions.items()
        },
        {
            split: check_thresholds(found, decider.thresholds, decider.temperature)
            for split, found in predictions.items()
            if decider.thresholds
        },
    )


def accepted_figures(acceptance: Acceptance | None) -> dict[str, float]:
    """Return ``accepted_share`` and ``accepted_precision``, as far as they are defined."""
    if acceptance is None:
        return {}
    figures = {
        "accepted_share": acceptance.coverage,
        "accepted_precision": acceptance.precision,
    }
    return {name: value for name, value in figures.items() if value is not None}

"""A temperature, thresholds and figures from what a model said of validation and test rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from catalog_batch.evaluate.back_off import decide, fit_node_thresholds
from catalog_batch.evaluate.calibration import (
    by_product,
    energy_limit,
    fit_temperature,
    unlike_training,
)
from catalog_batch.evaluate.metrics import SplitEvaluation, evaluate_split
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.thresholds import (
    Acceptance,
    ThresholdCheck,
    check_thresholds,
    fit_thresholds,
)
from catalog_batch.modeling.spec import BundleSpec


@dataclass(frozen=True)
class Decider:
    """What turns a model's logits into confidences, and these into accepted categories."""

    temperature: float
    thresholds: dict[str, float]
    """Least confidence by category id; of all classes, or of none."""

    node_thresholds: dict[str, float] = field(default_factory=dict)
    """Least sum of confidences by an inner node's category id; of all of them, or of none."""

    energy_limit: float | None = None
    """Energy that the picture of a product of a known class rarely exceeds; None when unknown."""

    reason: str = field(default="", compare=False)
    """What was not fitted and why, for people; empty when both were."""

    @classmethod
    def of(cls, spec: BundleSpec) -> "Decider":
        """Return that of a bundle."""
        return cls(spec.temperature, spec.thresholds, spec.node_thresholds, spec.energy_limit)


@dataclass(frozen=True)
class Judgement:
    """All that is known of a model from its predictions."""

    decider: Decider
    evaluations: dict[str, SplitEvaluation]
    """By split."""

    acceptance: dict[str, ThresholdCheck]
    """By split: what the thresholds let through of its products, but for those that show nothing
    like the training pictures; empty without thresholds."""

    backed_off: dict[str, Acceptance]
    """By split: of the products that no class was given for, those that a node above it was."""

    def metrics(self) -> dict[str, float]:
        """Return the figures by split and name: ``test_accuracy``, ``validation_macro_f1``, ..."""
        return {
            f"{split}_{name}": value
            for split, evaluation in self.evaluations.items()
            if evaluation.rows
            for name, value in {
                **{name: figure.value for name, figure in evaluation.figures.items()},
                **self.decision_figures(split),
                "rows": float(evaluation.rows),
            }.items()
        }

    def decision_figures(self, split: str) -> dict[str, float]:
        """Return shares of products and how many are right, as far as they are defined.

        ``accepted_share``, ``accepted_precision``; ``backed_off_share``, of all products,
        ``backed_off_precision``: whether the true category is the given one or below it.
        """
        if split not in self.acceptance:
            return {}
        accepted, given = self.acceptance[split].overall, self.backed_off[split]
        figures = {
            "accepted_share": accepted.coverage,
            "accepted_precision": accepted.precision,
            "backed_off_share": given.accepted / accepted.predicted if accepted.predicted else None,
            "backed_off_precision": given.precision,
        }
        return {name: value for name, value in figures.items() if value is not None}


def fit_decider(validation: Predictions, target_precision: float) -> Decider:
    """Fit the temperature on the validation images, and the thresholds on their products."""
    calibration = fit_temperature(validation)
    products = by_product(validation, calibration.temperature)
    thresholds = fit_thresholds(products, target_precision)
    nodes = fit_node_thresholds(products, thresholds, target_precision)
    limit = energy_limit(validation, calibration.temperature)
    problems = [f"temperature stays 1: {calibration.reason}"] if calibration.reason else []
    if not thresholds:
        problems.append(f"no thresholds: {products.rows} validation products are too few")
    return Decider(calibration.temperature, thresholds, nodes, limit, "; ".join(problems))


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
    fitted = {split: found for split, found in predictions.items() if decider.thresholds}
    products = {split: by_product(found, decider.temperature) for split, found in fitted.items()}
    withheld = {
        split: unlike_training(found, decider.temperature, decider.energy_limit)
        for split, found in fitted.items()
    }
    return Judgement(
        decider,
        {
            split: evaluate_split(found, decider.temperature, seed, resamples)
            for split, found in predictions.items()
        },
        {
            split: check_thresholds(found, decider.thresholds, withheld=withheld[split])
            for split, found in products.items()
        },
        {
            split: decide(
                found, decider.thresholds, decider.node_thresholds, withheld=withheld[split]
            ).backed_off
            for split, found in products.items()
        },
    )

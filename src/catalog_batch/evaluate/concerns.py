"""What a reader of a report should worry about, in sentences that give the figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from catalog_batch.evaluate.findings import (
    ConfusedPair,
    RowChanges,
    class_changes,
    short_names,
    weakest_first,
)
from catalog_batch.evaluate.judgement import Judgement
from catalog_batch.evaluate.metrics import SplitEvaluation
from catalog_batch.evaluate.thresholds import NEVER, Acceptance, wilson_bounds

WIDE_INTERVAL = 0.06
"""Width of the interval of accuracy above which rows are called few."""

LEARNT_BY_HEART = 0.1
"""By how much the accuracy of training rows may exceed that of validation rows."""

WAITING = 0.2
"""Share of the time spent waiting for batches above which that is said."""

UNCALIBRATED = 0.05
"""Calibration error above which confidences are not to be trusted."""

UNSUITABLE = 1.02
"""How much larger the temperature may make the loss of test rows, as a factor."""

WEAK_F1 = 0.5
FEW_ROWS = 10
"""Rows of a class below which its figures say little."""

OFTEN_CONFUSED = 0.05
"""Share of all mistakes that makes one pair of classes worth a sentence."""

LOST_F1 = 0.1
"""Loss of a class's F1 against the champion that is worth a sentence."""

CHANCE = 0.05
"""p-value below which a difference between two models counts as more than chance."""

NAMED = 5
"""Most classes a sentence names."""


@dataclass(frozen=True)
class Concern:
    """One thing to worry about."""

    text: str
    section: str
    """Id of the section of the page that shows it."""


def start_concerns(doubt: str) -> Iterator[Concern]:
    """Say what the weights that training started from make doubtful, if anything."""
    if doubt:
        yield Concern(doubt, "figures")


def training_concerns(history: Sequence[Mapping[str, Any]]) -> Iterator[Concern]:
    """Say what the course of the training gives away."""
    if not history:
        return
    improved = [row for row in history if row.get("improved")]
    best = (improved or history)[-1]
    gap = best.get("train_accuracy", 0.0) - best.get("validation_accuracy", 0.0)
    if gap > LEARNT_BY_HEART:
        yield Concern(
            f"Training rows are right {_points(gap)} points more often than validation rows: the "
            "model has learnt photos by heart. More varied photos, stronger augmentation or "
            "weight decay help.",
            "training",
        )
    losses = [row.get("validation_loss", 0.0) for row in history]
    if len(history) > 1 and best is history[-1] and losses[-1] == min(losses):
        yield Concern("The last epoch was the best one: more epochs may give more.", "training")
    if not history[-1].get("validation_rows", 1):
        yield Concern(
            "There are no validation rows: early stopping and the choice of weights went by the "
            "training loss, which falls while a model learns by heart.",
            "training",
        )
    waiting = float(np.mean([row.get("wait_share", 0.0) for row in history]))
    if waiting > WAITING:
        yield Concern(
            f"Training spent {waiting:.0%} of its time waiting for photos: more decoding threads "
            "would make it faster.",
            "training",
        )


def figure_concerns(judgement: Judgement, evaluation: SplitEvaluation) -> Iterator[Concern]:
    """Say what is doubtful about the figures themselves, and about the confidences."""
    interval = evaluation.figures["accuracy"].interval
    if interval and interval[1] - interval[0] > WIDE_INTERVAL:
        yield Concern(
            f"{evaluation.rows:,} rows are few: models whose accuracies are closer than "
            f"{_points(interval[1] - interval[0])} points cannot be told apart.",
            "figures",
        )
    yield from _difference_of_splits(judgement)
    error = evaluation.figures["calibration_error"].value
    if error > UNCALIBRATED:
        yield Concern(
            f"Confidences are off by {_points(error)} points on average, with the temperature.",
            "calibration",
        )
    before, after = (evaluation.figures[name].value for name in ("loss", "calibrated_loss"))
    if after > UNSUITABLE * before and evaluation.split == "test":
        yield Concern(
            f"The temperature, fitted on validation, does not suit test: the loss is {before:.3f} "
            f"without it and {after:.3f} with it.",
            "calibration",
        )
    if judgement.decider.reason:
        yield Concern(f"Not everything was fitted: {judgement.decider.reason}.", "calibration")


def acceptance_concerns(
    judgement: Judgement, evaluation: SplitEvaluation, target_precision: float
) -> Iterator[Concern]:
    """Say where the thresholds do not give what they were fitted for."""
    thresholds = judgement.decider.thresholds
    if not thresholds:
        yield Concern(
            "There are no thresholds: scoring accepts what reaches score.min_confidence, and "
            "nothing says how often that is right.",
            "acceptance",
        )
        return
    accepted = judgement.acceptance[evaluation.split].overall
    if not accepted.accepted:
        yield Concern("No prediction is accepted: the target is out of reach.", "acceptance")
    elif accepted.right / accepted.accepted < target_precision:
        yield Concern(
            f"Accepted predictions are right in {accepted.right / accepted.accepted:.1%} of the "
            f"{evaluation.split} products, below the target of {target_precision:.1%}"
            f"{_beyond_chance(accepted, target_precision)}.",
            "acceptance",
        )
    given = judgement.backed_off[evaluation.split]
    if given.accepted and given.right / given.accepted < target_precision:
        yield Concern(
            f"Categories above the class are right for {given.right / given.accepted:.1%} of the "
            f"{given.accepted:,} {evaluation.split} products that get one, below the target of "
            f"{target_precision:.1%}{_beyond_chance(given, target_precision)}.",
            "acceptance",
        )
    never = [
        found.category_path
        for found in evaluation.classes
        if thresholds.get(found.category_id, 0.0) >= NEVER
    ]
    if never and accepted.accepted:
        yield Concern(
            f"{_classes(len(never))} never accepted: {_named(never)}.",
            "classes",
        )


def class_concerns(evaluation: SplitEvaluation, pairs: Sequence[ConfusedPair]) -> Iterator[Concern]:
    """Say which classes are weak, which are too rare to tell, and which are mixed up."""
    weak = [
        found.category_path
        for found in weakest_first(evaluation)
        if found.f1.value < WEAK_F1 and found.support >= FEW_ROWS
    ]
    if weak:
        yield Concern(f"{_classes(len(weak))} below an F1 of {WEAK_F1}: {_named(weak)}.", "classes")
    rare = sum(found.support < FEW_ROWS for found in evaluation.classes)
    if rare:
        yield Concern(
            f"{_classes(rare)} judged by fewer than {FEW_ROWS} rows: their figures say little.",
            "classes",
        )
    mistakes = sum(cell.rows for cell in evaluation.confusion if cell.true != cell.predicted)
    if pairs and pairs[0].rows >= OFTEN_CONFUSED * mistakes and pairs[0].rows >= FEW_ROWS:
        true, predicted = short_names([pairs[0].true, pairs[0].predicted])
        yield Concern(
            f"{pairs[0].rows / mistakes:.0%} of all mistakes are {true} taken for {predicted}.",
            "pairs",
        )


def champion_concerns(
    before: SplitEvaluation, after: SplitEvaluation, changes: RowChanges | None
) -> Iterator[Concern]:
    """Say where the model is worse than the champion."""
    old, new = before.figures["accuracy"].value, after.figures["accuracy"].value
    if new < old:
        is_chance = changes is not None and changes.p_value >= CHANCE
        yield Concern(
            f"Accuracy is {_points(old - new)} points lower than the champion's"
            f"{', which may be chance' if is_chance else ''}.",
            "comparison",
        )
    lost = [
        change.category_path
        for change in class_changes(before, after)
        if change.difference < -LOST_F1 and change.support >= FEW_ROWS
    ]
    if lost:
        yield Concern(
            f"{_classes(len(lost))} worse than with the champion by more than {LOST_F1} of F1: "
            f"{_named(lost)}.",
            "comparison",
        )


def _difference_of_splits(judgement: Judgement) -> Iterator[Concern]:
    splits = [judgement.evaluations.get(split) for split in ("validation", "test")]
    found = [split.figures["accuracy"] for split in splits if split and split.rows]
    if len(found) < 2:
        return
    validation, test = found
    if validation.interval and test.interval:
        apart = max(
            validation.interval[0] - test.interval[1], test.interval[0] - validation.interval[1]
        )
        if apart > 0:
            yield Concern(
                f"Accuracy is {validation.value:.1%} on validation and {test.value:.1%} on test, "
                "a difference that chance does not explain: the splits are not alike.",
                "figures",
            )


def _beyond_chance(accepted: Acceptance, target_precision: float) -> str:
    _, upper = wilson_bounds(np.array([accepted.right]), np.array([accepted.accepted]))
    return " by more than chance" if upper[0] < target_precision else ", which may be chance"


def _classes(count: int) -> str:
    return "1 class is" if count == 1 else f"{count} classes are"


def _named(paths: Sequence[str]) -> str:
    names = short_names(paths)
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _points(share: float) -> str:
    return f"{100 * share:.1f}"

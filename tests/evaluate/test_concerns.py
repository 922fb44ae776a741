from dataclasses import replace

import numpy as np
import pytest
from tests.evaluate.samples import predicted_as, predictions_of, simulated
from tests.evaluate.test_report import epoch, judged

from catalog_batch.evaluate.concerns import (
    acceptance_concerns,
    champion_concerns,
    class_concerns,
    figure_concerns,
    training_concerns,
)
from catalog_batch.evaluate.findings import confused_pairs, row_changes
from catalog_batch.evaluate.judgement import Decider, judge
from catalog_batch.evaluate.metrics import evaluate_split
from catalog_batch.evaluate.thresholds import NEVER


def test_a_course_without_fault_gives_no_concern() -> None:
    assert list(training_concerns([epoch(0), epoch(1), epoch(2)])) == []
    assert list(training_concerns([])) == []
    # The last weights were asked for, though those before had a lower loss.
    assert list(training_concerns([epoch(0), epoch(1, improved=True, validation_loss=9.0)])) == []


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({"train_accuracy": 0.95, "improved": True}, "35.0 points more often"),
        ({"improved": True}, "more epochs may give more"),
        ({"wait_share": 0.9}, "63% of its time waiting"),
    ],
)
def test_the_course_of_a_training_gives_faults_away(last: dict[str, float], expected: str) -> None:
    rest = [] if "improved" in last else [epoch(2)]
    found = list(
        training_concerns(
            [epoch(0, wait_share=last.get("wait_share", 0.1)), epoch(1, **last), *rest]
        )
    )
    assert expected in found[0].text
    assert found[0].section == "training"


def test_a_course_without_validation_rows_is_said() -> None:
    [concern] = training_concerns([epoch(number, validation_rows=0) for number in range(3)])
    assert "the choice of weights went by the training loss" in concern.text


def test_few_rows_and_confidences_that_are_off_are_said() -> None:
    test = replace(simulated(60, scale=4.0), split="test")
    judgement = judge({"test": test}, Decider(1.0, {}, reason="too few rows"), seed=1, resamples=50)
    few, off, fitted = figure_concerns(judgement, judgement.evaluations["test"])
    assert few.text.startswith("60 rows are few")
    assert "Confidences are off by" in off.text
    assert fitted.text == "Not everything was fitted: too few rows."


def test_splits_that_are_not_alike_are_said() -> None:
    validation = simulated(800)
    test = simulated(800, seed=1)
    noise = 4 * np.random.default_rng(2).normal(size=test.logits.shape).astype(np.float32)
    unlike = judged(validation, replace(test, logits=test.logits + noise))
    texts = [found.text for found in figure_concerns(unlike, unlike.evaluations["test"])]
    assert any("the splits are not alike" in text for text in texts)
    assert any("temperature, fitted on validation, does not suit test" in text for text in texts)
    alike = judged(validation, test)
    assert list(figure_concerns(alike, alike.evaluations["test"])) == []


def test_thresholds_that_miss_their_target_say_whether_that_may_be_chance() -> None:
    test = replace(predicted_as([0] * 99 + [1] * 11, [0] * 110), split="test")
    judgement = judge(
        {"test": test}, Decider(1.0, dict.fromkeys(test.category_ids, 0.0)), seed=1, resamples=5
    )
    evaluation = judgement.evaluations["test"]
    (close,) = acceptance_concerns(judgement, evaluation, 0.91)
    assert (
        "90.0% of the test products, below the target of 91.0%, which may be chance" in close.text
    )
    (far,) = acceptance_concerns(judgement, evaluation, 0.99)
    assert far.text.endswith("99.0% by more than chance.")
    assert list(acceptance_concerns(judgement, evaluation, 0.85)) == []


def test_classes_that_are_never_accepted_are_named() -> None:
    test = replace(predicted_as([0, 1, 2], [0, 1, 2]), split="test")
    thresholds = {"c0": 0.1, "c1": NEVER, "c2": 0.1, "c3": NEVER}
    judgement = judge({"test": test}, Decider(1.0, thresholds), seed=1, resamples=5)
    (never,) = acceptance_concerns(judgement, judgement.evaluations["test"], 0.9)
    assert never.text == "2 classes are never accepted: Fuji, Milk."
    none = judge({"test": test}, Decider(1.0, dict.fromkeys(thresholds, NEVER)), 1, resamples=5)
    (nothing,) = acceptance_concerns(none, none.evaluations["test"], 0.9)
    assert nothing.text.startswith("No prediction is accepted")


def test_weak_rare_and_confused_classes_are_said() -> None:
    predictions = predicted_as(
        [0] * 20 + [1] * 20 + [2] * 3, [1] * 18 + [0] * 2 + [1] * 20 + [2] * 3
    )
    evaluation = evaluate_split(predictions, resamples=5)
    weak, rare, pair = class_concerns(evaluation, confused_pairs(predictions, 1.0, 5, 1))
    assert weak.text == "1 class is below an F1 of 0.5: Gala."
    assert rare.text.startswith("2 classes are judged by fewer than 10 rows")
    assert pair.text == "100% of all mistakes are Gala taken for Fuji."


def test_many_classes_are_named_in_part() -> None:
    paths = [f"Class {index}" for index in range(8)]
    labels = [index for index in range(8) for _ in range(10)]
    wrong = np.eye(8)[[(label + 1) % 8 for label in labels]].tolist()
    evaluation = evaluate_split(predictions_of(labels, wrong, paths), resamples=5)
    (weak,) = class_concerns(evaluation, ())
    assert weak.text.endswith("Class 0, Class 1, Class 2, Class 3, Class 4 and 3 more.")


def test_what_is_worse_than_the_champion_is_said() -> None:
    labels = [0] * 20 + [1] * 20
    before = predicted_as(labels, labels)
    after = predicted_as(labels, [0] * 20 + [0] * 8 + [1] * 12)
    judged_before, judged_after = (evaluate_split(one, resamples=5) for one in (before, after))
    changes = row_changes(before, after, 1.0, 1.0)
    lower, lost = champion_concerns(judged_before, judged_after, changes)
    assert lower.text == "Accuracy is 20.0 points lower than the champion's."
    assert "2 classes are worse than with the champion" in lost.text and "Fuji" in lost.text
    assert list(champion_concerns(judged_after, judged_before, changes)) == []


def test_a_small_loss_against_the_champion_may_be_chance() -> None:
    labels = [0] * 20 + [1] * 20
    before, after = predicted_as(labels, labels), predicted_as(labels, [1, *labels[1:]])
    (lower,) = champion_concerns(
        evaluate_split(before, resamples=5),
        evaluate_split(after, resamples=5),
        row_changes(before, after, 1.0, 1.0),
    )
    assert lower.text == "Accuracy is 2.5 points lower than the champion's, which may be chance."

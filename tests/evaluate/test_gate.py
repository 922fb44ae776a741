"""Each bound by hand: what passes, what does not, and which classes are compared."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.evaluate.samples import simulated

from catalog_batch.evaluate.calibration import best_confidences, calibration_error
from catalog_batch.evaluate.gate import Answers, Bounds, Check, check_challenger, lost_classes

PATHS = {"a": "Fruit/Apple", "b": "Fruit/Pear", "c": "Milk"}
LAX = Bounds(
    min_accuracy=0,
    min_improvement=-1,
    max_class_loss=1,
    min_class_rows=1,
    max_calibration_error=1,
    min_test_rows=1,
    allow_doubt=False,
)


def names(text: str) -> np.ndarray:
    return np.array(list(text), dtype=np.str_)


def answers(text: str, shares: Sequence[float] | float = 0.9, classes: str = "abc") -> Answers:
    """One letter a row; a confidence for each, or one for all."""
    confidences = np.broadcast_to(np.array(shares, dtype=np.float32), len(text))
    return Answers({name: PATHS[name] for name in classes}, names(text), confidences)


def by_name(
    true: str, challenger: Answers, champion: Answers | None, bounds: Bounds = LAX
) -> dict[str, Check]:
    checks = check_challenger(names(true), challenger, champion, bounds)
    return {check.name: check for check in checks}


def test_the_figures_are_those_of_both_models_on_the_same_rows() -> None:
    checks = by_name("aaaabbbbcc", answers("aaaabbbbcc"), answers("aaaabbaacc"))
    assert {name: (check.champion, check.challenger) for name, check in checks.items()} == {
        "min_accuracy": (0.8, 1.0),
        "min_improvement": (0.8, 1.0),
        "max_class_loss": (1.0, 1.0),
        "max_calibration_error": (pytest.approx(0.1), pytest.approx(0.1)),
    }
    assert all(check.passed for check in checks.values())


@pytest.mark.parametrize(
    ("name", "at_bound", "beyond"),
    [
        ("min_accuracy", 0.85, 0.851),
        # 0.85 - 0.80 is 0.04999999999999993.
        ("min_improvement", 0.05, 0.051),
        ("max_class_loss", 0.1, 0.099),
        ("max_calibration_error", 0.05, 0.049),
    ],
)
def test_a_figure_passes_at_its_bound_and_not_beyond(
    name: str, at_bound: float, beyond: float
) -> None:
    true = "a" * 10 + "b" * 10
    challenger, champion = "a" * 9 + "b" * 9 + "aa", "a" * 10 + "b" * 6 + "aaaa"
    for bound, passed in ((at_bound, True), (beyond, False)):
        checks = by_name(
            true, answers(challenger), answers(champion), replace(LAX, **{name: bound})
        )
        failed = [check.name for check in checks.values() if not check.passed]
        assert failed == ([] if passed else [name])


def test_the_first_model_is_held_to_the_absolute_bounds_alone() -> None:
    strict = Bounds(0.9, 0.5, 0.0, 1, 0.01, min_test_rows=1, allow_doubt=False)
    checks = by_name("aabb", answers("aaba", 0.75), None, strict)
    assert [(check.name, check.champion, check.passed) for check in checks.values()] == [
        ("min_accuracy", None, False),
        ("max_calibration_error", None, True),
    ]


def test_the_worst_class_is_named_with_its_rows_and_both_recalls() -> None:
    true, champion, challenger = "aaaabbbbbc", "aaaabbbbbc", "aaabbbbaac"
    worst = by_name(true, answers(challenger), answers(champion))["max_class_loss"]
    assert worst == Check("max_class_loss", 1, 1.0, 0.6, True, 5, "Fruit/Pear")


def test_a_class_with_too_few_rows_does_not_count() -> None:
    true, champion, challenger = "aaab", "aaab", "aaaa"
    strict = replace(LAX, max_class_loss=0.1)
    assert not by_name(true, answers(challenger), answers(champion), strict)[
        "max_class_loss"
    ].passed
    strict = replace(strict, min_class_rows=2)
    worst = by_name(true, answers(challenger), answers(champion), strict)["max_class_loss"]
    assert (worst.category_path, worst.passed) == ("Fruit/Apple", True)
    strict = replace(strict, min_class_rows=4)
    worst = by_name(true, answers(challenger), answers(champion), strict)["max_class_loss"]
    assert worst == Check("max_class_loss", 0.1, None, None, True, 0)


def test_rows_of_a_class_that_the_champion_lacks_are_its_mistakes_but_no_class_to_lose() -> None:
    champion, challenger = answers("abbaaa", classes="ab"), answers("aabbaa")
    checks = by_name("aabbcc", challenger, champion)
    assert checks["min_improvement"].champion == pytest.approx(2 / 6)
    # Milk, found by neither, would be the worst: the two others got better.
    assert checks["max_class_loss"] == Check("max_class_loss", 1, 0.5, 1.0, True, 2, "Fruit/Apple")


def test_a_class_that_the_challenger_lacks_falls_to_nothing() -> None:
    challenger, champion = answers("aabbaa", classes="ab"), answers("aabbcc")
    worst = by_name("aabbcc", challenger, champion, replace(LAX, max_class_loss=0.5))[
        "max_class_loss"
    ]
    assert worst == Check("max_class_loss", 0.5, 1.0, 0.0, False, 2, "Milk")
    assert lost_classes(challenger.classes, champion.classes) == ["Milk"]
    assert lost_classes(champion.classes, challenger.classes) == []


def test_without_rows_nothing_is_known_and_nothing_passes() -> None:
    for champion in (None, answers("")):
        [check] = check_challenger(names(""), answers(""), champion, LAX)
        assert not check.passed
        assert str(check) == (
            "promote.min_accuracy is 0, and the accuracy over 0 test rows is unknown"
        )


def test_a_check_reads_as_bound_and_both_figures() -> None:
    check = Check("max_class_loss", 0.15, 0.9, 0.25, False, 20, "Fruit/Apple")
    assert str(check) == (
        "promote.max_class_loss is 0.15, and the recall of 'Fruit/Apple' over 20 test rows is "
        "0.25 for the challenger and 0.9 for the champion"
    )


def test_the_calibration_error_is_that_of_the_evaluation() -> None:
    predictions = simulated(rows=400, scale=2.0)
    predictions = replace(predictions, logits=predictions.logits * np.float32(5))
    shares = best_confidences(predictions, 1.5)
    assert (shares == 1).any()
    ids = np.array(predictions.category_ids)
    classes = dict(zip(predictions.category_ids, predictions.category_paths, strict=True))
    model = Answers(classes, ids[predictions.predicted], shares)
    [_, check] = check_challenger(ids[predictions.labels], model, None, LAX)
    assert check.challenger == pytest.approx(calibration_error(predictions, 1.5), abs=1e-7)
    assert check.challenger > 0.05

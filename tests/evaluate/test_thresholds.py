import numpy as np
import pytest
from tests.evaluate.samples import predictions_of, simulated

from catalog_batch.evaluate import thresholds
from catalog_batch.evaluate.calibration import best_confidences
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.thresholds import (
    NEVER,
    check_thresholds,
    fit_thresholds,
    lowest_showing,
    rows_to_show,
    wilson_bounds,
)


def two_classes(rows: dict[int, list[tuple[float, bool]]]) -> Predictions:
    """Build rows by predicted class, each with its logit's lead and whether it is right."""
    labels, logits = [], []
    for predicted, found in rows.items():
        for lead, is_right in found:
            labels.append(predicted if is_right else 1 - predicted)
            logits.append([lead, 0.0] if predicted == 0 else [0.0, lead])
    return predictions_of(labels, logits, ["a", "b"])


def test_wilson_bounds_are_those_of_the_formula() -> None:
    lower, upper = wilson_bounds(np.array([32, 9]), np.array([32, 10]))
    # All right: n / (n + z²).
    assert lower[0] == pytest.approx(32 / (32 + 1.2816**2))
    assert upper[0] == pytest.approx(1.0)
    # Both ends solve |p - share| = z sqrt(p (1 - p) / n).
    for bound in (lower[1], upper[1]):
        assert abs(bound - 0.9) == pytest.approx(1.2816 * np.sqrt(bound * (1 - bound) / 10))


def test_it_takes_32_right_rows_to_show_a_precision_of_95_percent() -> None:
    assert rows_to_show(0.95) == 32
    assert rows_to_show(0.99) == 163
    shares = np.linspace(0.9, 0.5, 32, dtype=np.float32)
    assert lowest_showing(shares, np.ones(32, bool), 0.95) == shares[-1]
    assert lowest_showing(shares[:31], np.ones(31, bool), 0.95) is None


def test_the_lowest_confidence_counts_also_behind_a_mistake() -> None:
    shares = np.linspace(0.99, 0.5, 120, dtype=np.float32)
    correct = np.ones(120, bool)
    correct[[10, 90, 95, 100, 105, 110]] = False
    # After 11 rows with one wrong the target is not shown, after 95 with two it is, and no more
    # after the third.
    lower, _ = wilson_bounds(np.array([10, 93, 93]), np.array([11, 95, 96]))
    assert (lower >= 0.95).tolist() == [False, True, False]
    assert lowest_showing(shares, correct, 0.95) == shares[94]


def test_rows_of_equal_confidence_are_accepted_together() -> None:
    shares = np.array([0.9] * 40 + [0.6] * 20, dtype=np.float32)
    correct = np.array([True] * 55 + [False] * 5)
    assert lowest_showing(shares, correct, 0.95) == np.float32(0.9)


def test_thresholds_reach_the_target_on_other_rows() -> None:
    fitted = fit_thresholds(simulated(3000), 0.9)
    test = simulated(20_000, seed=1)
    check = check_thresholds(test, fitted)
    assert test.correct.mean() < 0.8
    assert check.overall.precision is not None and 0.89 < check.overall.precision < 0.95
    assert check.overall.coverage is not None and check.overall.coverage > 0.15
    assert all(found.precision > 0.87 for found in check.by_class.values() if found.precision)


def test_a_rare_class_gets_the_threshold_of_all_rows() -> None:
    many = [(2 + index / 100, True) for index in range(100)]
    fitted = fit_thresholds(two_classes({0: many, 1: [(1.0, True)] * 3}), 0.95)
    assert fitted["c1"] == pytest.approx(1 / (1 + np.exp(-1.0)))  # all 103 rows are right
    assert fitted["c0"] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_a_class_whose_rows_speak_against_the_target_is_never_accepted() -> None:
    many = [(3 + index / 100, True) for index in range(200)]
    bad = [(4.0, index % 3 > 0) for index in range(9)]
    fitted = fit_thresholds(two_classes({0: many, 1: bad}), 0.95)
    assert fitted["c1"] == NEVER
    assert fitted["c0"] < 1
    check = check_thresholds(two_classes({0: many, 1: bad}), fitted)
    assert (check.by_class["c1"].predicted, check.by_class["c1"].accepted) == (9, 0)


def test_a_model_that_nowhere_reaches_the_target_is_never_accepted() -> None:
    wrong = [(2.0, index % 2 == 0) for index in range(150)]
    assert fit_thresholds(two_classes({0: wrong}), 0.95) == {"c0": NEVER, "c1": NEVER}
    assert check_thresholds(two_classes({0: wrong}), {"c0": NEVER}).overall.precision is None


@pytest.mark.parametrize("rows", [0, thresholds.MIN_ROWS - 1])
def test_too_few_rows_give_no_thresholds(rows: int) -> None:
    assert fit_thresholds(simulated(rows), 0.9) == {}


def test_a_high_target_needs_more_rows_than_usual() -> None:
    right = two_classes({0: [(2.0, True)] * 162})
    assert fit_thresholds(right, 0.99) == {}
    assert fit_thresholds(two_classes({0: [(2.0, True)] * 163}), 0.99) != {}


def test_a_temperature_moves_the_thresholds_and_not_what_they_accept() -> None:
    validation = two_classes({0: [(1 + index / 100, index > 80) for index in range(300)]})
    cool, warm = (fit_thresholds(validation, 0.9, temperature) for temperature in (1.0, 2.0))
    assert warm["c0"] < cool["c0"]
    assert check_thresholds(validation, warm, 2.0) == check_thresholds(validation, cool, 1.0)


def test_a_confidence_equal_to_its_threshold_is_accepted_and_others_need_the_floor() -> None:
    predictions = two_classes({0: [(1.0, True), (0.9, True)], 1: [(1.0, False), (2.0, True)]})
    limit = float(best_confidences(predictions)[0])
    check = check_thresholds(predictions, {"c0": limit}, otherwise=0.8)
    assert (check.by_class["c0"].accepted, check.by_class["c1"].accepted) == (1, 1)
    assert (check.overall.coverage, check.overall.precision) == (0.5, 1.0)
    assert check_thresholds(simulated(0), {}).overall.coverage is None

import math

import numpy as np
import pytest
import torch
from tests.evaluate.samples import predicted_as, predictions_of, simulated

from catalog_batch.evaluate.calibration import (
    best_confidences,
    by_product,
    calibration_error,
    cross_entropy,
    fit_temperature,
    reliability,
    unlike_training,
)
from catalog_batch.modeling.confidence import confidences, energies, sums_over


def test_the_numbers_of_a_row_do_not_depend_on_the_others() -> None:
    """A threshold is the confidence of a validation row, which scoring sees in another batch."""
    logits = np.random.default_rng(5).normal(0, 4, (97, 81)).astype(np.float32)
    classes = np.arange(0, 81, 3)
    shares, energy = confidences(logits, 1.3), energies(logits, 1.3)
    for rows in (slice(0, 1), slice(5, 37), slice(96, 97)):
        alone = confidences(logits[rows], 1.3)
        assert np.array_equal(alone, shares[rows])
        assert np.array_equal(sums_over(alone, classes), sums_over(shares, classes)[rows])
        assert np.array_equal(energies(logits[rows], 1.3), energy[rows])


def test_confidences_are_the_softmax_of_logits_divided_by_the_temperature() -> None:
    predictions = simulated(50)
    expected = torch.from_numpy(predictions.logits).div(2.5).softmax(dim=1)
    np.testing.assert_allclose(confidences(predictions.logits, 2.5), expected, rtol=1e-5)
    assert confidences(predictions.logits).dtype == np.float32
    assert best_confidences(simulated(0)).shape == (0,)


def test_cross_entropy_is_that_of_torch() -> None:
    predictions = simulated(50)
    logits, labels = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    expected = torch.nn.functional.cross_entropy(logits / 3, labels).item()
    assert cross_entropy(predictions.logits, predictions.labels, 3.0) == pytest.approx(expected)


@pytest.mark.parametrize("true_temperature", [0.5, 1.7, 3.0])
def test_the_temperature_that_logits_were_scaled_by_is_found(true_temperature: float) -> None:
    validation = simulated(4000, scale=true_temperature)
    found = fit_temperature(validation)
    assert found.temperature == pytest.approx(true_temperature, rel=0.06)
    assert found.reason == ""


def test_calibration_lowers_the_error_on_other_rows() -> None:
    temperature = fit_temperature(simulated(2000, scale=3.0)).temperature
    test = simulated(2000, scale=3.0, seed=1)
    assert calibration_error(test) > 0.1
    assert calibration_error(test, temperature) < 0.05


@pytest.mark.parametrize(
    ("predictions", "reason"),
    [
        (simulated(49, scale=3.0), "49 validation rows are fewer than 50"),
        (simulated(0), "0 validation rows"),
        (predicted_as([0] * 60, [0] * 60), "all 60 validation rows are right"),
        (predicted_as([1, 2, 3] * 20, [0] * 60), "not between 0.05 and 20"),
        (predictions_of([0, 1] * 30, np.zeros((60, 4)).tolist()), "no temperature gives a lower"),
    ],
)
def test_what_no_temperature_can_be_fitted_on_keeps_1_and_says_why(
    predictions: object, reason: str
) -> None:
    found = fit_temperature(predictions)  # type: ignore[arg-type]
    assert found.temperature == 1.0
    assert reason in found.reason


def test_the_calibration_error_of_rows_by_hand() -> None:
    # Two classes: a logit of log 3 more is a confidence of 3/4, of log 9 one of 9/10.
    sure, surer = [math.log(3), 0.0], [math.log(9), 0.0]
    predictions = predictions_of([0, 1, 0, 0], [sure, sure, surer, surer], ["a", "b"])
    assert calibration_error(predictions) == pytest.approx((0.75 - 0.5) / 2 + (1 - 0.9) / 2)
    low, high = reliability(predictions)
    assert (low.rows, low.accuracy) == (2, 0.5)
    assert low.mean_confidence == pytest.approx(0.75)
    assert low.low <= 0.75 < low.high
    assert (high.rows, high.accuracy) == (2, 1.0)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_bins_give_the_error_that_torchmetrics_gives(scale: float) -> None:
    predictions = simulated(1000, scale=scale)  # with 30 many confidences are exactly 1
    bins = reliability(predictions)
    assert sum(found.rows for found in bins) == 1000
    error = sum(found.rows * abs(found.accuracy - found.mean_confidence) for found in bins) / 1000
    assert error == pytest.approx(calibration_error(predictions), abs=1e-5)


def test_a_product_has_the_mean_of_the_confidences_of_its_images() -> None:
    images = predictions_of(
        [0, 1, 0],
        np.log([[0.5, 0.3, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.9, 0.05, 0.04, 0.01]]).tolist(),
        products=["b", "a", "b"],
    )
    combined = by_product(images, 1.0)
    assert combined.image_ids.tolist() == combined.product_ids.tolist() == ["a", "b"]
    assert combined.labels.tolist() == [1, 0]
    expected = [[0.1, 0.7, 0.1, 0.1], [0.7, 0.175, 0.07, 0.055]]
    np.testing.assert_allclose(confidences(combined.logits), expected, rtol=1e-5)


def test_confidences_are_combined_with_the_temperature() -> None:
    images = predictions_of([0, 0], [[4.0, 0, 0, 0], [0, 2.0, 0, 0]], products=["a", "a"])
    combined = by_product(images, 2.0)
    means = confidences(images.logits, 2.0).mean(axis=0)
    np.testing.assert_allclose(confidences(combined.logits)[0], means, rtol=1e-5)


def test_a_confidence_of_nothing_stays_finite() -> None:
    combined = by_product(predictions_of([0], [[200.0, 0, 0, 0]]), 1.0)
    assert confidences(combined.logits)[0].tolist() == pytest.approx([1, 0, 0, 0])


def test_a_product_is_unlike_training_when_its_likest_picture_is() -> None:
    known, unknown = [9.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]
    found = predictions_of([0] * 4, [unknown, known, unknown, unknown], products=list("baca"))
    low, high = energies(found.logits, 2.0)[[1, 0]]
    assert low < high
    # Of the products a, b and c only the first shows a known picture.
    assert unlike_training(found, 2.0, float(low)).tolist() == [False, True, True]
    assert unlike_training(found, 2.0, float(high)).tolist() == [False] * 3
    assert unlike_training(found, 2.0, None).tolist() == [False] * 3
    assert unlike_training(found, 2.0, -100.0).tolist() == [True] * 3

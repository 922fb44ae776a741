from dataclasses import replace

import numpy as np
import pytest
from tests.evaluate.samples import PATHS, predicted_as, predictions_of, simulated

from catalog_batch.evaluate.findings import (
    class_changes,
    confused_pairs,
    mostly_taken_for,
    row_changes,
    short_names,
    top_losses,
    weakest_first,
)
from catalog_batch.evaluate.metrics import evaluate_split

GALA, FUJI, PEAR, MILK = PATHS


def test_the_pair_with_most_rows_comes_first_with_rows_of_both_sides() -> None:
    predictions = predicted_as([0, 0, 0, 1, 1, 2, 3], [1, 1, 0, 0, 1, 3, 3])
    first, second, third = confused_pairs(predictions, 1.0, most=9, photos=5)
    assert (first.true, first.predicted, first.rows, first.support) == (GALA, FUJI, 2, 3)
    assert first.reverse == 1
    assert [answer.image_id for answer in first.mistaken] == ["000000", "000001"]
    assert [answer.image_id for answer in first.typical] == ["000004"]
    # One row each: Pear as Milk is all of its class, Fuji as Gala a half.
    assert [(pair.true, pair.rows) for pair in (second, third)] == [(PEAR, 1), (FUJI, 1)]
    assert len(confused_pairs(predictions, 1.0, most=2, photos=1)) == 2


def test_without_a_mistake_no_pair_is_confused() -> None:
    assert confused_pairs(predicted_as([0, 1], [0, 1]), 1.0, most=5, photos=1) == ()


def test_the_top_losses_are_the_rows_whose_true_class_got_least() -> None:
    predictions = simulated(200)
    shares = np.exp(predictions.logits / 2) / np.exp(predictions.logits / 2).sum(1, keepdims=True)
    own = shares[np.arange(200), predictions.labels]
    found = top_losses(predictions, 2.0, most=10)
    expected = np.argsort(own)[:10]
    assert [answer.image_id for answer in found] == predictions.image_ids[expected].tolist()
    assert [answer.true_confidence for answer in found] == pytest.approx(own[expected].tolist())
    assert found[0].confidence == pytest.approx(shares[expected[0]].max())
    assert found[0].true == predictions.category_paths[predictions.labels[expected[0]]]


def test_the_weakest_class_comes_first_and_one_without_rows_not_at_all() -> None:
    bad = evaluate_split(predicted_as([0, 0, 1, 1], [1, 1, 1, 1]), resamples=5)
    assert [found.category_path for found in weakest_first(bad)] == [GALA, FUJI]
    equal = evaluate_split(predicted_as([0, 0, 1, 1, 1], [1, 0, 1, 1, 3]), resamples=5)
    assert [found.f1.value for found in weakest_first(equal)] == pytest.approx([2 / 3, 2 / 3])
    assert [found.category_path for found in weakest_first(equal)] == [FUJI, GALA]


def test_a_class_is_mostly_taken_for_what_most_of_its_mistakes_are() -> None:
    predictions = predicted_as([0, 0, 0, 0, 1, 1, 2], [2, 2, 1, 0, 3, 0, 2])
    found = mostly_taken_for(evaluate_split(predictions, resamples=5))
    # Gala is Pear twice and Fuji once; Fuji is Milk and Gala once each, of which Gala is first.
    assert found == {"c0": (PEAR, 2), "c1": (GALA, 1)}


def test_two_models_differ_in_the_rows_that_one_of_them_had_right() -> None:
    before = predicted_as([0, 0, 1, 2, 3], [0, 1, 1, 3, 3])
    before.logits[3] *= 2  # the more confident mistake comes first
    after = predicted_as([0, 0, 1, 2, 3], [0, 0, 1, 2, 0])
    changes = row_changes(before, after, 1.0, 1.0)
    assert changes.rows == 5
    assert [(a.image_id, a.true, a.predicted) for a in changes.new] == [("000004", MILK, GALA)]
    assert [(a.image_id, a.predicted) for a in changes.gone] == [("000003", MILK), ("000001", FUJI)]
    # One against two under a fair coin: all outcomes but three against none are as uneven.
    assert changes.p_value == pytest.approx(1.0)


def test_many_mistakes_gone_and_none_new_are_no_chance() -> None:
    before, after = predicted_as([0] * 10, [1] * 10), predicted_as([0] * 10, [0] * 10)
    assert row_changes(before, after, 1.0, 1.0).p_value == pytest.approx(2 / 2**10)
    assert row_changes(before, before, 1.0, 1.0).p_value == 1.0


def test_photos_of_one_product_are_no_more_certain_than_one_of_them() -> None:
    one = np.array(["p"] * 10)
    before, after = (
        replace(predicted_as([0] * 10, [best] * 10), product_ids=one) for best in (1, 0)
    )
    assert row_changes(before, after, 1.0, 1.0).p_value == 1.0
    pairs = np.arange(10).repeat(2)[:10].astype(np.str_)
    before, after = (replace(each, product_ids=pairs) for each in (before, after))
    assert row_changes(before, after, 1.0, 1.0).p_value == pytest.approx(2 / 2**5)


def test_models_with_other_classes_and_rows_are_compared_by_ids() -> None:
    after = predictions_of([0, 1, 1], [[2, 0, 0], [0, 2, 0], [2, 0, 0]], ["A", "B", "C"])
    before = predictions_of([0, 1], [[2, 0], [2, 0]], ["A", "B"])
    object.__setattr__(before, "category_ids", ("c1", "c0"))  # the other way round
    changes = row_changes(before, after, 1.0, 1.0)
    assert changes.rows == 2
    # It said c1 twice: wrong for the first row, which is c0, right for the second, which is c1.
    assert [answer.image_id for answer in changes.gone] == ["000000"]
    assert changes.new == ()


def test_the_class_that_lost_most_comes_first() -> None:
    before = evaluate_split(predicted_as([0, 0, 1, 1], [0, 0, 1, 0]), resamples=5)
    after = evaluate_split(predicted_as([0, 0, 1, 1], [0, 1, 1, 1]), resamples=5)
    changes = class_changes(before, after)
    assert [change.category_path for change in changes] == [GALA, FUJI]
    assert changes[0].difference == pytest.approx(2 / 3 - 4 / 5)
    assert changes[1].difference == pytest.approx(4 / 5 - 2 / 3)


def test_a_short_name_is_the_last_part_unless_two_paths_end_alike() -> None:
    paths = ["Fruit/Apple/Gala", "Milk", "Juice/Apple", "Fruit/Apple"]
    assert short_names(paths) == ["Gala", "Milk", "Juice/Apple", "Fruit/Apple"]
    assert short_names([]) == []

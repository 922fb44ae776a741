"""The nearest category above the best class that is sure enough."""

import numpy as np
import pytest
from tests.evaluate.samples import predictions_of

from catalog_batch.evaluate.back_off import NOWHERE, decide, fit_node_thresholds
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.thresholds import NEVER, check_thresholds
from catalog_batch.taxonomy import category_id

PATHS = ("Fruit/Apple/Fuji", "Fruit/Apple/Gala", "Fruit/Pear", "Milk")
FRUIT, APPLE = category_id("Fruit"), category_id("Fruit/Apple")
SURE = dict.fromkeys(("c0", "c1", "c2", "c3"), 0.9)


def of_shares(labels: list[int], shares: list[list[float]]) -> Predictions:
    """Make rows whose confidences are these."""
    return predictions_of(labels, np.log(np.array(shares)).tolist(), PATHS)


def test_a_row_gets_the_nearest_node_that_is_sure_enough() -> None:
    rows = of_shares(
        [0, 0, 0, 0, 3],
        [
            [0.94, 0.02, 0.02, 0.02],  # the class itself
            [0.6, 0.3, 0.05, 0.05],  # apples: 0.9
            [0.5, 0.1, 0.3, 0.1],  # no apple for sure, but fruit
            [0.4, 0.1, 0.1, 0.4],  # nothing
            [0.1, 0.1, 0.1, 0.7],  # a department with nothing above
        ],
    )
    decided = decide(rows, SURE, {APPLE: 0.85, FRUIT: 0.85})
    assert decided.level.tolist() == [3, 2, 1, NOWHERE, NOWHERE]
    assert decided.is_class.tolist() == [True, False, False, False, False]
    assert decided.right.tolist() == [True, True, True, False, False]
    assert vars(decided.backed_off) == {"predicted": 4, "accepted": 2, "right": 2}


def test_a_node_is_right_when_the_true_class_is_below_it() -> None:
    shares = [0.6, 0.3, 0.05, 0.05]
    rows = of_shares([0, 1, 2, 3], [shares] * 4)
    assert decide(rows, SURE, {APPLE: 0.85}).right.tolist() == [True, True, False, False]
    assert decide(rows, SURE, {FRUIT: 0.85}).right.tolist() == [True, True, True, False]


def test_a_node_without_a_threshold_and_one_of_never_are_not_given() -> None:
    rows = of_shares([0], [[0.6, 0.399, 0.0005, 0.0005]])
    for nodes in ({}, {APPLE: NEVER, FRUIT: NEVER}):
        assert decide(rows, SURE, nodes).level.tolist() == [NOWHERE]


def test_a_withheld_row_gets_neither_its_class_nor_a_node() -> None:
    rows = of_shares([0, 0], [[0.94, 0.02, 0.02, 0.02], [0.6, 0.3, 0.05, 0.05]])
    withheld = np.array([True, True])
    assert decide(rows, SURE, {APPLE: 0.85}).level.tolist() == [3, 2]
    decided = decide(rows, SURE, {APPLE: 0.85}, withheld=withheld)
    assert (decided.level.tolist(), decided.right.tolist()) == ([NOWHERE] * 2, [False] * 2)
    check = check_thresholds(rows, SURE, withheld=withheld)
    assert vars(check.overall) == {"predicted": 2, "accepted": 0, "right": 0}
    assert check_thresholds(rows, SURE, withheld=~withheld).overall.accepted == 1


def test_a_class_that_others_lie_below_counts_towards_its_node() -> None:
    paths = ("Fruit", "Fruit/Apple", "Milk")
    logits = np.log([[0.4, 0.5, 0.1]]).tolist()
    rows = predictions_of([0], logits, paths)
    sure = dict.fromkeys(("c0", "c1", "c2"), 0.9)
    decided = decide(rows, sure, {FRUIT: 0.85})
    assert (decided.level.tolist(), decided.right.tolist()) == ([1], [True])
    # A node is above a class, not the class itself.
    rows = predictions_of([0], np.log([[0.5, 0.4, 0.1]]).tolist(), paths)
    assert decide(rows, sure, {FRUIT: 0.85}).level.tolist() == [NOWHERE]


def simulated(rows: int, seed: int) -> Predictions:
    """Draw rows whose apples are hard to tell from each other, and easy to tell from the rest."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 1, (rows, len(PATHS)))
    group = draw.integers(0, 3, rows)
    for index, members in enumerate(([0, 1], [2], [3])):
        logits[np.ix_(group == index, members)] += 4
    noise = draw.gumbel(size=logits.shape)
    return predictions_of((logits + noise).argmax(axis=1).tolist(), logits.tolist(), PATHS)


def test_thresholds_of_nodes_hold_what_they_promise_on_new_rows() -> None:
    thresholds = dict.fromkeys(("c0", "c1", "c2", "c3"), 0.97)
    nodes = fit_node_thresholds(simulated(4000, 1), thresholds, 0.95)
    assert nodes.keys() == {APPLE, FRUIT}
    found = decide(simulated(20_000, 2), thresholds, nodes).backed_off
    assert found.coverage is not None
    assert found.coverage > 0.3
    assert found.precision is not None
    assert 0.94 < found.precision < 0.98


def test_only_rows_that_nothing_below_accepted_count_for_a_node() -> None:
    """Sure rows that are right would hide that the unsure ones, which alone come up, are wrong."""
    sure, unsure = [0.96, 0.02, 0.01, 0.01], [0.48, 0.42, 0.05, 0.05]
    rows = of_shares([0] * 300 + [3] * 60, [sure] * 300 + [unsure] * 60)
    assert fit_node_thresholds(rows, SURE, 0.95) == {APPLE: NEVER, FRUIT: NEVER}
    # And what apples accept does not come to fruit.
    rows = of_shares([0] * 300 + [3] * 60, [unsure] * 300 + [[0.45, 0.05, 0.45, 0.05]] * 60)
    nodes = fit_node_thresholds(rows, SURE, 0.95)
    assert nodes[APPLE] == pytest.approx(0.9)
    assert nodes[FRUIT] == NEVER


def test_without_thresholds_of_classes_there_are_none_of_nodes() -> None:
    assert fit_node_thresholds(simulated(500, 1), {}, 0.95) == {}


def test_no_rows_and_a_flat_tree_are_fine() -> None:
    assert decide(predictions_of([], [], PATHS), SURE, {FRUIT: 0.5}).level.tolist() == []
    assert fit_node_thresholds(predictions_of([], [], PATHS), SURE, 0.95) == {
        APPLE: NEVER,
        FRUIT: NEVER,
    }
    flat = predictions_of([0], [[1.0, 0.0]], ("a", "b"))
    assert fit_node_thresholds(flat, {"c0": 0.9}, 0.95) == {}

import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)
from tests.evaluate.samples import PATHS, predicted_as, predictions_of, simulated

from catalog_batch.evaluate.hierarchy import Tree
from catalog_batch.evaluate.metrics import (
    CURVE_POINTS,
    confusion_cells,
    coverage_curve,
    evaluate_split,
    in_top_k,
)
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.resampling import Outcomes, bootstrap_intervals, figures_of

# Rows: Gala right, Gala as Fuji, Fuji as Pear, Pear as Milk, Milk right.
HAND = predicted_as([0, 0, 1, 2, 3], [0, 1, 2, 3, 3])


def values(name: str = "") -> dict[str, float]:
    figures = evaluate_split(HAND, resamples=10).figures
    return {key: figure.value for key, figure in figures.items() if key.startswith(name)}


def outcomes_of(found: Predictions) -> Outcomes:
    return Outcomes.of(
        found.labels,
        found.predicted,
        in_top_k(found, 5),
        len(found.category_ids),
        found.product_ids,
    )


def test_accuracy_at_each_level_counts_the_rows_whose_path_has_it() -> None:
    assert values("accuracy") == {
        "accuracy": 2 / 5,
        "accuracy_level_1": 4 / 5,  # only Pear as Milk leaves its department
        "accuracy_level_2": 2 / 4,  # Milk has no level 2; Gala as Fuji agrees
        "accuracy_level_3": 1 / 3,
    }


def test_hierarchical_scores_share_nodes_of_the_paths() -> None:
    # Shared nodes 3 + 2 + 1 + 0 + 1 = 7; true 3 + 3 + 3 + 2 + 1 = 12; predicted 3 + 3 + 2 + 1 + 1.
    assert values("hierarchical") == pytest.approx(
        {
            "hierarchical_precision": 7 / 10,
            "hierarchical_recall": 7 / 12,
            "hierarchical_f1": 14 / 22,
        }
    )


def test_a_name_that_two_branches_have_is_not_the_same_node() -> None:
    predictions = predictions_of([0, 1], [[0, 2], [0, 2]], ["Juice/Apple", "Fruit/Apple"])
    figures = evaluate_split(predictions, resamples=10).figures
    assert figures["hierarchical_f1"].value == 0.5
    assert figures["mistake_severity"].value == 4


def test_the_severity_of_mistakes_is_their_mean_distance_in_the_tree() -> None:
    # Gala to Fuji 2 edges, Fuji to Pear 3, Pear to Milk 3.
    assert values()["mistake_severity"] == pytest.approx(8 / 3)
    tree = Tree.of(PATHS)
    assert tree.distance(np.array([0, 0, 0]), np.array([0, 1, 3])).tolist() == [0, 2, 4]


def test_without_a_mistake_there_is_no_severity() -> None:
    figures = evaluate_split(predicted_as([0, 1], [0, 1]), resamples=10).figures
    assert figures["accuracy"].interval == (1.0, 1.0)
    assert "mistake_severity" not in figures


def test_a_class_that_never_occurs_does_not_lower_the_macro_average() -> None:
    predictions = predicted_as([0, 0, 0, 1], [0, 0, 1, 1])
    figures = evaluate_split(predictions, resamples=10).figures
    assert figures["macro_f1"].value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures["weighted_f1"].value == pytest.approx((3 * 4 / 5 + 2 / 3) / 4)


def test_a_row_is_right_in_the_top_five_when_fewer_than_five_classes_are_likelier() -> None:
    logits = [[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]]
    predictions = predictions_of([4, 5], logits, [f"c{index}" for index in range(6)])
    assert in_top_k(predictions, 5).tolist() == [True, False]
    assert evaluate_split(predictions, resamples=10).figures["top5_accuracy"].value == 0.5


def test_each_class_has_the_figures_of_scikit_learn() -> None:
    predictions = simulated(300)
    evaluation = evaluate_split(predictions, resamples=200)
    expected = precision_recall_fscore_support(predictions.labels, predictions.predicted)
    for index, found in enumerate(evaluation.classes):
        assert (found.category_id, found.support) == (f"c{index}", expected[3][index])
        assert found.precision.value == pytest.approx(expected[0][index])
        assert found.recall.value == pytest.approx(expected[1][index])
        assert found.f1.value == pytest.approx(expected[2][index])
        for figure in (found.precision, found.recall, found.f1):
            assert figure.interval is not None
            assert figure.interval[0] < figure.value < figure.interval[1]


def test_a_class_without_any_row_has_zeros_and_no_interval() -> None:
    pear = evaluate_split(predicted_as([0, 1], [0, 1]), resamples=10).classes[2]
    assert (pear.support, pear.predicted) == (0, 0)
    assert (pear.f1.value, pear.f1.interval) == (0.0, None)


def test_the_confusion_cells_are_those_of_scikit_learn() -> None:
    predictions = simulated(300)
    expected = confusion_matrix(predictions.labels, predictions.predicted)
    cells = {(cell.true, cell.predicted): cell.rows for cell in confusion_cells(predictions)}
    assert cells == {
        (f"c{true}", f"c{predicted}"): rows
        for (true, predicted), rows in np.ndenumerate(expected)
        if rows
    }


@pytest.mark.parametrize("predictions", [HAND, simulated(400, classes=9)])
def test_the_resampled_figures_are_the_librarys_when_nothing_is_resampled(
    predictions: object,
) -> None:
    outcomes = outcomes_of(predictions)
    tree = Tree.of(predictions.category_paths)  # type: ignore[attr-defined]
    overall, by_class = figures_of(outcomes.rows[None, :], outcomes, tree)
    evaluation = evaluate_split(predictions, resamples=2)  # type: ignore[arg-type]
    assert set(overall) == {n for n, figure in evaluation.figures.items() if figure.interval}
    for name, found in overall.items():
        assert found[0] == pytest.approx(evaluation.figures[name].value), name
    for name, found in by_class.items():
        expected = [getattr(figures, name).value for figures in evaluation.classes]
        assert np.nan_to_num(found[0]).tolist() == pytest.approx(expected)


def test_intervals_are_as_wide_as_those_of_resampled_rows() -> None:
    predictions = simulated(300)
    tree = Tree.of(predictions.category_paths)
    found = bootstrap_intervals(outcomes_of(predictions), tree, seed=1).overall
    generator = np.random.default_rng(2)
    scores = []
    for _ in range(120):
        rows = generator.integers(0, 300, 300)
        true, predicted = predictions.labels[rows], predictions.predicted[rows]
        scores.append((accuracy_score(true, predicted), f1_score(true, predicted, average="macro")))
    expected = np.quantile(scores, [0.025, 0.975], axis=0)
    assert found["accuracy"] == pytest.approx(expected[:, 0].tolist(), abs=0.025)
    assert found["macro_f1"] == pytest.approx(expected[:, 1].tolist(), abs=0.025)


def test_several_photos_of_a_product_are_drawn_together() -> None:
    """Four photos each, all right or all wrong, are as good as one each."""
    single = simulated(200)
    rows = np.arange(200).repeat(4)
    several = replace(
        single,
        image_ids=np.array([f"image-{row}" for row in range(800)]),
        product_ids=single.product_ids[rows],
        labels=single.labels[rows],
        logits=single.logits[rows],
    )
    as_if_independent = replace(several, product_ids=several.image_ids)
    tree = Tree.of(single.category_paths)
    wanted, found, narrow = (
        bootstrap_intervals(outcomes_of(each), tree, seed=1).overall["accuracy"]
        for each in (single, several, as_if_independent)
    )
    assert found == wanted
    assert narrow[1] - narrow[0] == pytest.approx((wanted[1] - wanted[0]) / 2, rel=0.15)


def test_products_of_unlike_numbers_of_photos_count_with_all_of_them() -> None:
    # p: Gala right, Gala as Fuji; q: Fuji as Pear; r: Pear as Milk; s: Milk right.
    outcomes = outcomes_of(replace(HAND, product_ids=np.array(["p", "p", "q", "r", "s"])))
    assert outcomes.products.tolist() == [1] * 4
    assert sorted(outcomes.profiles.toarray().sum(axis=1).tolist()) == [1, 1, 1, 2]
    assert outcomes.profiles.toarray().sum(axis=0).tolist() == outcomes.rows.tolist()


def test_the_same_seed_gives_the_same_evaluation_and_another_gives_other_intervals() -> None:
    predictions = simulated(100)
    once = evaluate_split(predictions, 1.5, seed=3, resamples=50)
    assert once == evaluate_split(predictions, 1.5, seed=3, resamples=50)
    other = evaluate_split(predictions, 1.5, seed=4, resamples=50)
    assert other.figures["accuracy"].value == once.figures["accuracy"].value
    assert other.figures["accuracy"].interval != once.figures["accuracy"].interval


def test_drawing_in_several_parts_gives_as_many_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes, tree = outcomes_of(HAND), Tree.of(PATHS)
    whole = bootstrap_intervals(outcomes, tree, seed=1, resamples=11)
    monkeypatch.setattr("catalog_batch.evaluate.resampling.CELLS_IN_MEMORY", 20)
    assert bootstrap_intervals(outcomes, tree, seed=1, resamples=11) == whole


def test_a_thousand_resamples_of_a_real_test_split_take_below_two_seconds() -> None:
    predictions = simulated(2500, classes=81)
    started = time.process_time()
    bootstrap_intervals(outcomes_of(predictions), Tree.of(predictions.category_paths), seed=1)
    assert time.process_time() - started < 2


def test_the_coverage_curve_accepts_rows_of_equal_confidence_together() -> None:
    logits = [[9, 0, 0, 0], [5, 0, 0, 0], [5, 0, 0, 0], [1, 0, 0, 0]]
    curve = coverage_curve(predictions_of([0, 0, 1, 0], logits))
    assert [(point.coverage, point.precision) for point in curve] == [
        (0.25, 1.0),
        (0.75, pytest.approx(2 / 3)),
        (1.0, 0.75),
    ]


def test_a_long_coverage_curve_is_thinned_out_and_ends_at_all_rows() -> None:
    predictions = simulated(3000)
    curve = coverage_curve(predictions)
    assert len(curve) == CURVE_POINTS
    assert (curve[-1].coverage, curve[-1].precision) == (1.0, predictions.correct.mean())
    assert curve[0].coverage == 1 / 3000


def test_a_split_without_rows_has_no_figures() -> None:
    evaluation = evaluate_split(predictions_of([], []))
    assert (evaluation.rows, evaluation.figures, evaluation.classes) == (0, {}, ())
    assert coverage_curve(predictions_of([], [])) == ()

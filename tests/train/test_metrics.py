import numpy as np
import pytest

from catalog_batch.errors import BadInputError
from catalog_batch.train.metrics import ClassMetrics, accuracy, class_metrics, summary

# Three classes: 6 rows of the first, 2 of the second, none of the third.
CONFUSION = np.array([[4, 1, 1], [1, 1, 0], [0, 0, 0]])


def test_each_class_has_its_precision_recall_f1_and_support() -> None:
    first, second, _ = class_metrics(CONFUSION)
    assert first == ClassMetrics(0, precision=4 / 5, recall=4 / 6, f1=8 / 11, support=6)
    assert second == ClassMetrics(1, precision=1 / 2, recall=1 / 2, f1=1 / 2, support=2)


def test_a_class_without_true_rows_has_figures_of_zero() -> None:
    assert class_metrics(CONFUSION)[2] == ClassMetrics(2, 0.0, 0.0, 0.0, 0)


def test_the_summary_averages_over_classes_and_counts_rows() -> None:
    figures = summary(CONFUSION)
    assert figures["accuracy"] == 5 / 8
    assert figures["macro_f1"] == pytest.approx((8 / 11 + 1 / 2 + 0) / 3)
    assert figures["rows"] == 8.0
    assert all(type(value) is float for value in figures.values())


def test_a_class_that_never_occurs_does_not_lower_the_macro_average() -> None:
    without = np.array([[3, 1], [0, 4]])
    with_third = np.zeros((3, 3), dtype=np.int64)
    with_third[:2, :2] = without
    assert summary(with_third) == summary(without)


def test_no_rows_at_all_give_zeros_and_no_warning() -> None:
    assert set(summary(np.zeros((2, 2), dtype=np.int64)).values()) == {0.0}


def test_a_matrix_that_is_not_square_is_refused() -> None:
    with pytest.raises(BadInputError, match="one row and one column per class"):
        accuracy(np.zeros((2, 3), dtype=np.int64))

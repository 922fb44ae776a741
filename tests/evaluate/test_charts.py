import re
from functools import cache

import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from tests.evaluate.samples import PATHS, predictions_of, simulated

from catalog_batch.evaluate.charts import (
    LABELLED_CLASSES,
    confusion_figure,
    coverage_figure,
    history_figure,
    inline_svg,
    matrix_colours,
    opacity,
    reliability_figure,
)
from catalog_batch.evaluate.metrics import SplitEvaluation, evaluate_split
from catalog_batch.evaluate.thresholds import Acceptance

HISTORY = [
    {"epoch": 0, "train_loss": 2.0, "validation_loss": 1.9, "improved": True},
    {"epoch": 1, "train_loss": 1.0, "validation_loss": 1.1, "improved": True},
    {"epoch": 2, "train_loss": 0.5, "validation_loss": 1.3, "improved": False},
]
SERIES = {"train_loss": "training", "validation_loss": "validation"}


@cache
def evaluation() -> SplitEvaluation:
    return evaluate_split(simulated(400, scale=2.0), 2.0, resamples=10)


def labels(figure: Figure) -> list[tuple[str, str]]:
    return [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    found = [line for axes in figure.axes for line in axes.lines]
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))  # type: ignore
        for line in found
    }


def names(axis: Axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def test_a_learning_curve_has_its_values_by_epoch_from_1_and_marks_the_kept() -> None:
    figure = history_figure(HISTORY, SERIES, "Loss")
    assert labels(figure) == [("Epoch", "Loss")]
    drawn = lines(figure)
    assert drawn["training"] == ([1, 2, 3], [2.0, 1.0, 0.5])
    assert drawn["validation"] == ([1, 2, 3], [1.9, 1.1, 1.3])
    assert drawn["kept"][0] == [2, 2]


def test_the_reliability_diagram_has_the_bins_and_their_rows() -> None:
    found = evaluation()
    figure = reliability_figure(found)
    assert labels(figure) == [("", "Share that is right"), ("Confidence", "Rows")]
    drawn = lines(figure)
    assert drawn["with temperature"][1] == [bin_.accuracy for bin_ in found.bins]
    assert drawn["without temperature"][0] == [
        bin_.mean_confidence for bin_ in found.uncalibrated_bins
    ]
    heights = [patch.get_height() for patch in figure.axes[1].patches]  # type: ignore
    assert sum(heights) == pytest.approx(1)


def test_the_coverage_curve_shows_the_chosen_point_and_the_target() -> None:
    figure = coverage_figure(evaluation(), Acceptance(400, 200, 190), 0.9)
    assert labels(figure) == [
        ("Coverage: share of products accepted", "Precision: share of those that is right")
    ]
    drawn = lines(figure)
    assert drawn["thresholds chosen"] == ([0.5], [0.95])
    assert drawn["target"][1] == [0.9, 0.9]
    assert drawn["one threshold for all"][0][-1] == 1.0


@pytest.mark.parametrize("chosen", [None, Acceptance(400, 0, 0)])
def test_without_anything_accepted_no_point_is_shown(chosen: Acceptance | None) -> None:
    assert "thresholds chosen" not in lines(coverage_figure(evaluation(), chosen, 0.9))


def test_the_matrix_is_ordered_by_path_and_has_a_line_between_departments() -> None:
    counts = np.array([[5, 0, 2], [0, 3, 0], [1, 0, 4]])
    figure = confusion_figure(counts, ["Milk/Oat", "Fruit/Pear", "Milk/Cow"])
    (axes,) = figure.axes
    assert labels(figure) == [("Predicted class", "True class")]
    assert names(axes.yaxis) == ["Pear", "Cow", "Oat"]
    assert names(axes.xaxis) == 2 * ["Pear", "Cow", "Oat"]  # below and above
    drawn = np.asarray(axes.images[0].get_array())
    assert drawn.shape == (3, 3, 4)
    np.testing.assert_allclose(drawn[1, :, 3], opacity(np.array([0, 4 / 5, 1 / 5])))
    across, down = axes.lines
    assert (list(across.get_ydata()), list(down.get_xdata())) == ([0.5, 0.5], [0.5, 0.5])  # type: ignore
    assert {text.get_text() for text in axes.texts} == {"Fruit", "Milk", "3", "4", "1", "2", "5"}


def test_a_box_holds_each_branch_below_the_departments() -> None:
    paths = ["Fruit/Apple/Fuji", "Fruit/Apple/Gala", "Fruit/Pear", "Milk/Cow", "Milk/Oat"]
    figure = confusion_figure(np.eye(5, dtype=np.int64), paths)
    (box,) = figure.axes[0].patches
    assert box.get_bbox().bounds == (-0.5, -0.5, 2, 2)  # type: ignore[attr-defined]


def test_a_loss_that_is_no_number_leaves_a_gap() -> None:
    history = [{**HISTORY[0]}, {**HISTORY[1], "train_loss": float("nan")}]
    figure = history_figure(history, SERIES, "Loss")
    assert figure.axes[0].get_ylim() == (0, pytest.approx(1.08 * 2))
    lost = [{**HISTORY[0], "train_loss": float("inf"), "validation_loss": float("nan")}]
    assert "<svg" in inline_svg(history_figure(lost, SERIES, "Loss"), "loss", "")


def test_the_diagonal_has_another_hue_and_one_row_of_many_is_seen() -> None:
    colours = matrix_colours(np.array([[999, 1], [0, 0]]))
    assert tuple(colours[0, 0, :3]) != tuple(colours[0, 1, :3])
    assert colours[0, 1, 3] > 0.25
    assert colours[1, :, 3].tolist() == [0, 0]  # a class without rows stays empty


def test_81_classes_have_81_names_a_side_that_do_not_run_into_each_other() -> None:
    paths = [f"Department {index % 3}/Class {index:02}" for index in range(81)]
    figure = confusion_figure(np.eye(81, dtype=np.int64), paths)
    (axes,) = figure.axes
    assert (len(names(axes.yaxis)), len(names(axes.xaxis))) == (81, 2 * 81)
    cell = axes.get_position().height * figure.get_size_inches()[1] * 72 / 81
    assert axes.get_yticklabels()[0].get_fontsize() < cell
    departments = [text.get_text() for text in axes.texts]
    assert departments == ["Department 0", "Department 1", "Department 2"]


def test_too_many_classes_to_name_leave_the_departments_and_a_point_for_each_cell() -> None:
    classes = LABELLED_CLASSES + 880
    paths = [f"Department {index % 4}/Class {index}" for index in range(classes)]
    figure = confusion_figure(np.eye(classes, dtype=np.int64), paths)
    (axes,) = figure.axes
    assert (len(axes.get_xticks()), len(axes.get_yticks())) == (0, 0)
    assert len(axes.texts) == 4
    pixels = axes.get_position().height * figure.get_size_inches()[1] * 96
    assert pixels >= classes


def test_equal_names_of_two_branches_keep_what_tells_them_apart() -> None:
    figure = confusion_figure(np.eye(3, dtype=np.int64), ["Fruit/Apple", "Juice/Apple", "Milk"])
    assert names(figure.axes[0].yaxis) == ["Fruit/Apple", "Juice/Apple", "Milk"]


def test_names_are_drawn_as_they_are_written() -> None:
    paths = ["<b>&/a", "Price $1 or $\\frac$/日本", "x" * 50]
    svg = inline_svg(confusion_figure(np.eye(3, dtype=np.int64), paths), "confusion", "alt")
    assert "<b>" not in svg
    assert "日本" in svg
    assert "x" * 25 + "…" in svg
    one = confusion_figure(np.eye(2, dtype=np.int64), ["$a$", "$\\nothing$"])
    assert one.axes[0].texts[0].get_text() == "1"  # a class is no department of its own
    assert "$\\nothing$" in inline_svg(one, "confusion", "alt")


def test_an_inline_figure_has_a_text_theme_colours_its_own_ids_and_no_address() -> None:
    svg = inline_svg(history_figure(HISTORY, SERIES, "Loss"), "loss", 'Loss "falls" <fast>')
    assert svg.startswith('<svg role="img" aria-label="Loss &quot;falls&quot; &lt;fast&gt;"')
    assert svg.rstrip().endswith("</svg>")
    assert "var(--blue)" in svg and "#2166ac" not in svg
    assert "http" not in svg and "<!DOCTYPE" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert ids and all(found.startswith("loss-") for found in ids)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert used and set(used) <= set(ids)


def test_the_same_figure_gives_the_same_bytes() -> None:
    predictions = predictions_of([0, 1, 2, 3], np.eye(4)[[0, 1, 2, 2]].tolist())
    counts = np.zeros((4, 4), dtype=np.int64)
    np.add.at(counts, (predictions.labels, predictions.predicted), 1)
    one, other = (inline_svg(confusion_figure(counts, PATHS), "m", "") for _ in range(2))
    assert one == other

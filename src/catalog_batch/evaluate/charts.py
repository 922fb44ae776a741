"""Figures of the report: drawn by matplotlib, put into a page as SVG whose colours the page sets.

Text stays text, in the page's own font; what a figure measures is a property of its axes, so that
a test can ask for it. No figure uses pyplot, whose state all of a process would share.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from catalog_batch.evaluate.calibration import CalibrationBin
from catalog_batch.evaluate.findings import short_names
from catalog_batch.evaluate.metrics import SplitEvaluation
from catalog_batch.evaluate.thresholds import Acceptance
from catalog_batch.taxonomy import SEPARATOR, ancestors

INK, MUTED, LINE, BLUE, ORANGE = "#1d2126", "#59636e", "#d5dade", "#2166ac", "#b8500c"
RIGHT, WRONG = (0.20, 0.47, 0.76), (0.90, 0.43, 0.08)
"""Colours of the matrix, as shares of red, green and blue: seen on white and on black."""

LABELLED_CLASSES = 120
"""Most classes whose names stand beside the matrix; above it those of departments alone."""

COUNTED_CLASSES = 20
"""Most classes whose numbers of rows stand in the cells."""

LONGEST_NAME = 26
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BLUE: "blue", ORANGE: "orange"}
STYLE: dict[Any, Any] = {
    # A name with two dollar signs is no formula.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
}
"""Of every figure, also outside a report."""

_IN_A_PAGE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "catalog-batch",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
_FONT, _CELL, _POINTS = 6.8, 8.2, 72

Counts = npt.NDArray[np.int64]


def inline_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an SVG element to stand in a page.

    Args:
        figure: Is drawn.
        name: Of the figure, another one for each in the page: its ids begin with it.
        alt: What is to be seen, for those who do not see it.
    """
    target = io.StringIO()
    with _style(), warnings.catch_warnings():
        # The page's own fonts have the letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(target, format="svg", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", target.getvalue(), flags=re.DOTALL)
    width, height = (_POINTS * inches for inches in figure.get_size_inches())
    drawn = svg[svg.index(">", svg.index("<svg ")) + 1 :]
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var(--{variable})")
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}">{drawn}'
    )


def history_figure(
    history: Sequence[Mapping[str, Any]],
    series: Mapping[str, str],
    label: str,
    is_share: bool = False,
) -> Figure:
    """Draw figures of each epoch; a line marks the last epoch that improved.

    Args:
        history: One mapping an epoch, with ``epoch`` from 0.
        series: Name of a line by the key of its values; the first is drawn dashed if there are two.
        label: Of the vertical axis, with the unit.
        is_share: Whether values of 0 to 1 are to be read as percentages.
    """
    with _style():
        figure = Figure((3.9, 2.7), layout="constrained")
        axes = figure.add_subplot(xlabel="Epoch", ylabel=label)
        epochs = [row["epoch"] + 1 for row in history]
        looks = [(MUTED, ".--"), (BLUE, ".-")][-len(series) :]
        for (colour, look), (key, name) in zip(looks, series.items(), strict=True):
            axes.plot(epochs, [row[key] for row in history], look, color=colour, label=name)
        improved = [row["epoch"] + 1 for row in history if row.get("improved")]
        if improved:
            axes.axvline(improved[-1], color=ORANGE, linewidth=1, linestyle=":", label="kept")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        values = [row[key] for row in history for key in series]
        axes.set_ylim(0, 1.08 * max(filter(math.isfinite, values), default=0) or 1)
        if is_share:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        _legend(figure)
        return figure


def reliability_figure(evaluation: SplitEvaluation) -> Figure:
    """Draw accuracy by confidence, with the temperature and without, and the rows by confidence."""
    with _style():
        figure = Figure((4.6, 4.1), layout="constrained")
        upper, lower = figure.subplots(2, height_ratios=[4, 1], sharex=True)
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, label="as it should be")
        _plot_bins(upper, evaluation.uncalibrated_bins, "without temperature", ORANGE, "s--")
        _plot_bins(upper, evaluation.bins, "with temperature", BLUE, "o-")
        upper.set(ylabel="Share that is right", xlim=(0, 1), ylim=(0, 1.02))
        lower.bar(
            [found.low for found in evaluation.bins],
            [found.rows / evaluation.rows for found in evaluation.bins],
            width=[found.high - found.low for found in evaluation.bins],
            align="edge",
            color=BLUE,
        )
        lower.set(xlabel="Confidence", ylabel="Rows")
        for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        _legend(figure)
        return figure


def coverage_figure(
    evaluation: SplitEvaluation, chosen: Acceptance | None, target_precision: float
) -> Figure:
    """Draw precision against coverage for one threshold of all classes, and what was chosen.

    Args:
        evaluation: Of a split with rows.
        chosen: What the thresholds of the classes accept of the split, if there are any.
        target_precision: They were fitted for.
    """
    with _style():
        figure = Figure((4.6, 4.1), layout="constrained")
        axes = figure.add_subplot(xlabel="Coverage: share of products accepted")
        axes.set_ylabel("Precision: share of those that is right")
        points = evaluation.curve
        axes.plot(
            [point.coverage for point in points],
            [point.precision for point in points],
            color=BLUE,
            label="one threshold for all",
        )
        axes.axhline(target_precision, color=MUTED, linewidth=1, linestyle="--", label="target")
        if chosen and chosen.coverage is not None and chosen.precision is not None:
            axes.plot(
                [chosen.coverage],
                [chosen.precision],
                marker="D",
                markersize=7,
                linestyle="none",
                color=ORANGE,
                label="thresholds chosen",
            )
        axes.set_xlim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        _legend(figure)
        return figure


def confusion_figure(counts: Counts, paths: Sequence[str]) -> Figure:
    """Draw the confusion matrix, each row as shares of its class's rows.

    Classes are ordered by path, so that those of one branch stand together: lines part departments,
    boxes on the diagonal hold the classes of one branch below.

    Args:
        counts: [C, C], rows by true and by predicted class.
        paths: [C].
    """
    order = sorted(range(len(paths)), key=lambda index: paths[index].split(SEPARATOR))
    ordered = [paths[index] for index in order]
    counts = counts[np.ix_(order, order)]
    classes = len(paths)
    side, margin = _matrix_points(ordered)
    with _style():
        width, height = margin + side + 24, side + 2 * margin
        figure = Figure((width / _POINTS, height / _POINTS))
        axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
        axes.imshow(matrix_colours(counts), interpolation="none", aspect="equal")
        axes.grid(visible=False)
        axes.set(xlabel="Predicted class", ylabel="True class")
        axes.spines[:].set_visible(True)
        axes.tick_params(length=0, labelsize=_FONT, labeltop=True, labelcolor=INK)
        _separate(axes, ordered)
        if classes <= LABELLED_CLASSES:
            _name_classes(axes, ordered)
        else:
            axes.set(xticks=[], yticks=[])
        _name_departments(axes, ordered, side / classes)
        if classes <= COUNTED_CLASSES:
            _write_counts(axes, counts)
        return figure


def matrix_colours(counts: Counts) -> npt.NDArray[np.float64]:
    """Return [C, C, 4], a colour with its opacity for each cell: one hue right, another wrong."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = np.empty((*counts.shape, 4))
    colours[..., :3] = WRONG
    colours[np.eye(len(counts), dtype=np.bool_), :3] = RIGHT
    colours[..., 3] = opacity(shares)
    return colours


def opacity(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how strong cells are drawn: a single row of a large class is still to be seen."""
    strength: npt.NDArray[np.float64] = np.where(shares > 0, 0.28 + 0.72 * np.sqrt(shares), 0)
    return strength


def _style() -> AbstractContextManager[None]:
    return matplotlib.rc_context(STYLE | _IN_A_PAGE)


def _legend(figure: Figure) -> None:
    # Above the axes, since no corner of them is free in every run.
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.2, handlelength=1.6)


def _plot_bins(
    axes: Axes, bins: Sequence[CalibrationBin], name: str, colour: str, look: str
) -> None:
    axes.plot(
        [found.mean_confidence for found in bins],
        [found.accuracy for found in bins],
        look,
        color=colour,
        markersize=4,
        label=name,
    )


def _matrix_points(paths: Sequence[str]) -> tuple[float, float]:
    """Return the side of the matrix and the room for names beside it."""
    if len(paths) > LABELLED_CLASSES:
        # A cell must have a pixel at least, or a mistake in it would not be seen.
        return max(620, 0.75 * len(paths)), 24
    longest = max(len(_shortened(name)) for name in short_names(paths))
    return max(_CELL * len(paths), 160), 26 + 0.6 * _FONT * longest


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _separate(axes: Axes, paths: Sequence[str]) -> None:
    nodes = [ancestors(path) for path in paths]
    for first, _ in _runs([prefixes[0] for prefixes in nodes])[1:]:
        for draw in (axes.axhline, axes.axvline):
            draw(first - 0.5, color=INK, linewidth=1)
    for first, size in _runs([prefixes[:2] for prefixes in nodes]):
        if 1 < size < len(paths):
            box = Rectangle((first - 0.5, first - 0.5), size, size)
            box.set(facecolor="none", edgecolor=MUTED, linewidth=0.7)
            axes.add_patch(box)


def _runs(values: Sequence[Any]) -> list[tuple[int, int]]:
    """Return start and length of each stretch of equal values."""
    lengths = [len(list(run)) for _, run in groupby(values)]
    return [(sum(lengths[:place]), length) for place, length in enumerate(lengths)]


def _name_classes(axes: Axes, paths: Sequence[str]) -> None:
    names = [_shortened(name) for name in short_names(paths)]
    places = range(len(paths))
    axes.set_xticks(places, names, rotation=90)
    axes.set_yticks(places, names)
    for tick in axes.xaxis.get_major_ticks():
        tick.label2.set_rotation(90)  # set_xticks turns those below alone


def _name_departments(axes: Axes, paths: Sequence[str], cell: float) -> None:
    for first, rows in _runs([ancestors(path)[0] for path in paths]):
        name = ancestors(paths[first])[0]
        letters = int(rows * cell / (0.65 * (_FONT + 1)))
        if letters >= 3 and rows < len(paths) and name != paths[first]:
            shown = name if len(name) <= letters else f"{name[: letters - 1]}…"
            axes.text(
                1.01,
                first + (rows - 1) / 2,
                shown,
                transform=axes.get_yaxis_transform(),
                rotation=90,
                va="center",
                fontsize=_FONT + 1,
            )


def _write_counts(axes: Axes, counts: Counts) -> None:
    for (row, column), rows in np.ndenumerate(counts):
        if rows:
            axes.text(column, row, f"{rows:,}", ha="center", va="center", fontsize=_FONT)

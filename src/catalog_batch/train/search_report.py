"""What a search leaves for people and for ``train``: a table, a figure, the best settings."""

import csv
import io
import json
import math
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from catalog_batch.evaluate.charts import BLUE, MUTED, ORANGE, STYLE
from catalog_batch.train.checkpoints import write_atomically
from catalog_batch.train.search_results import (
    Outcome,
    TrialResult,
    ranked,
)
from catalog_batch.train.search_space import Axis, Choice, Range, SearchSpace

TABLE = "results.csv"
FIGURE = "results.png"
BEST = "best.toml"

COLUMNS = 3
"""Panels side by side."""


def write_table(folder: Path, space: SearchSpace, results: Sequence[TrialResult]) -> None:
    """Write ``results.csv``: a row a trial, in the order of their numbers."""
    text = io.StringIO(newline="")
    names = ["trial", "outcome", "epochs", "validation_accuracy", "validation_loss", "best_epoch"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "seconds", *(f"train.{name}" for name in space.axes), "error"])
    for result in results:
        kept = result.kept
        figures: list[Any] = ["", "", ""]
        if kept is not None:
            figures = [kept.validation_accuracy, kept.validation_loss, kept.epoch + 1]
        writer.writerow(
            [
                result.trial.name,
                result.outcome,
                len(result.epochs),
                *figures,
                round(result.seconds, 1),
                *result.trial.values.values(),
                result.error,
            ]
        )
    write_atomically(folder / TABLE, text.getvalue())


def results_table(space: SearchSpace, results: Sequence[TrialResult]) -> Table:
    """Return the trials as a table for a console, best first."""
    table = Table(show_edge=False)
    metric = space.options.metric
    for name in ("trial", "outcome", "epochs", metric.replace("_", " "), *space.axes):
        table.add_column(name, justify="left" if name in ("trial", "outcome") else "right")
    for result in ranked(results, space.options):
        figure = result.figure(metric)
        cells = [
            result.trial.name,
            result.outcome,
            str(len(result.epochs)),
            "" if figure is None else f"{figure:.4f}",
            *(f"{value}" for value in result.trial.values.values()),
        ]
        # As Text: a str would have its [brackets] taken for markup.
        table.add_row(*map(Text, cells))
        if result.error:
            table.add_row("", Text(result.error, style="red"))
    return table


def write_best(
    folder: Path, space: SearchSpace, best: TrialResult, elsewhere: Set[str], version: int
) -> None:
    """Write ``best.toml``: all settings that decide the model, those searched first.

    Args:
        folder: Of the search.
        space: What was searched.
        best: The trial.
        elsewhere: Settings of where a run happens, which are left out.
        version: Of the training table.
    """
    metric, name = space.options.metric, best.trial.name
    settings = best.trial.settings.model_dump(exclude=set(elsewhere))
    others = {key: value for key, value in settings.items() if key not in space.axes}
    lines = [
        f"# Trial {name} of search {folder.name}: {metric.replace('_', ' ')} "
        f"{best.figure(metric):.4f}",
        f"# on version {version} of training_examples.",
        f"# To register it as it is: catalog-batch train --config {BEST} --run-name {name}",
        "[train]",
        "# Searched:",
        *(f"{key} = {_as_toml(settings[key])}" for key in space.axes),
        "",
        "# As they were given:",
        *(f"{key} = {_as_toml(value)}" for key, value in others.items()),
    ]
    write_atomically(folder / BEST, "\n".join(lines) + "\n")


def write_figure(
    folder: Path, space: SearchSpace, results: Sequence[TrialResult], best: TrialResult
) -> None:
    """Write ``results.png``: the trials' curves, and the figure against each searched setting."""
    unfinished = folder / f"{FIGURE}.part"
    results_figure(space, results, best).savefig(unfinished, format="png", dpi=130)
    unfinished.replace(folder / FIGURE)


def results_figure(space: SearchSpace, results: Sequence[TrialResult], best: TrialResult) -> Figure:
    """Draw one panel of curves, and one of points for each searched setting."""
    panels = 1 + len(space.axes)
    columns = min(COLUMNS, panels)
    rows = math.ceil(panels / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure((3.6 * columns, 2.9 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        _draw_curves(next(grid), space, results, best)
        for name, axis in space.axes.items():
            _draw_points(next(grid), space, results, best, name, axis)
        for empty in grid:
            empty.set_axis_off()
        handles, labels = figure.axes[0].get_legend_handles_labels()
        kinds = dict(zip(labels, handles, strict=True))
        figure.legend(kinds.values(), kinds.keys(), loc="outside upper center", ncols=len(kinds))
    return figure


def _draw_curves(
    axes: Axes, space: SearchSpace, results: Sequence[TrialResult], best: TrialResult
) -> None:
    metric = space.options.metric
    axes.set(xlabel="epoch", ylabel=metric.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # The best one last, so that it lies on top.
    for result in sorted(results, key=lambda result: result is best):
        if result.epochs:
            epochs = [epoch.epoch + 1 for epoch in result.epochs]
            axes.plot(
                epochs,
                [getattr(epoch, metric) for epoch in result.epochs],
                "-" if result.outcome == Outcome.FINISHED else ":",
                marker="o",
                markersize=3,
                linewidth=2 if result is best else 1,
                label=_kind(result, best),
                color=_colour(result, best),
            )


def _draw_points(
    axes: Axes,
    space: SearchSpace,
    results: Sequence[TrialResult],
    best: TrialResult,
    name: str,
    axis: Axis,
) -> None:
    metric = space.options.metric
    axes.set(xlabel=name, ylabel=metric.replace("_", " "))
    choices = [str(value) for value in axis.values] if isinstance(axis, Choice) else []
    for result in sorted(results, key=lambda result: result is best):
        figure = result.figure(metric)
        if figure is not None:
            value = result.trial.values[name]
            colour = _colour(result, best)
            axes.plot(
                choices.index(str(value)) if choices else value,
                figure,
                "o",
                color=colour,
                markerfacecolor=colour if result.outcome == Outcome.FINISHED else "none",
                markersize=7 if result is best else 5,
            )
    if choices:
        axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.set_xticks(range(len(choices)), choices)
    elif isinstance(axis, Range) and axis.is_log:
        axes.set_xscale("log")


def _kind(result: TrialResult, best: TrialResult) -> str:
    return f"best: {best.trial.name}" if result is best else str(result.outcome)


def _colour(result: TrialResult, best: TrialResult) -> str:
    if result is best:
        return BLUE
    return MUTED if result.outcome == Outcome.FINISHED else ORANGE


def _as_toml(value: Any) -> str:
    # JSON's texts, numbers and booleans are TOML's too.
    return json.dumps(value, ensure_ascii=False)

"""The report of a training run: one HTML page that needs no network and no script.

The same inputs give the same bytes. What the page says first is in ``concerns.py``, what it shows
in ``findings.py`` and ``charts.py``; its words and its style are in ``report.html``.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sklearn.metrics import confusion_matrix

from catalog_batch.evaluate import charts, concerns, findings
from catalog_batch.evaluate.concerns import Concern
from catalog_batch.evaluate.findings import ConfusedPair, RowChanges
from catalog_batch.evaluate.judgement import Judgement
from catalog_batch.evaluate.metrics import Figure, SplitEvaluation
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.resampling import Interval
from catalog_batch.evaluate.thresholds import NEVER
from catalog_batch.evaluate.thumbnails import SHEET_SIDE, EmbeddedPicture, embedded
from catalog_batch.taxonomy import SEPARATOR

PAIRS, PAIRS_WITH_PHOTOS, PHOTOS_A_SIDE = 20, 8, 3
TOP_LOSSES = 24
WORST_CLASSES = 15
CHANGED_CLASSES = 10
CHANGED_ROWS = 12

LEGEND = (0.01, 0.05, 0.2, 0.5, 1.0)
"""Shares of a row whose colours are explained."""

LOWER_IS_BETTER = ("loss", "calibration_error", "mistake_severity")
"""Ends of the names of figures that shall be small."""

NOT_SHARES = ("loss", "mistake_severity")
"""Ends of the names of figures that are no shares of rows."""

Photo = Callable[[str], bytes | None]


def no_photo(image_id: str) -> bytes | None:
    """Stand in for a source of photos where there is none."""
    return None


@dataclass(frozen=True)
class Champion:
    """The model that the new one is compared with, judged on the same splits."""

    model: str
    """Name and version."""

    judgement: Judgement

    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    """By split; without them no single photo is compared."""


@dataclass(frozen=True)
class ReportInputs:
    """All that the page shows."""

    model: str
    """Name and version."""

    run: str
    architecture: str
    training_table: str
    training_table_version: int
    git_commit: str
    created_at: str
    """ISO 8601, UTC."""

    settings: Mapping[str, object]
    """By name."""

    history: Sequence[Mapping[str, Any]]
    """One mapping an epoch, as ``EpochReport`` names the figures; unknown ones are not shown."""

    judgement: Judgement
    predictions: Mapping[str, Predictions]
    """By split: those that the judgement is of."""

    target_precision: float
    """That the thresholds were fitted for."""

    photo: Photo = no_photo
    """Gives the bytes of a stored photo by its image id; None where there is none."""

    augmentation_sheet: bytes | None = None
    """PNG of photos before and after augmentation."""

    doubt: str = ""
    """Why the figures may be too good; empty when nothing speaks for it."""

    champion: Champion | None = None


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page; the file appears complete or not at all."""
    page = render_report(inputs)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
        partial = Path(temporary) / path.name
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)


def render_report(inputs: ReportInputs) -> str:
    """Return the page as text."""

    @cache
    def photo(image_id: str) -> EmbeddedPicture | None:
        return embedded(inputs.photo(image_id))

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "value": figure_value,
        "spread": spread,
        "title": figure_title,
        "signed": signed,
        "parts": lambda path: path.split(SEPARATOR),
    }
    template = environment.get_template("report.html")
    return template.render(inputs=inputs, photo=photo, **_content(inputs))


def judged_split(judgement: Judgement) -> SplitEvaluation | None:
    """Return the evaluation that speaks for the model: test, or validation without test rows."""
    found = (judgement.evaluations.get(split) for split in ("test", "validation"))
    return next((evaluation for evaluation in found if evaluation and evaluation.rows), None)


def percent(share: float | None) -> str:
    """Write a share as a percentage with one decimal."""
    return "none" if share is None else f"{100 * share:.1f}%"


def figure_value(value: float, name: str) -> str:
    """Write a figure as its name wants it: as a percentage, or as a number."""
    return f"{value:.3f}" if name.endswith(NOT_SHARES) else percent(value)


def spread(interval: Interval, name: str = "") -> str:
    """Write an interval; nothing where there is none."""
    if interval is None:
        return ""
    low, high = interval
    if name.endswith(NOT_SHARES):
        return f"{low:.3f} to {high:.3f}"
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def figure_title(name: str) -> str:
    """Write a figure's name in words."""
    words = name.replace("top5", "top 5").replace("_", " ").replace(" f1", " F1")
    return words[0].upper() + words[1:]


def signed(difference: float, name: str = "") -> str:
    """Write a difference with its sign, in points of a percentage where the figure is a share."""
    if name.endswith(NOT_SHARES):
        return f"{round(difference, 3) + 0.0:+.3f}"
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def _content(inputs: ReportInputs) -> dict[str, Any]:
    evaluation = judged_split(inputs.judgement)
    content: dict[str, Any] = {
        "evaluation": evaluation,
        "history_charts": list(_history_charts(inputs.history)),
        "epochs": _epochs(inputs.history),
        "sheet": embedded(inputs.augmentation_sheet, SHEET_SIDE),
        "splits": [found for found in inputs.judgement.evaluations.values() if found.rows],
        "never": NEVER,
        "legend": list(zip(LEGEND, charts.opacity(np.array(LEGEND)).tolist(), strict=True)),
        "is_right_colour": _css_colour(charts.RIGHT),
        "is_wrong_colour": _css_colour(charts.WRONG),
    }
    if evaluation is None:
        return {**content, "concerns": list(concerns.training_concerns(inputs.history))}
    predictions = inputs.predictions[evaluation.split]
    temperature = inputs.judgement.decider.temperature
    pairs = findings.confused_pairs(predictions, temperature, PAIRS, PHOTOS_A_SIDE)
    changes = _row_changes(inputs, evaluation.split)
    check = inputs.judgement.acceptance.get(evaluation.split)
    return {
        **content,
        "accepted": check.overall if check else None,
        "backed_off": inputs.judgement.backed_off.get(evaluation.split),
        "accepted_by_class": check.by_class if check else {},
        "levels": [name for name in evaluation.figures if name.startswith("accuracy_level_")],
        "confusion": _confusion_chart(predictions),
        "reliability": _reliability_chart(evaluation),
        "coverage": _coverage_chart(inputs, evaluation),
        "pairs": pairs,
        "pairs_with_photos": pairs[:PAIRS_WITH_PHOTOS],
        "losses": findings.top_losses(predictions, temperature, TOP_LOSSES),
        "taken_for": findings.mostly_taken_for(evaluation),
        "short": _short_names(inputs, evaluation.split),
        "weakest": findings.weakest_first(evaluation),
        "shown_classes": WORST_CLASSES,
        "comparison": _comparison(inputs, evaluation, changes),
        "concerns": list(_concerns(inputs, evaluation, pairs, changes)),
    }


def _concerns(
    inputs: ReportInputs,
    evaluation: SplitEvaluation,
    pairs: Sequence[ConfusedPair],
    changes: RowChanges | None,
) -> Iterator[Concern]:
    judgement = inputs.judgement
    champion = _champion_evaluation(inputs, evaluation.split)
    yield from concerns.start_concerns(inputs.doubt)
    if champion:
        yield from concerns.champion_concerns(champion, evaluation, changes)
    yield from concerns.acceptance_concerns(judgement, evaluation, inputs.target_precision)
    yield from concerns.class_concerns(evaluation, pairs)
    yield from concerns.figure_concerns(judgement, evaluation)
    yield from concerns.training_concerns(inputs.history)


def _short_names(inputs: ReportInputs, split: str) -> dict[str, str]:
    """Return, by path, what the classes of both models are called where there is little room."""
    judged = [inputs.predictions[split]]
    if inputs.champion and split in inputs.champion.predictions:
        judged.append(inputs.champion.predictions[split])
    paths = list(dict.fromkeys(path for found in judged for path in found.category_paths))
    return dict(zip(paths, findings.short_names(paths), strict=True))


def _history_charts(history: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    # Without validation rows the figures of training stand in for theirs.
    has_validation = all(row.get("validation_rows", 1) for row in history)
    both = {"train": "training", "validation": "validation"} if has_validation else {"train": ""}
    drawn = (
        ("loss", {f"{key}_loss": name or "training" for key, name in both.items()}, False),
        ("accuracy", {f"{key}_accuracy": name or "training" for key, name in both.items()}, True),
        ("learning rate", {"learning_rate": "learning rate"}, False),
        ("images per second", {"images_per_second": "images per second"}, False),
        ("time waiting", {"wait_share": "waiting for batches"}, True),
    )
    for label, series, is_share in drawn:
        if history and all(key in row for row in history for key in series):
            figure = charts.history_figure(history, series, label.capitalize(), is_share)
            last = ", ".join(f"{name} {history[-1][key]:.4g}" for key, name in series.items())
            alt = f"{label.capitalize()} by epoch; in the last one {last}."
            name = label.replace(" ", "-")
            yield Markup(charts.inline_svg(figure, name, alt))


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[float]]]:
    """Return the columns of the table of epochs, those that every epoch has."""
    names = (
        "train_loss",
        "validation_loss",
        "train_accuracy",
        "validation_accuracy",
        "learning_rate",
        "images_per_second",
        "wait_share",
    )
    known = [name for name in names if history and all(name in row for row in history)]
    return [(name, [row[name] for row in history]) for name in known]


def _confusion_chart(predictions: Predictions) -> Markup:
    classes = len(predictions.category_ids)
    counts = confusion_matrix(
        predictions.labels, predictions.predicted, labels=list(range(classes))
    )
    alt = (
        f"Confusion matrix of {classes} classes: {predictions.correct.sum():,} of "
        f"{predictions.rows:,} rows lie on the diagonal. The pairs off it are in a table below."
    )
    figure = charts.confusion_figure(counts, predictions.category_paths)
    return Markup(charts.inline_svg(figure, "confusion", alt))


def _reliability_chart(evaluation: SplitEvaluation) -> Markup:
    figures = evaluation.figures
    alt = (
        "Reliability diagram: accuracy against confidence. The calibration error is "
        f"{percent(figures['uncalibrated_calibration_error'].value)} without the temperature and "
        f"{percent(figures['calibration_error'].value)} with it."
    )
    return Markup(charts.inline_svg(charts.reliability_figure(evaluation), "reliability", alt))


def _coverage_chart(inputs: ReportInputs, evaluation: SplitEvaluation) -> Markup:
    check = inputs.judgement.acceptance.get(evaluation.split)
    chosen = check.overall if check else None
    alt = "Precision against coverage."
    if chosen:
        alt += (
            f" The thresholds chosen accept {percent(chosen.coverage)} of the products, "
            f"{percent(chosen.precision)} of them rightly."
        )
    figure = charts.coverage_figure(evaluation, chosen, inputs.target_precision)
    return Markup(charts.inline_svg(figure, "coverage", alt))


def _champion_evaluation(inputs: ReportInputs, split: str) -> SplitEvaluation | None:
    if inputs.champion is None:
        return None
    found = inputs.champion.judgement.evaluations.get(split)
    return found if found and found.rows else None


def _row_changes(inputs: ReportInputs, split: str) -> RowChanges | None:
    if inputs.champion is None or split not in inputs.champion.predictions:
        return None
    return findings.row_changes(
        inputs.champion.predictions[split],
        inputs.predictions[split],
        inputs.champion.judgement.decider.temperature,
        inputs.judgement.decider.temperature,
    )


@dataclass(frozen=True)
class _FigureChange:
    name: str
    before: Figure
    after: Figure

    @property
    def difference(self) -> float:
        return self.after.value - self.before.value

    @property
    def verdict(self) -> str:
        if float(signed(self.difference, self.name)) == 0:
            return "the same"
        is_better = (self.difference > 0) != self.name.endswith(LOWER_IS_BETTER)
        return "better" if is_better else "worse"


def _comparison(
    inputs: ReportInputs, evaluation: SplitEvaluation, changes: RowChanges | None
) -> dict[str, Any] | None:
    before = _champion_evaluation(inputs, evaluation.split)
    if before is None or inputs.champion is None:
        return None
    by_class = findings.class_changes(before, evaluation)
    return {
        "champion": inputs.champion.model,
        "rows": (before.rows, evaluation.rows),
        "figures": [
            _FigureChange(name, before.figures[name], figure)
            for name, figure in evaluation.figures.items()
            if name in before.figures
        ],
        "lost": [change for change in by_class if change.difference < 0][:CHANGED_CLASSES],
        "gained": [change for change in by_class[::-1] if change.difference > 0][:CHANGED_CLASSES],
        "changes": changes,
        "shown": CHANGED_ROWS,
    }


def _css_colour(shares: tuple[float, float, float]) -> str:
    red, green, blue = (round(255 * share) for share in shares)
    return f"rgb({red} {green} {blue})"

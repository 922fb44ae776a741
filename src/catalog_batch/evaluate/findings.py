"""What is worth looking at in a split: confused pairs, top losses, weak classes, changes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from catalog_batch.evaluate.hierarchy import Integers
from catalog_batch.evaluate.metrics import ClassFigures, SplitEvaluation
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.modeling.confidence import confidences
from catalog_batch.taxonomy import SEPARATOR


@dataclass(frozen=True)
class Answer:
    """What a model said of one row."""

    image_id: str
    true: str
    """Path of the true class."""

    predicted: str
    confidence: float
    """In the predicted class."""

    true_confidence: float
    """In the true class."""

    @property
    def is_right(self) -> bool:
        """Whether the predicted class is the true one."""
        return self.true == self.predicted


@dataclass(frozen=True)
class ConfusedPair:
    """Rows of one class that were predicted as another."""

    true: str
    """Path of the class that the rows are of."""

    predicted: str
    rows: int
    support: int
    """All rows of the true class."""

    reverse: int
    """Rows of the predicted class that were predicted as the true one."""

    mistaken: tuple[Answer, ...]
    """Some of the rows, the most confident first."""

    typical: tuple[Answer, ...]
    """Rows that are of the predicted class and were recognised, the most confident first."""


@dataclass(frozen=True)
class ClassChange:
    """F1 of one class before and after."""

    category_path: str
    support: int
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Return what was gained; negative when lost."""
        return self.after - self.before


@dataclass(frozen=True)
class RowChanges:
    """The rows that two models both judged, as far as one was wrong."""

    rows: int
    new: tuple[Answer, ...]
    """Mistakes of the later model on rows that the earlier one had right, most confident first."""

    gone: tuple[Answer, ...]
    """Mistakes of the earlier model on rows that the later one has right, most confident first."""

    p_value: float
    """Chance of so uneven numbers of products that get better and worse if the models were equally
    good.

    A product whose photos change in both ways goes by most of them. Where each has one photo it is
    McNemar's exact test: Note on the sampling error of the difference between correlated
    proportions or percentages, 1947.
    """


def confused_pairs(
    predictions: Predictions, temperature: float, most: int, photos: int
) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes with most rows confused; of equal ones the larger share first.

    Args:
        predictions: Of a split.
        temperature: Confidences are computed with.
        most: Pairs.
        photos: Most rows on each side of a pair.
    """
    classes = len(predictions.category_ids)
    wrong = np.flatnonzero(~predictions.correct)
    true, predicted = predictions.labels[wrong], predictions.predicted[wrong]
    codes, rows = np.unique(true * classes + predicted, return_counts=True)
    count = dict(zip(codes.tolist(), rows.tolist(), strict=True))
    support = np.bincount(predictions.labels, minlength=classes)
    order = np.lexsort((codes, -rows / support[codes // classes], -rows))[:most]
    found = []
    for code in codes[order].tolist():
        first, second = divmod(code, classes)
        is_confused = (predictions.labels == first) & (predictions.predicted == second)
        is_typical = (predictions.labels == second) & predictions.correct
        found.append(
            ConfusedPair(
                true=predictions.category_paths[first],
                predicted=predictions.category_paths[second],
                rows=count[code],
                support=int(support[first]),
                reverse=count.get(second * classes + first, 0),
                mistaken=most_confident(predictions, is_confused, temperature, photos),
                typical=most_confident(predictions, is_typical, temperature, photos),
            )
        )
    return tuple(found)


def top_losses(predictions: Predictions, temperature: float, most: int) -> tuple[Answer, ...]:
    """Return the rows whose true class got the least confidence, the least first."""
    shares = confidences(predictions.logits, temperature)
    own = shares[np.arange(predictions.rows), predictions.labels]
    return answers(predictions, np.argsort(own, kind="stable")[:most], temperature)


def most_confident(
    predictions: Predictions, chosen: npt.NDArray[np.bool_], temperature: float, most: int
) -> tuple[Answer, ...]:
    """Return the chosen rows with the largest confidence in what was predicted.

    Args:
        predictions: Of a split.
        chosen: [N].
        temperature: Confidences are computed with.
        most: Rows.
    """
    rows = np.flatnonzero(chosen)
    best = confidences(predictions.logits[rows], temperature).max(axis=1, initial=0)
    return answers(predictions, rows[np.argsort(-best, kind="stable")][:most], temperature)


def answers(predictions: Predictions, rows: Integers, temperature: float) -> tuple[Answer, ...]:
    """Describe some rows, in the order of their indices as given."""
    shares = confidences(predictions.logits[rows], temperature)
    labels, predicted = predictions.labels[rows], predictions.predicted[rows]
    paths = predictions.category_paths
    return tuple(
        Answer(
            image_id=str(predictions.image_ids[row]),
            true=paths[labels[place]],
            predicted=paths[predicted[place]],
            confidence=float(shares[place, predicted[place]]),
            true_confidence=float(shares[place, labels[place]]),
        )
        for place, row in enumerate(rows.tolist())
    )


def weakest_first(evaluation: SplitEvaluation) -> list[ClassFigures]:
    """Return the classes that have rows, by F1; of equal ones the one with more rows first."""
    with_rows = [found for found in evaluation.classes if found.support]
    return sorted(with_rows, key=lambda found: (found.f1.value, -found.support))


def mostly_taken_for(evaluation: SplitEvaluation) -> dict[str, tuple[str, int]]:
    """Return, by category id, what most mistakes with the class were: the path, and their number.

    A class without mistakes is left out.
    """
    paths = {found.category_id: found.category_path for found in evaluation.classes}
    wrong = [cell for cell in evaluation.confusion if cell.true != cell.predicted]
    # Of equal cells the first one in class order stays.
    return {
        cell.true: (paths[cell.predicted], cell.rows)
        for cell in sorted(wrong[::-1], key=lambda cell: cell.rows)
    }


def class_changes(before: SplitEvaluation, after: SplitEvaluation) -> list[ClassChange]:
    """Return the classes, with rows, that both evaluations know, by the difference in F1."""
    known = {found.category_id: found for found in before.classes}
    changes = [
        ClassChange(
            found.category_path,
            found.support,
            known[found.category_id].f1.value,
            found.f1.value,
        )
        for found in after.classes
        if found.support and found.category_id in known
    ]
    return sorted(changes, key=lambda change: (change.difference, change.category_path))


def row_changes(
    before: Predictions,
    after: Predictions,
    before_temperature: float,
    after_temperature: float,
) -> RowChanges:
    """Compare two models on the rows both have; classes are compared by id, not by index."""
    _, old, new = np.intersect1d(
        before.image_ids, after.image_ids, assume_unique=True, return_indices=True
    )
    true = np.array(after.category_ids)[after.labels[new]]
    was_right = np.array(before.category_ids)[before.predicted[old]] == true
    is_right = after.correct[new]
    _, product = np.unique(after.product_ids[new], return_inverse=True)
    # Photos of one product change together more often than by chance: it has one vote.
    gained = np.bincount(product, weights=is_right.astype(float) - was_right)
    return RowChanges(
        rows=len(new),
        new=_mistakes(after, new[was_right & ~is_right], after_temperature),
        gone=_mistakes(before, old[~was_right & is_right], before_temperature),
        p_value=_sign_test(int((gained < 0).sum()), int((gained > 0).sum())),
    )


def short_names(paths: Sequence[str]) -> list[str]:
    """Return, for each path, the shortest end of it that no other path has."""
    parts = [path.split(SEPARATOR) for path in paths]
    names = [found[-1] for found in parts]
    for length in range(2, max(map(len, parts), default=0) + 1):
        names = [
            SEPARATOR.join(found[-length:]) if names.count(name) > 1 else name
            for found, name in zip(parts, names, strict=True)
        ]
    return names


def _mistakes(predictions: Predictions, rows: Integers, temperature: float) -> tuple[Answer, ...]:
    chosen = np.zeros(predictions.rows, dtype=np.bool_)
    chosen[rows] = True
    return most_confident(predictions, chosen, temperature, len(rows))


def _sign_test(one: int, other: int) -> float:
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0

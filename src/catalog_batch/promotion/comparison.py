"""Challenger and champion on the same test rows, through the predictor that scores at night."""

from collections.abc import Sequence

import numpy as np

from catalog_batch.errors import TrainingDataError
from catalog_batch.evaluate.gate import Answers, Bounds, Check, Names, check_challenger
from catalog_batch.evaluate.predictions import Floats
from catalog_batch.modeling.bundle import Bundle
from catalog_batch.modeling.predictor import NOT_FINITE, Failure, Prediction, Predictor
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.moves import Moves
from catalog_batch.progress import progress_bar
from catalog_batch.split_rows import RowBatch, SplitRows

_NO_ANSWER = ("", 0.0)
"""Of no category, and so wrong, for the model that gave no number."""


def compare(
    rows: SplitRows,
    challenger: Bundle,
    champion: Bundle | None,
    bounds: Bounds,
    batch_size: int,
    moves: Moves,
    is_doubtful: bool = False,
) -> list[Check]:
    """Let both models answer for all rows, and check the bounds.

    Answers and rows are of the categories of now, as in what scoring publishes: a category that
    was renamed since the champion was trained is not one that it lacks.

    Images are held for one batch. What stays of a row, its category and two answers, is about
    200 bytes.

    Args:
        rows: The test rows.
        challenger: As ``load_bundle`` gave it.
        champion: The same; None when the model has no champion.
        bounds: That must hold.
        batch_size: Images at a time.
        moves: Where categories of earlier trees are now.
        is_doubtful: Whether the challenger may have been trained on some of the rows.

    Raises:
        TrainingDataError: When rows cannot be read, or an image of theirs not be decoded.
    """
    first = _Contestant(challenger, batch_size, moves)
    second = _Contestant(champion, batch_size, moves) if champion else None
    true = [_names([])]
    with progress_bar(f"comparing on {rows.rows:,} test rows", rows.rows, "images") as advance:
        for batch in rows.batches(batch_size):
            true.append(_names([moves.now(category) for category in batch.category_ids]))
            for contestant in (first, second):
                if contestant:
                    contestant.answer(batch)
            advance(len(batch.image_ids))
    return check_challenger(
        np.concatenate(true),
        first.answers(),
        second.answers() if second else None,
        bounds,
        is_doubtful,
    )


def classes_of(spec: BundleSpec, moves: Moves) -> dict[str, str]:
    """Return the paths of a model's classes by category id, as they are now."""
    return moves.classes_now({label.category_id: label.path for label in spec.classes})


class _Contestant:
    """A model and what it has answered so far."""

    def __init__(self, bundle: Bundle, batch_size: int, moves: Moves) -> None:
        self._predictor = Predictor(bundle, top_k=1, batch_size=batch_size)
        self._classes = classes_of(bundle.spec, moves)
        self._moves = moves
        self._categories = [_names([])]
        self._confidences: list[Floats] = [np.empty(0, np.float32)]

    def answer(self, batch: RowBatch) -> None:
        results = self._predictor.predict(batch.contents)
        best = [
            _NO_ANSWER if result == NOT_FINITE else _predicted(image_id, result).top_k[0]
            for image_id, result in zip(batch.image_ids, results, strict=True)
        ]
        self._categories.append(_names([self._moves.now(category) for category, _ in best]))
        self._confidences.append(np.array([share for _, share in best], dtype=np.float32))

    def answers(self) -> Answers:
        return Answers(
            self._classes, np.concatenate(self._categories), np.concatenate(self._confidences)
        )


def _predicted(image_id: str, result: Prediction | Failure) -> Prediction:
    if isinstance(result, Failure):
        # Training decoded it. Counted as wrong for both it would blur what is compared.
        raise TrainingDataError(
            f"Image {image_id!r} of the test rows cannot be decoded ({result.detail}). Ingest its "
            "source again, run build-training-set, and train on the new version."
        )
    return result


def _names(texts: Sequence[str]) -> Names:
    return np.array(texts, dtype=np.str_)

"""Variants of a model side by side on the same pictures: how fast, and what they answer."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np

from catalog_batch.errors import TrainingDataError
from catalog_batch.evaluate.thresholds import least_confidences
from catalog_batch.modeling.bundle import Bundle
from catalog_batch.modeling.confidence import Floats, confidences, energies
from catalog_batch.modeling.preprocessing import ImageDecodeError, Picture, Preprocessing
from catalog_batch.modeling.runtimes import Pixels, logits_of
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.modeling.variants import AS_TRAINED
from catalog_batch.progress import progress_bar
from catalog_batch.split_rows import RowBatch, SplitRows

WARM_UP = 1
"""Batches at first whose time does not count: libraries take memory and plan in them."""

LOOKED_AT = 3
"""Batches after which a variant that takes ``HOPELESS`` times as long as the model as trained
answers no more: bfloat16 is emulated where a processor has none, and would take most of the
time."""

HOPELESS = 2.0


@dataclass(frozen=True)
class Trial:
    """What a variant showed."""

    variant: str
    images_per_second: float
    """Of the network alone, pictures decoded: the median over batches."""

    agreement: float
    """Share of the pictures whose best category is that of the model as trained."""

    accuracy: float
    accepted: float
    """Share of the pictures whose best category scoring would give: sure enough, and not unlike
    those of training. As of products of one picture each."""

    images: int
    """That it answered: all, unless it was far too slow."""


@dataclass
class _Contestant:
    bundle: Bundle
    min_confidence: float
    answers: list[int] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    seconds_per_image: list[float] = field(default_factory=list)
    has_stopped: bool = False

    def answer(self, images: Pixels) -> None:
        started = time.perf_counter()
        logits = logits_of(self.bundle.network, self.bundle.spec.preprocessing, images)
        self.seconds_per_image.append((time.perf_counter() - started) / len(images))
        self.answers += logits.argmax(axis=1).tolist()
        self.accepted += _are_accepted(logits, self.bundle.spec, self.min_confidence)

    def goes_on(self, reference: "_Contestant") -> bool:
        """Return whether it is worth more batches; once it is not, it never is again."""
        is_known = len(self.seconds_per_image) >= LOOKED_AT
        if is_known and HOPELESS * self.images_per_second < reference.images_per_second:
            self.has_stopped = True
        return not self.has_stopped

    @property
    def images_per_second(self) -> float:
        timed = self.seconds_per_image[WARM_UP:] or self.seconds_per_image
        return 1 / statistics.median(timed)


def _are_accepted(logits: Floats, spec: BundleSpec, min_confidence: float) -> list[bool]:
    """Return of each picture whether its best category would be given, by logits [N, C]."""
    shares = confidences(logits, spec.temperature)
    category_ids = [label.category_id for label in spec.classes]
    least = least_confidences(category_ids, spec.thresholds, min_confidence)
    are_sure = shares.max(axis=1) >= least[shares.argmax(axis=1)]
    if spec.energy_limit is not None:
        are_sure &= energies(logits, spec.temperature) <= spec.energy_limit
    found: list[bool] = are_sure.tolist()
    return found


def _agreement(answers: Sequence[int], expected: Sequence[int]) -> float:
    """Return the share of the answers that are the expected ones, of as many as were given."""
    return float(np.mean(np.array(answers) == np.array(expected[: len(answers)])))


def run_trials(
    bundles: Mapping[str, Bundle],
    rows: SplitRows,
    most: int,
    batch_size: int,
    min_confidence: float,
) -> list[Trial]:
    """Let all variants answer the same pictures, taking turns by the batch.

    Each batch has another go first: what slows the machine down for a while slows all of them.

    Args:
        bundles: By name of the variant; one is ``AS_TRAINED``.
        rows: Whose pictures and categories are taken, the first ones.
        most: Pictures at the most.
        batch_size: Of them that go through a network at once, and are held at a time.
        min_confidence: Least to accept a category that has no threshold of its own.

    Raises:
        TrainingDataError: When there are no rows, or one cannot be read or decoded.
    """
    contestants = {name: _Contestant(bundle, min_confidence) for name, bundle in bundles.items()}
    spec = bundles[AS_TRAINED].spec
    places = {label.category_id: place for place, label in enumerate(spec.classes)}
    true: list[int] = []
    total = min(rows.rows, most)
    if not total:
        raise TrainingDataError(
            f"Version {rows.version} of training_examples has no {rows.split} rows to compare "
            "variants on. Raise training_set.test_share, build the training set anew and train."
        )
    turns = cycle(range(len(contestants)))
    with progress_bar(f"measuring {len(bundles)} variants", total, "images") as advance:
        for batch in _first(rows, most, batch_size):
            images = np.stack(decoded(batch, spec.preprocessing))
            # A category that the model has no class for is wrong for all.
            true += [places.get(category, -1) for category in batch.category_ids]
            order, turn = list(contestants.values()), next(turns)
            for contestant in order[turn:] + order[:turn]:
                if contestant.goes_on(contestants[AS_TRAINED]):
                    contestant.answer(images)
            advance(len(images))
    reference = contestants[AS_TRAINED].answers
    return [
        Trial(
            name,
            contestant.images_per_second,
            _agreement(contestant.answers, reference),
            _agreement(contestant.answers, true),
            float(np.mean(contestant.accepted)),
            len(contestant.answers),
        )
        for name, contestant in contestants.items()
    ]


def decoded(batch: RowBatch, preprocessing: Preprocessing) -> list[Picture]:
    """Return the pictures of some rows, uint8 [S, S, 3] each.

    Raises:
        TrainingDataError: For one that cannot be decoded, which training did.
    """
    images = []
    for image_id, content in zip(batch.image_ids, batch.contents, strict=True):
        try:
            images.append(preprocessing.decode(content))
        except ImageDecodeError as error:
            raise TrainingDataError(
                f"Image {image_id!r} of training_examples cannot be decoded ({error}). Ingest its "
                "source again, run build-training-set, and train on the new version."
            ) from error
    return images


def spread_images(rows: SplitRows, count: int, preprocessing: Preprocessing) -> Sequence[Picture]:
    """Return ``count`` pictures at even distances over the rows, or all when there are fewer."""
    count = min(count, rows.rows)
    places = [rows.rows * number // count for number in range(count)]
    return [each for batch in rows.at(places) for each in decoded(batch, preprocessing)]


def _first(rows: SplitRows, most: int, batch_size: int) -> Iterator[RowBatch]:
    left = most
    for batch in rows.batches(min(batch_size, most)):
        yield RowBatch(batch.image_ids[:left], batch.contents[:left], batch.category_ids[:left])
        left -= len(batch.image_ids)
        if left <= 0:
            return

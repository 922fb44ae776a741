"""Batches of one rank's share of a snapshot, through Petastorm (imported here alone).

Petastorm gets the snapshot's file list, never a folder: a Delta folder holds files that are not
part of the table, and opening a folder unpickles a ``_common_metadata`` that anyone may have put
there. What it hands over is counted, since a lost row raises no error of its own.
"""

import random
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from petastorm import make_batch_reader

from catalog_batch.config import TrainSettings
from catalog_batch.errors import CatalogBatchError, ReconciliationError, TrainingDataError
from catalog_batch.modeling.preprocessing import ImageDecodeError, Preprocessing
from catalog_batch.modeling.starting import starting_preprocessing
from catalog_batch.train.features import FeatureFile
from catalog_batch.train.loop import Batch
from catalog_batch.train.prefetch import prefetched
from catalog_batch.train.sampling import balanced, balanced_quotas
from catalog_batch.train.snapshot import Snapshot

# Petastorm reads through pyarrow's legacy dataset: hundreds of lines per epoch that say only that.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")

Image = npt.NDArray[np.uint8]
StoredRow = tuple[str, Any, str]
"""(image_id, content, category_id); the content is bytes, or the id where features are known."""

Rows = Generator[StoredRow, None, None]
"""Rows whose source ends its threads when it is closed."""

Example = tuple[npt.NDArray[Any], int]
"""(uint8 [H, W, 3] or features, label)."""

Examples = Generator[Example, None, None]
Batches = Generator[Batch, None, None]


@dataclass(frozen=True)
class ShardReader:
    """One rank's share of a snapshot, as batches of a fixed number and size on every rank."""

    snapshot: Snapshot
    preprocessing: Preprocessing
    settings: TrainSettings
    rank: int = 0
    world_size: int = 1

    features: Mapping[str, FeatureFile] = field(default_factory=dict)
    """By split: of what has them, batches hold features instead of pictures, in the same order."""

    alive: Callable[[], None] = field(default=lambda: None, compare=False)
    """Called for each batch, also for those that are only read."""

    def training(self, epoch: int, first: int = 0) -> Batches:
        """Yield the shuffled training batches of an epoch; the order depends on seed and epoch.

        From batch ``first`` on: those before it are read and not decoded. With several
        ``reader_threads`` their rows need not be those of an earlier time.

        With ``sampling = "balanced"`` an epoch has as many rows as otherwise, on each rank too,
        and over all ranks as many of each class: rows of frequent classes are left out, other
        ones each epoch, those of rare ones repeated (``sampling.balanced_quotas``).

        Raises:
            TrainingDataError: For an undecodable image, or a file that vanished or is damaged.
            ReconciliationError: When Petastorm handed over more or fewer rows than the shard has.
            CatalogBatchError: When no batch came for ``stall_seconds``.
        """
        seed = epoch_seed(self.settings.seed, epoch)
        draw = random.Random(epoch_seed(seed, self.rank))
        rows = self._rows("train", seed)
        if self.settings.sampling == "balanced":
            rows = self._balanced(rows, draw)
        return self._batches("train", shuffled(rows, self.settings.shuffle_rows, draw), first)

    def evaluation(self, split: str, image_ids: list[str] | None = None) -> Batches:
        """Yield a split's batches in the table's order; raises what ``training`` raises.

        Args:
            split: Its name.
            image_ids: Is filled with the ids of the rows, in the order of the batches; padding
                has none. It is complete after the last batch.
        """
        rows = self._rows(split, seed=None)
        return self._batches(split, rows if image_ids is None else noted(rows, image_ids))

    def first_images(self, split: str, count: int) -> Image:
        """Decode the first images of this rank's share of a split: uint8 [N, H, W, 3]."""
        with closing(self._examples(split, self._rows(split, seed=None))) as examples:
            images = [image for image, _ in islice(examples, count)]
        return np.stack(images)

    def _batches(self, split: str, rows: Rows, first: int = 0) -> Batches:
        size = self.settings.batch_size
        steps = self.snapshot.steps(split, self.world_size, size)
        own = -(-self.snapshot.rows_of_shard(split, self.rank, self.world_size) // size)
        # This rank's last batch of real rows is always decoded: padding repeats them.
        skipped = min(first, max(own - 1, 0))

        def batches() -> Generator[Batch | None, None, None]:
            # Telling of each keeps the reader from being taken for a stalled one.
            with closing(rows):
                for _ in range(skipped):
                    deque(islice(rows, size), maxlen=0)
                    yield None
                examples = self._examples(split, rows)
                rest = full_batches(examples, steps - skipped, size, self._blank(split))
                with closing(rest):
                    for number, batch in enumerate(rest, skipped):
                        yield batch if number >= first else None

        ahead = prefetched(batches(), self.settings.stall_seconds, f"the {split} split")
        return present(ahead, self.alive)

    def _examples(self, split: str, rows: Rows) -> Examples:
        decode = self.features.get(split, self.preprocessing.decode)
        return decoded(rows, decode, self._labels, self.settings.decode_threads)

    def _blank(self, split: str) -> npt.NDArray[Any]:
        """Return what pads a rank without any rows."""
        if split in self.features:
            return np.zeros(self.features[split].shape, np.float32)
        return np.zeros((self.preprocessing.side, self.preprocessing.side, 3), np.uint8)

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {category: label for label, (category, _) in enumerate(self.snapshot.classes)}

    @cached_property
    def _class_rows(self) -> tuple[list[int], list[int]]:
        """Count this rank's training rows of each class, and those to take in a balanced epoch."""
        counts = self.snapshot.class_rows_of_shards(self.world_size)
        return counts[self.rank].tolist(), balanced_quotas(counts)[self.rank].tolist()

    def _balanced(self, rows: Rows, draw: random.Random) -> Rows:
        # Counted here, and not while the first batch is waited for: it takes its time.
        counts, quotas = self._class_rows
        labelled = ((row, self._labels[str(row[2])]) for row in rows)

        def drawn() -> Rows:
            with closing(rows):
                yield from balanced(labelled, counts, quotas, draw)

        return drawn()

    def _rows(self, split: str, seed: int | None) -> Rows:
        expected = self.snapshot.rows_of_shard(split, self.rank, self.world_size)
        what = f"rank {self.rank} of {self.world_size}, split {split!r}"
        return counted(self._petastorm_rows(split, seed), expected, what)

    def _petastorm_rows(self, split: str, seed: int | None) -> Rows:
        shard_count = self.snapshot.shard_count(split, self.world_size)
        if self.rank >= shard_count:
            return
        try:
            with self._open(split, seed, shard_count) as reader:
                for group in reader:
                    columns = (getattr(group, name) for name in self._columns(split))
                    yield from zip(*columns, strict=True)
        except (OSError, pa.ArrowException) as error:
            raise TrainingDataError(
                f"Reading version {self.snapshot.version} of {self.snapshot.table_uri} failed "
                f"({type(error).__name__}: {error}). A file was removed, by VACUUM perhaps, or "
                "damaged: train on the newest version, or run build-training-set again."
            ) from error

    def _columns(self, split: str) -> tuple[str, str, str]:
        """Name the columns that make a ``StoredRow``."""
        content = "image_id" if split in self.features else "content"
        return "image_id", content, "category_id"

    def _open(self, split: str, seed: int | None, shard_count: int) -> Any:
        return make_batch_reader(
            list(self.snapshot.splits[split].urls),
            schema_fields=sorted(set(self._columns(split))),
            # Its process pool waits for ever for a killed worker.
            reader_pool_type="thread",
            # More than one deliver in the order they finish: not for what must repeat.
            workers_count=1 if seed is None else self.settings.reader_threads,
            results_queue_size=2,
            num_epochs=1,
            shuffle_row_groups=seed is not None,
            seed=seed,
            cur_shard=self.rank,
            shard_count=shard_count,
        )


def preprocessing_for(settings: TrainSettings) -> Preprocessing:
    """Choose the preprocessing: that of the bundle gone on with, or the architecture's."""
    return starting_preprocessing(settings.architecture, settings.weights, settings.image_side)


def epoch_seed(seed: int, epoch: int) -> int:
    """Derive a seed in [1, 2**32) from two numbers; Petastorm takes 0 for 'no seed'."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]) or 1


def counted(rows: Rows, expected: int, what: str) -> Rows:
    """Pass rows on and compare their number with the snapshot's at the end.

    Raises:
        ReconciliationError: When the numbers differ.
    """
    read = 0
    with closing(rows):
        for row in rows:
            read += 1
            yield row
    if read != expected:
        raise ReconciliationError(
            f"Petastorm read {read} rows where the snapshot has {expected} ({what}). Nothing is "
            "published. Run again; if it happens again, report it with the table's version."
        )


def present(batches: Generator[Batch | None, None, None], alive: Callable[[], None]) -> Batches:
    """Pass on the batches that are there; call ``alive`` for those that are not, too."""
    with closing(batches):
        for batch in batches:
            alive()
            if batch is not None:
                yield batch


def noted(rows: Rows, image_ids: list[str]) -> Rows:
    """Pass rows on and note their ids."""
    with closing(rows):
        for row in rows:
            image_ids.append(str(row[0]))
            yield row


def shuffled(rows: Rows, size: int, draw: random.Random) -> Rows:
    """Draw rows at random from a buffer of ``size`` rows that is kept full."""
    held: list[StoredRow] = []
    with closing(rows):
        for row in rows:
            if len(held) < size:
                held.append(row)
                continue
            place = draw.randrange(size)
            yield held[place]
            held[place] = row
    draw.shuffle(held)
    yield from held


def decoded(
    rows: Rows,
    decode: Callable[[Any], npt.NDArray[Any]],
    labels: Mapping[str, int],
    threads: int,
) -> Examples:
    """Decode rows in threads, in order, at most four per thread ahead.

    Raises:
        TrainingDataError: For a row whose content is no image, with its ``image_id``.
    """

    def example(row: StoredRow) -> Example:
        image_id, content, category_id = row
        try:
            return decode(content), labels[str(category_id)]
        except ImageDecodeError as error:
            raise TrainingDataError(
                f"Image {str(image_id)!r} of the training table cannot be decoded ({error}). "
                "Ingest its source again, then run build-training-set."
            ) from error

    waiting: deque[Future[Example]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool, closing(rows):
        for row in rows:
            waiting.append(pool.submit(example, row))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def full_batches(
    examples: Examples, steps: int, batch_size: int, blank: npt.NDArray[Any]
) -> Batches:
    """Yield exactly ``steps`` batches of ``batch_size`` rows, padded with rows of weight 0.

    The padding repeats images just seen, so that it does not move a batch norm's statistics.

    Args:
        examples: Images, or features, with their labels.
        steps: Batches to yield, the same on all ranks: a rank with fewer makes the others wait.
        batch_size: Rows of each batch.
        blank: What pads a rank without any rows.
    """
    filler: Sequence[Example] = [(blank, 0)]
    with closing(examples):
        for _ in range(steps):
            taken = list(islice(examples, batch_size))
            filler = taken or filler
            yield _padded(taken, filler, batch_size)
        if next(examples, None) is not None:
            raise CatalogBatchError(f"Rows are left after {steps} batches of {batch_size}.")


def _padded(taken: Sequence[Example], filler: Sequence[Example], batch_size: int) -> Batch:
    missing = batch_size - len(taken)
    rows = [*taken, *(filler[index % len(filler)] for index in range(missing))]
    weights = np.zeros(batch_size, np.float32)
    weights[: len(taken)] = 1
    return Batch(
        images=torch.from_numpy(np.stack([image for image, _ in rows])),
        labels=torch.tensor([label for _, label in rows], dtype=torch.int64),
        weights=torch.from_numpy(weights),
    )

"""Batches of one rank's share of a snapshot: what is read, in which order, and for which steps."""

import random
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from catalog_batch.config import TrainSettings
from catalog_batch.errors import ReconciliationError, TrainingDataError
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.starting import starting_preprocessing
from catalog_batch.train.decoding import Batches, Decoder, Rows, StoredRow
from catalog_batch.train.features import FeatureFile
from catalog_batch.train.loop import Batch
from catalog_batch.train.prefetch import prefetched
from catalog_batch.train.row_groups import ShardRowGroups
from catalog_batch.train.sampling import balanced, balanced_quotas
from catalog_batch.train.snapshot import Snapshot

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShardReader:
    """One rank's share of a snapshot, as batches of a fixed number and size on every rank."""

    snapshot: Snapshot
    preprocessing: Preprocessing
    settings: TrainSettings
    rank: int = 0
    world_size: int = 1

    scoring_preprocessing: Preprocessing | None = None
    """Of rows that are not for training; None when they are prepared as those are."""

    features: Mapping[str, FeatureFile] = field(default_factory=dict)
    """By split: of what has them, batches hold features instead of pictures, in the same order."""

    pin_memory: bool = False
    """Whether batches lie in page-locked memory, which a GPU reads while Python goes on. Not run
    here: the test of it needs a GPU."""

    alive: Callable[[], None] = field(default=lambda: None, compare=False)
    """Called for each batch, also for those that are only read."""

    def training(self, epoch: int, first: int = 0) -> Batches:
        """Yield the shuffled training batches of an epoch; the order depends on seed and epoch.

        From batch ``first`` on: those before it are read and not decoded.

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
        if image_ids is None:
            return self._batches(split, self._rows(split, seed=None))
        rows = self._rows(split, seed=None, with_ids=True)
        return self._batches(split, noted(rows, image_ids))

    def first_images(self, split: str, count: int) -> Image:
        """Decode the first images of this rank's share of a split: uint8 [N, H, W, 3]."""
        decoder = self._decoder(split)
        with closing(self._rows(split, seed=None)) as rows:
            return np.stack([decoder.decode(row) for row in islice(rows, count)])

    @property
    def for_scoring(self) -> "ShardReader":
        """The reader that prepares the pictures of all splits as scoring does."""
        return replace(self, preprocessing=self.scoring_preprocessing or self.preprocessing)

    def preprocessing_of(self, split: str) -> Preprocessing:
        """Return how the pictures of a split are prepared."""
        return self.preprocessing if split == "train" else self.for_scoring.preprocessing

    def _batches(self, split: str, rows: Rows, first: int = 0) -> Batches:
        size = self.settings.batch_size
        steps = self.snapshot.steps(split, self.world_size, size)
        own = -(-self.snapshot.rows_of_shard(split, self.rank, self.world_size) // size)
        # This rank's last two batches of real rows are always decoded: padding repeats them.
        skipped = min(first, max(own - 2, 0))

        def batches() -> Generator[Batch | None, None, None]:
            # Telling of each keeps the reader from being taken for a stalled one.
            with closing(rows):
                for _ in range(skipped):
                    deque(islice(rows, size), maxlen=0)
                    yield None
                rest = self._decoder(split).batches(rows, steps - skipped, size)
                with closing(rest):
                    for number, batch in enumerate(rest, skipped):
                        yield self._pinned(batch) if number >= first else None

        ahead = prefetched(batches(), self.settings.stall_seconds, f"the {split} split")
        return present(ahead, self.alive)

    def _pinned(self, batch: Batch) -> Batch:
        # Called in the thread that reads ahead: locking pages takes its time.
        return Batch(*(tensor.pin_memory() for tensor in batch)) if self.pin_memory else batch

    def _decoder(self, split: str) -> Decoder:
        threads = self.settings.decode_threads
        known = self.features.get(split)
        if known is not None:
            return Decoder(known, self._labels, known.shape, torch.float32, threads, str)
        steps = self.preprocessing_of(split)
        shape = (steps.side, steps.side, 3)
        name = partial(self._image_id_of, split)
        return Decoder(steps.decode, self._labels, shape, torch.uint8, threads, name)

    def _image_id_of(self, split: str, content: bytes) -> str:
        """Look for a content in the files: ids are read where they are asked for, or for errors."""
        for path in self.snapshot.splits[split].paths:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(group, columns=["image_id", "content"])
                    place = pc.index(rows["content"], content).as_py()
                    if place >= 0:
                        return str(rows["image_id"][place])
        return "unknown"

    def _listed(self, split: str, columns: tuple[str, ...]) -> ShardRowGroups:
        """List a split's row groups once, and not once an epoch."""
        if (split, columns) not in self._lists:
            self._lists[split, columns] = ShardRowGroups(
                self.snapshot.splits[split].urls,
                columns,
                self.rank,
                self.snapshot.shard_count(split, self.world_size),
                self.settings.reader_threads,
            )
        return self._lists[split, columns]

    @cached_property
    def _lists(self) -> dict[tuple[str, tuple[str, ...]], ShardRowGroups]:
        return {}

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
        labelled = ((row, self._labels[row[2]]) for row in rows)

        def drawn() -> Rows:
            with closing(rows):
                yield from balanced(labelled, counts, quotas, draw)

        return drawn()

    def _rows(self, split: str, seed: int | None, with_ids: bool = False) -> Rows:
        expected = self.snapshot.rows_of_shard(split, self.rank, self.world_size)
        what = f"rank {self.rank} of {self.world_size}, split {split!r}"
        return counted(self._petastorm_rows(split, seed, with_ids), expected, what)

    def _petastorm_rows(self, split: str, seed: int | None, with_ids: bool) -> Rows:
        if self.rank >= self.snapshot.shard_count(split, self.world_size):
            return
        # A column more takes one percent of the time of reading and decoding.
        columns = ["image_id" if split in self.features else "content", "category_id"]
        try:
            listed = self._listed(split, (*columns, *(["image_id"] if with_ids else [])))
            with closing(listed.read(seed)) as groups:
                for group in groups:
                    # By way of NumPy, which takes a third of the time of to_pylist().
                    contents, categories = (group[name].to_numpy().tolist() for name in columns)
                    ids = group["image_id"].to_numpy().tolist() if with_ids else [None] * len(group)
                    yield from zip(ids, contents, categories, strict=True)
        except (OSError, pa.ArrowException) as error:
            raise TrainingDataError(
                f"Reading version {self.snapshot.version} of {self.snapshot.table_uri} failed "
                f"({type(error).__name__}: {error}). A file was removed, by VACUUM perhaps, or "
                "damaged: train on the newest version, or run build-training-set again."
            ) from error


def preprocessing_for(settings: TrainSettings) -> Preprocessing:
    """Choose how training prepares pictures: as for the bundle gone on with, or as usual."""
    return starting_preprocessing(settings.architecture, settings.weights, settings.image_side)


def scoring_preprocessing_for(settings: TrainSettings) -> Preprocessing:
    """Choose how they are prepared ever after: as usual for ``test_image_side``, if it is set."""
    side = settings.test_image_side or settings.image_side
    return starting_preprocessing(settings.architecture, settings.weights, side)


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

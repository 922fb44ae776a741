"""Stored rows as batches of one size, decoded in threads."""

from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from catalog_batch.errors import CatalogBatchError, TrainingDataError
from catalog_batch.modeling.preprocessing import ImageDecodeError
from catalog_batch.train.loop import Batch

StoredRow = tuple[str | None, Any, str]
"""(image_id or None, content, category_id); the content is bytes, or the id where features are
known."""

Rows = Generator[StoredRow, None, None]
"""Rows whose source ends its threads when it is closed."""

Batches = Generator[Batch, None, None]

_Seen = tuple[Tensor, Tensor]
"""Images and labels of rows that are no padding."""

ROWS_PER_TASK = 32
"""Most rows that a thread decodes at a time: handing over single ones costs a tenth of it."""

TASKS_AHEAD = 2
"""Such tasks that wait for each thread, so that none is idle while the next rows are read."""


@dataclass(frozen=True)
class Decoder:
    """Decodes rows in threads, in order, a few batches ahead."""

    decode_content: Callable[[Any], npt.NDArray[Any]]
    labels: Mapping[str, int]
    """Of each category's id."""

    shape: tuple[int, ...]
    """Of what ``decode_content`` returns."""

    dtype: torch.dtype
    threads: int

    image_id_of: Callable[[Any], str]
    """Finds the id that belongs to a content, of rows that came without it."""

    def decode(self, row: StoredRow) -> npt.NDArray[Any]:
        """Decode the content of a row.

        Raises:
            TrainingDataError: When it is no image, with the row's ``image_id``.
        """
        image_id, content, _ = row
        try:
            return self.decode_content(content)
        except ImageDecodeError as error:
            known = self.image_id_of(content) if image_id is None else image_id
            raise TrainingDataError(
                f"Image {known!r} of the training table cannot be decoded ({error}). "
                "Ingest its source again, then run build-training-set."
            ) from error

    def batches(self, rows: Rows, steps: int, size: int) -> Batches:
        """Yield exactly ``steps`` batches of ``size`` rows, padded with rows of weight 0.

        The padding repeats the images seen last, of the batch before too: a batch norm, which looks
        at padding as well, finds as many images as in other batches, and not copies of a few.

        Args:
            rows: What to decode; closed at the end.
            steps: Batches, the same on all ranks: a rank with fewer makes the others wait.
            size: Rows of each batch.

        Raises:
            TrainingDataError: For a row whose content is no image, with its ``image_id``.
            CatalogBatchError: When rows are left after the last batch.
        """
        ahead = -(-TASKS_AHEAD * self.threads * ROWS_PER_TASK // size)
        waiting: deque[_Decoding] = deque()
        # What pads a rank without any rows.
        blank = (torch.zeros((1, *self.shape), dtype=self.dtype), torch.zeros(1, dtype=torch.int64))
        last: _Seen | None = None
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool, closing(rows):
            for step in range(steps + ahead):
                if step < steps:
                    waiting.append(self._begin(pool, list(islice(rows, size)), size))
                if step >= ahead:
                    decoding = waiting.popleft()
                    last = decoding.with_those_before(last)
                    yield decoding.padded(*(last or blank))
            if next(rows, None) is not None:
                raise CatalogBatchError(f"Rows are left after {steps} batches of {size}.")

    def _begin(self, pool: ThreadPoolExecutor, rows: list[StoredRow], size: int) -> "_Decoding":
        images = torch.empty((size, *self.shape), dtype=self.dtype)
        labels = torch.empty(size, dtype=torch.int64)
        labels[: len(rows)] = torch.tensor([self.labels[category] for _, _, category in rows])
        pixels = images.numpy()

        def decode_from(first: int) -> None:
            for place, row in enumerate(rows[first : first + ROWS_PER_TASK], first):
                pixels[place] = self.decode(row)

        tasks = [pool.submit(decode_from, first) for first in range(0, len(rows), ROWS_PER_TASK)]
        return _Decoding(images, labels, len(rows), tasks)


@dataclass(frozen=True)
class _Decoding:
    """A batch whose first ``rows`` rows are being filled."""

    images: Tensor
    labels: Tensor
    rows: int
    tasks: list[Future[None]]

    def with_those_before(self, before: _Seen | None) -> _Seen | None:
        """Wait until all is decoded; return as many rows as fit: its own, then those before."""
        for task in self.tasks:
            task.result()
        if not self.rows:
            return before
        own = self.images[: self.rows], self.labels[: self.rows]
        if before is None or self.rows == len(self.labels):
            return own
        size = len(self.labels)
        return torch.cat((own[0], before[0]))[:size], torch.cat((own[1], before[1]))[:size]

    def padded(self, images: Tensor, labels: Tensor) -> Batch:
        """Return the batch; rows that it lacks repeat these, of which the first are its own."""
        size = len(self.labels)
        repeated = torch.arange(self.rows, size) % len(labels)
        self.images[self.rows :] = images[repeated]
        self.labels[self.rows :] = labels[repeated]
        weights = torch.zeros(size)
        weights[: self.rows] = 1
        return Batch(self.images, self.labels, weights)

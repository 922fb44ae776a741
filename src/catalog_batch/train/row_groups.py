"""Row groups of Parquet files, dealt to ranks and shuffled by Petastorm (imported here alone).

Petastorm gets a list of files, never a folder: a Delta folder holds files that are not part of the
table, and opening a folder unpickles a ``_common_metadata`` that anyone may have put there.
"""

import warnings
from collections.abc import Generator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from petastorm.arrow_reader_worker import ArrowReaderWorker, ArrowReaderWorkerResultsQueueReader
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.reader import Reader
from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.thread_pool import ThreadPool

# Petastorm lists files through pyarrow's legacy dataset: hundreds of lines per epoch say only that.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")

RESULTS_AHEAD = 2
"""Row groups that are read and wait."""


class _Tables(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
    """Hands tables over as they were read: Petastorm's own makes arrays of fixed-width text."""

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _RowGroupWorker(ArrowReaderWorker):  # type: ignore[misc]
    """Reads row groups of files whose footers it has parsed once.

    Petastorm's own parses a footer twice for each row group. A footer tells of all row groups of
    its file, so that takes longer than the reading where there are thousands.
    """

    def __init__(self, worker_id: int, publish_func: Any, args: Any) -> None:
        super().__init__(worker_id, publish_func, args)
        self._footers: dict[str, pq.FileMetaData] = {}
        self._columns = list(self._schema.fields)

    @staticmethod
    def new_results_queue_reader() -> _Tables:
        return _Tables()

    def process(
        self, piece_index: int, worker_predicate: Any, shuffle_row_drop_partition: Any
    ) -> None:
        piece = self._split_pieces[piece_index]
        with self._filesystem.open(piece.path) as source:
            file = pq.ParquetFile(source, metadata=self._footers.get(piece.path))
            self._footers[piece.path] = file.metadata
            group = file.read_row_group(piece.row_group, self._columns, use_threads=False)
        self.publish_func(group)


def read_row_groups(
    urls: Sequence[str],
    columns: Sequence[str],
    rank: int,
    shard_count: int,
    seed: int | None,
    threads: int,
) -> Generator[pa.Table, None, None]:
    """Yield every row group of one shard once, as a table.

    Args:
        urls: The files.
        columns: Those to read.
        rank: The shard, below ``shard_count``; row groups are dealt to shards in turn.
        shard_count: Shards, of which each has a row group at least.
        seed: Of the order, which is that of the files without one.
        threads: That read; more than one deliver in the order they finish.

    Raises:
        OSError, pyarrow.ArrowException: For a file that is gone or damaged.
    """
    filesystem, paths = get_filesystem_and_path_or_paths(list(urls))
    reader = Reader(
        filesystem,
        paths,
        schema_fields=sorted(set(columns)),
        worker_class=_RowGroupWorker,
        # Its process pool waits for ever for a killed worker.
        reader_pool=ThreadPool(threads, RESULTS_AHEAD),
        shuffle_row_groups=seed is not None,
        seed=seed,
        num_epochs=1,
        cur_shard=rank,
        shard_count=shard_count,
        is_batched_reader=True,
    )
    with reader:
        yield from reader

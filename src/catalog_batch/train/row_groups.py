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
from petastorm.workers_pool.thread_pool import ThreadPool, WorkerTerminationRequested

# Petastorm lists files through pyarrow's legacy dataset: hundreds of lines per epoch say only that.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")

RESULTS_AHEAD = 2
"""Row groups that are read and wait."""

OPEN_FILES = 64
"""Files that a reader's threads keep open together: a table of a million rows has 20."""


class _Tables(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
    """Hands tables over as they were read: Petastorm's own makes arrays of fixed-width text."""

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _OpenFiles:
    """Parquet files of one thread: the last few that were read stay open, each is parsed once."""

    def __init__(self, filesystem: Any, most: int) -> None:
        self._filesystem = filesystem
        self._most = most
        self._files: dict[str, pq.ParquetFile] = {}
        self._footers: dict[str, pq.FileMetaData] = {}

    def __getitem__(self, path: str) -> pq.ParquetFile:
        file = self._files.pop(path, None) or self._opened(path)
        self._files[path] = file
        if len(self._files) > self._most:
            self._close(next(iter(self._files)))
        return file

    def close(self) -> None:
        for path in list(self._files):
            self._close(path)

    def _opened(self, path: str) -> pq.ParquetFile:
        file = pq.ParquetFile(self._filesystem.open(path), metadata=self._footers.get(path))
        self._footers[path] = file.metadata
        return file

    def _close(self, path: str) -> None:
        self._files.pop(path).close(force=True)


class _RowGroupWorker(ArrowReaderWorker):  # type: ignore[misc]
    """Reads row groups of files that it keeps open.

    Petastorm's own parses a footer twice for each row group. A footer tells of all row groups of
    its file, so that takes longer than the reading where there are thousands; and to open a file
    whose footer is known takes as long as to read a small row group.
    """

    opened: list[_OpenFiles]
    """Of all threads of a reader, which has a class of its own: Petastorm ends threads untold."""

    most_open: int
    """Files that each thread keeps open."""

    def __init__(self, worker_id: int, publish_func: Any, args: Any) -> None:
        super().__init__(worker_id, publish_func, args)
        self._files = _OpenFiles(self._filesystem, self.most_open)
        self.opened.append(self._files)
        self._columns = list(self._schema.fields)

    @staticmethod
    def new_results_queue_reader() -> _Tables:
        return _Tables()

    def process(
        self, piece_index: int, worker_predicate: Any, shuffle_row_drop_partition: Any
    ) -> None:
        try:
            self.publish_func(self._group(self._split_pieces[piece_index]))
        except WorkerTerminationRequested:
            raise
        except Exception as error:
            # Raised, it would wait for room among the results, where nobody makes any once
            # another thread's error was taken.
            self.publish_func(error)

    def _group(self, piece: Any) -> pa.Table:
        file = self._files[piece.path]
        return file.read_row_group(piece.row_group, self._columns, use_threads=False)


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
    opened: list[_OpenFiles] = []
    of_reader = {"opened": opened, "most_open": max(1, OPEN_FILES // threads)}
    worker = type("_RowGroupWorker", (_RowGroupWorker,), of_reader)
    reader = Reader(
        filesystem,
        paths,
        schema_fields=sorted(set(columns)),
        worker_class=worker,
        # Its process pool waits for ever for a killed worker.
        reader_pool=ThreadPool(threads, RESULTS_AHEAD),
        shuffle_row_groups=seed is not None,
        seed=seed,
        num_epochs=1,
        cur_shard=rank,
        shard_count=shard_count,
        is_batched_reader=True,
    )
    try:
        with reader:
            yield from reader
    finally:
        # Its threads are over by then.
        for files in opened:
            files.close()

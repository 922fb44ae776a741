"""Row groups of Parquet files, dealt to ranks and shuffled by Petastorm (imported here alone).

Petastorm gets a list of files, never a folder: a Delta folder holds files that are not part of the
table, and opening a folder unpickles a ``_common_metadata`` that anyone may have put there.
"""

import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from threading import local
from time import sleep
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from petastorm.arrow_reader_worker import ArrowReaderWorker, ArrowReaderWorkerResultsQueueReader
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.reader import Reader
from petastorm.workers_pool import EmptyResultError

# Petastorm lists files through pyarrow's legacy dataset: hundreds of lines per epoch say only that.
warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")

GROUPS_AHEAD = 2
"""Row groups that threads read before they are asked for, beside the one each is at."""

OPEN_FILES = 64
"""Files that a reader's threads keep open together: a table of a million rows has 20."""


PIECES = 4
"""Place of the listed row groups in what a reader gives to those that read."""


class _Tables(ArrowReaderWorkerResultsQueueReader):  # type: ignore[misc]
    """Hands tables over as they were read: Petastorm's own makes arrays of fixed-width text."""

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class _OpenFiles:
    """Parquet files of one thread: the last few that were read stay open, each is parsed once."""

    def __init__(
        self, open_file: Callable[[str], Any], most: int, footers: dict[str, pq.FileMetaData]
    ) -> None:
        self._open_file = open_file
        self._most = most
        self._files: dict[str, pq.ParquetFile] = {}
        self._footers = footers

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
        file = pq.ParquetFile(self._open_file(path), metadata=self._footers.get(path))
        self._footers[path] = file.metadata
        return file

    def _close(self, path: str) -> None:
        self._files.pop(path).close(force=True)


class _RowGroupWorker(ArrowReaderWorker):  # type: ignore[misc]
    """Reads row groups of files that it keeps open, in one thread.

    Petastorm's own parses a footer twice for each row group. A footer tells of all row groups of
    its file, so that takes longer than the reading where there are thousands; and to open a file
    whose footer is known takes as long as to read a small row group.
    """

    def __init__(self, worker_id: int, args: Any, files: _OpenFiles) -> None:
        super().__init__(worker_id, None, args)
        self.files = files
        self._columns = list(self._schema.fields)

    @staticmethod
    def new_results_queue_reader() -> _Tables:
        return _Tables()

    def read(self, piece_index: int) -> pa.Table:
        piece = self._split_pieces[piece_index]
        file = self.files[piece.path]
        return file.read_row_group(piece.row_group, self._columns, use_threads=False)


class _InOrder:
    """What reads for a reader, in order: the thread that asks, or several that are ahead of it.

    Petastorm's own threads ask their queues every millisecond whether there is work, or room for a
    result, and take the interpreter's lock from those that decode for it; are given three row
    groups in ten milliseconds at most; and deliver in the order they finish.
    """

    # Petastorm hands out so many row groups at once, and two more: here they are mere numbers.
    workers_count = 2**62

    def __init__(
        self, threads: int, open_file: Callable[[str], Any], footers: dict[str, pq.FileMetaData]
    ) -> None:
        self._open_file = open_file
        self._footers = footers
        self._threads = ThreadPoolExecutor(threads, "row-groups") if threads > 1 else None
        self._most_ahead = threads + GROUPS_AHEAD
        self._most_open = max(1, OPEN_FILES // threads)
        self._pieces = deque[int]()
        self._reading = deque[Future[pa.Table]]()
        self._workers = list[_RowGroupWorker]()
        self._own = local()

    def start(self, worker_class: type[_RowGroupWorker], args: Any, ventilator: Any) -> None:
        self._worker_class, self._args, self._ventilator = worker_class, args, ventilator
        ventilator.start()

    def ventilate(self, piece_index: int, **_: Any) -> None:
        self._pieces.append(piece_index)

    def get_results(self) -> pa.Table:
        while True:
            # Asked first: the last piece may come in between.
            is_complete = self._ventilator.completed()
            if self._threads is None and self._pieces:
                return self._read(self._pieces.popleft())
            while self._threads and self._pieces and len(self._reading) < self._most_ahead:
                self._reading.append(self._threads.submit(self._read, self._pieces.popleft()))
            if self._reading:
                return self._reading.popleft().result()
            if is_complete:
                raise EmptyResultError
            sleep(0.001)  # It has only just begun.

    def stop(self) -> None:
        self._ventilator.stop()

    def join(self) -> None:
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.files.close()

    def _read(self, piece_index: int) -> pa.Table:
        if not hasattr(self._own, "worker"):
            files = _OpenFiles(self._open_file, self._most_open, self._footers)
            self._own.worker = self._worker_class(len(self._workers), self._args, files)
            self._workers.append(self._own.worker)
        return self._own.worker.read(piece_index)


class _Listing:
    """Takes what a reader has listed, and reads nothing."""

    workers_count = 1

    def start(self, worker_class: type[_RowGroupWorker], args: Any, ventilator: Any) -> None:
        self.args = args

    def ventilate(self, piece_index: int, **_: Any) -> None:
        raise AssertionError("a reader that only lists was asked for rows")


class ShardRowGroups:
    """The row groups of one shard of some files: listed once, and read in any order, many times.

    A reader of Petastorm's parses the footers of all files twice before its first row, in one
    thread, and is good for one seed: an epoch would begin with a wait that grows with the table.
    """

    def __init__(
        self, urls: Sequence[str], columns: Sequence[str], rank: int, shard_count: int, threads: int
    ) -> None:
        """List the row groups.

        Args:
            urls: The files, which stay as they are.
            columns: Those to read.
            rank: The shard, below ``shard_count``; row groups are dealt to shards in turn.
            shard_count: Shards, of which each has a row group at least.
            threads: That read ahead; with one the thread that asks reads. The order is the same.

        Raises:
            OSError, pyarrow.ArrowException: For a file that is gone or damaged.
        """
        filesystem, paths = get_filesystem_and_path_or_paths(list(urls))
        # On a local disk Petastorm's opens a file of Python's, which holds up other threads to
        # read.
        is_local = all(url.startswith("file:") for url in urls)
        self._open_file = pa.OSFile if is_local else filesystem.open
        self._shard = (rank, shard_count)
        self._threads = threads
        self._footers: dict[str, pq.FileMetaData] = {}
        listing = _Listing()
        self._reader = Reader(
            filesystem,
            paths,
            schema_fields=sorted(set(columns)),
            worker_class=_RowGroupWorker,
            reader_pool=listing,
            num_epochs=1,
            cur_shard=rank,
            shard_count=shard_count,
            is_batched_reader=True,
        )
        self._args = listing.args

    def read(self, seed: int | None) -> Generator[pa.Table, None, None]:
        """Yield every row group once, as a table.

        Args:
            seed: Of the order, which is that of the files without one.

        Raises:
            OSError, pyarrow.ArrowException: For a file that is gone or damaged.
        """
        pool = _InOrder(self._threads, self._open_file, self._footers)
        # What Petastorm's constructor does once it has listed: its version is pinned.
        reader = copy(self._reader)
        reader._workers_pool = pool
        pieces = self._args[PIECES]
        chosen, _ = reader._filter_row_groups(
            reader.dataset, pieces, None, None, *self._shard, seed
        )
        reader.ventilator = reader._create_ventilator(
            chosen, seed is not None, 1, 1, None, pool.workers_count, seed
        )
        pool.start(_RowGroupWorker, self._args, reader.ventilator)
        with reader:
            yield from reader

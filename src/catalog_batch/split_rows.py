"""A split of one version of ``training_examples``, a few rows at a time and without a JVM."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from catalog_batch.errors import MissingTableError, TrainingDataError
from catalog_batch.locations import plain_path

TABLE = "training_examples"
COLUMNS = ["image_id", "content", "category_id"]
IDENTITY = ["image_id", "group_id"]
IDENTITIES_AT_A_TIME = 65_536
_ADVICE = (
    "Train again on the newest version and go on with that model. (The verb promote takes "
    "--force, which compares nothing.)"
)


@dataclass(frozen=True)
class RowBatch:
    """Some rows; the lists are of one length."""

    image_ids: list[str]
    contents: list[bytes]
    category_ids: list[str]


@dataclass(frozen=True)
class SplitRows:
    """The files of a split, which exist."""

    version: int
    split: str
    files: tuple[Path, ...]
    """Sorted. They hold what the table does: training refuses a version where that is not so."""

    rows: int

    def batches(self, size: int) -> Iterator[RowBatch]:
        """Yield all rows, in batches of at most ``size``; always in the same order.

        Raises:
            TrainingDataError: When a file vanished meanwhile, or is damaged.
        """
        for batch in self._read(COLUMNS, size):
            yield _as_batch(batch)

    def at(self, places: Sequence[int]) -> Iterator[RowBatch]:
        """Yield the rows at some places of the order of ``batches``.

        No others are read but those of their row groups.

        Args:
            places: Ascending.

        Raises:
            TrainingDataError: When a file vanished meanwhile, or is damaged.
        """
        wanted, end = deque(places), 0
        for path in self.files:
            if not wanted:
                return
            with self._opened(path) as file:
                for group in range(file.num_row_groups):
                    begin, end = end, end + file.metadata.row_group(group).num_rows
                    here = []
                    while wanted and wanted[0] < end:
                        here.append(wanted.popleft() - begin)
                    if here:
                        yield _as_batch(file.read_row_group(group, COLUMNS).take(here))

    def count_seen(self, trained: "SplitRows") -> int:
        """Count the rows whose image, or another one of its product, a model was trained on.

        Args:
            trained: That model's training rows.

        Raises:
            TrainingDataError: When a file vanished meanwhile, or is damaged.
        """
        images, products = set[str](), set[str]()
        for image, product in trained._identities():
            images.add(image)
            products.add(product)
        return sum(image in images or product in products for image, product in self._identities())

    def _identities(self) -> Iterator[tuple[str, str]]:
        for batch in self._read(IDENTITY, IDENTITIES_AT_A_TIME):
            yield from zip(*(batch[name].to_pylist() for name in IDENTITY), strict=True)

    def _read(self, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        for path in self.files:
            with self._opened(path) as file:
                yield from file.iter_batches(size, columns=columns)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[pq.ParquetFile]:
        try:
            # Not a data set: below split=test/ it would take the folder for a column.
            with pq.ParquetFile(path) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.version, self.split, path, error) from error


def _as_batch(rows: pa.RecordBatch | pa.Table) -> RowBatch:
    return RowBatch(*(rows[name].to_pylist() for name in COLUMNS))


def find_split_rows(root: str, version: int, split: str, table_id: str = "") -> SplitRows:
    """Find the files of a split of a version; hold a lease on the table meanwhile and after.

    Args:
        root: Folder or ``file:`` URL of the warehouse.
        version: Of ``training_examples``.
        split: ``train``, ``validation`` or ``test``.
        table_id: Delta's own, of the table that the rows are wanted of; empty for any.

    Raises:
        MissingTableError: When there is no such table or version, or it was built anew since.
        TrainingDataError: When a file is gone or damaged, as after a VACUUM.
    """
    folder = Path(plain_path(root)) / TABLE
    try:
        table = DeltaTable(str(folder), version=version)
    except (TableNotFoundError, DeltaError, OSError, ValueError) as error:
        raise MissingTableError(
            f"There is no version {version} of {str(folder)!r} ({str(error).splitlines()[0]}), "
            f"whose {split} rows are needed. Check --warehouse, or train again on the newest "
            "version."
        ) from error
    if table_id and str(table.metadata().id) != table_id:
        raise MissingTableError(
            f"{str(folder)!r} was dropped and built again since: its version {version} has other "
            f"{split} rows than the ones needed. {_ADVICE}"
        )
    actions: Any = pa.table(table.get_add_actions(flatten=True))
    files = tuple(
        sorted(
            folder / path
            for path, part in zip(
                actions["path"].to_pylist(), actions["partition.split"].to_pylist(), strict=True
            )
            if part == split
        )
    )
    return SplitRows(version, split, files, sum(_rows_of(path, version, split) for path in files))


def _rows_of(path: Path, version: int, split: str) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(version, split, path, error) from error


def _unreadable(version: int, split: str, path: Path, error: Exception) -> TrainingDataError:
    return TrainingDataError(
        f"File {path.name!r} of version {version} of {TABLE}, whose {split} rows are needed, is "
        f"missing or damaged ({type(error).__name__}). Clean-up deletes the files of versions that "
        f"builds have replaced. {_ADVICE}"
    )

"""One version of the training table, as the exact files, rows and classes a run trains on.

A Delta folder also holds files that are no longer, or never were, part of the table, so nothing
downstream lists the folder: Ray workers get this snapshot and open its files only.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from catalog_batch.errors import MissingTableError, TrainingDataError
from catalog_batch.locations import plain_path
from catalog_batch.moves import read_moves

SPLITS = ("train", "validation", "test")
CLASS_COLUMNS = ["category_id", "category_path", "taxonomy_version"]
UNSAFE_IN_URL = "#?;%"


@dataclass(frozen=True)
class SplitFiles:
    """The live files of one split, in the order Petastorm enumerates their row groups."""

    urls: tuple[str, ...]
    """``file://`` URLs, sorted."""

    row_groups: tuple[int, ...]
    """Rows of each row group, file after file."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Name the files as the file system does."""
        return tuple(Path(url.removeprefix("file://")) for url in self.urls)

    @property
    def rows(self) -> int:
        """Count the rows of the split."""
        return sum(self.row_groups)


@dataclass(frozen=True)
class Snapshot:
    """What a training run reads: small enough to hand to every worker."""

    table_uri: str
    version: int
    splits: Mapping[str, SplitFiles]
    classes: tuple[tuple[str, str], ...]
    """(category_id, category_path), ordered by path; the position is the label."""

    taxonomy_version: int

    class_rows: tuple[int, ...] = ()
    """Training rows of each class, in the order of ``classes``."""

    table_id: str = ""
    """Delta's own: a table that was dropped and built again has another."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """By category id of an earlier tree: the id it has now, of those renamed, moved or merged."""

    def rows(self, split: str) -> int:
        """Count the rows of a split over all ranks."""
        return self.splits[split].rows

    def shard_count(self, split: str, world_size: int) -> int:
        """Count the ranks that have something to read: Petastorm refuses empty shards."""
        return min(world_size, len(self.splits[split].row_groups))

    def rows_of_shard(self, split: str, rank: int, world_size: int) -> int:
        """Count a rank's rows under Petastorm's rule, ``row_group % shard_count == rank``."""
        shards = self.shard_count(split, world_size)
        groups = self.splits[split].row_groups
        return sum(rows for index, rows in enumerate(groups) if index % shards == rank)

    def steps(self, split: str, world_size: int, batch_size: int) -> int:
        """Count the batches every rank must yield so that the one with most rows gets through."""
        ranks = range(world_size)
        return max(-(-self.rows_of_shard(split, rank, world_size) // batch_size) for rank in ranks)

    def class_rows_of_shards(self, world_size: int) -> npt.NDArray[np.int64]:
        """Count the training rows that each rank has of each class: [world_size, classes].

        Reads a column of all files.

        Raises:
            TrainingDataError: When a file was removed or damaged since.
        """
        labels = {category: label for label, (category, _) in enumerate(self.classes)}
        shards = self.shard_count("train", world_size)
        counts = np.zeros((world_size, len(labels)), np.int64)
        for index, categories in enumerate(_categories_of_groups(self.splits["train"].paths)):
            for category, rows in Counter(categories).items():
                counts[index % shards, labels[category]] += rows
        return counts

    def product_ids(self, split: str) -> dict[str, str]:
        """Return the product of each image of a split: it is there under one product alone.

        Raises:
            TrainingDataError: When a file was removed or damaged since.
        """
        found: dict[str, str] = {}
        for path in self.splits[split].paths:
            _footer(path)
            file: Any = pq.ParquetFile(path)
            rows = file.read(columns=["image_id", "product_id"])
            ids = (rows[name].to_pylist() for name in ("image_id", "product_id"))
            found.update(zip(*ids, strict=True))
        return found

    def require_shards(self, world_size: int) -> None:
        """Check that every rank gets training rows.

        Raises:
            TrainingDataError: For fewer row groups than ranks.
        """
        groups = len(self.splits["train"].row_groups)
        if groups < world_size:
            raise TrainingDataError(
                f"{self.table_uri} version {self.version} has {groups} row groups to train on, "
                f"fewer than the {world_size} workers they are dealt to. Lower "
                "training_set.row_group_kib and build the training set again, or lower "
                "train.num_workers."
            )


def resolve_snapshot(table_uri: str, version: int | None = None) -> Snapshot:
    """Resolve a version of the training table to its files, rows and classes, without a JVM.

    Args:
        table_uri: Folder or ``file://`` URL of the Delta table ``training_examples``.
        version: Delta version; the newest when None.

    Raises:
        MissingTableError: When there is no such table, or it lacks the version.
        TrainingDataError: When the table uses a Delta feature that Petastorm would misread, a
            data file is missing or damaged, or the rows cannot be trained on.
    """
    table = _open_table(table_uri, version)
    folder = _local_folder(table_uri)
    _refuse_unreadable_features(table, folder)
    paths = _live_paths(table, folder)
    footers = {path: _footer(path) for split in SPLITS for path in paths[split]}
    splits = {split: _split_files(paths[split], footers) for split in SPLITS}
    _require_rows(splits, folder)
    classes = {split: _classes_in(paths[split]) for split in SPLITS}
    ordered, taxonomy_version = _ordered_classes(classes, folder)
    class_rows = tuple(classes["train"][(*pair, taxonomy_version)] for pair in ordered)
    return Snapshot(
        table_uri=str(folder),
        version=table.version(),
        splits=splits,
        classes=ordered,
        taxonomy_version=taxonomy_version,
        class_rows=class_rows,
        table_id=str(table.metadata().id),
        renamed=read_moves(str(folder.parent)).ids_now,
    )


def _open_table(table_uri: str, version: int | None) -> DeltaTable:
    try:
        newest = DeltaTable(table_uri)
    except (TableNotFoundError, DeltaError, OSError) as error:
        raise MissingTableError(
            f"There is no readable Delta table at {table_uri!r} ({str(error).splitlines()[0]}). "
            "Run build-training-set first."
        ) from error
    if version is None:
        return newest
    try:
        return DeltaTable(table_uri, version=version)
    except (DeltaError, OSError, ValueError) as error:
        raise MissingTableError(
            f"{table_uri!r} has no version {version}: the newest is {newest.version()}. "
            "Name a version that exists, or none for the newest."
        ) from error


def _local_folder(table_uri: str) -> Path:
    folder = Path(plain_path(table_uri)).resolve()
    if urlsplit(table_uri).scheme not in ("", "file") or any(
        mark in str(folder) for mark in UNSAFE_IN_URL
    ):
        raise TrainingDataError(
            f"Cannot train on {table_uri!r}: Petastorm opens files of a mounted folder whose "
            f"path has none of {UNSAFE_IN_URL!r}. Mount the storage, or move the warehouse."
        )
    return folder


def _refuse_unreadable_features(table: DeltaTable, folder: Path) -> None:
    configuration = table.metadata().configuration
    features = table.protocol().reader_features or []
    has_deletion_vectors = "deletionVectors" in features or (
        configuration.get("delta.enableDeletionVectors", "false").lower() == "true"
    )
    is_column_mapped = configuration.get("delta.columnMapping.mode", "none").lower() != "none"
    if has_deletion_vectors or is_column_mapped:
        feature = "deletion vectors" if has_deletion_vectors else "column mapping"
        raise TrainingDataError(
            f"{folder} uses {feature}: its Parquet files no longer say what the table holds, and "
            "training reads files. Drop that table and run build-training-set, which writes it "
            "without."
        )


def _live_paths(table: DeltaTable, folder: Path) -> dict[str, list[Path]]:
    actions: Any = pa.table(table.get_add_actions(flatten=True))
    if "partition.split" not in actions.column_names:
        raise TrainingDataError(
            f"{folder} is not partitioned by 'split' but by {table.metadata().partition_columns}. "
            "Run build-training-set, and train on the table it writes."
        )
    paths: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path, split in zip(
        actions["path"].to_pylist(), actions["partition.split"].to_pylist(), strict=True
    ):
        paths.setdefault(split, []).append(folder / path)
    return {split: sorted(found) for split, found in paths.items()}


def _footer(path: Path) -> Any:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise TrainingDataError(
            f"Data file {path} of the training table is missing or damaged "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Restore it, or run "
            "build-training-set again and train on the new version."
        ) from error


def _split_files(paths: list[Path], footers: Mapping[Path, Any]) -> SplitFiles:
    groups = [
        footers[path].row_group(index).num_rows
        for path in paths
        for index in range(footers[path].num_row_groups)
    ]
    return SplitFiles(tuple(f"file://{path}" for path in paths), tuple(groups))


def _require_rows(splits: Mapping[str, SplitFiles], folder: Path) -> None:
    if splits["train"].rows == 0:
        raise TrainingDataError(
            f"{folder} has no rows in its train split. Label and ingest more products, then run "
            "build-training-set."
        )


def _classes_in(paths: list[Path]) -> Counter[tuple[str, str, int]]:
    """Count the rows of each combination of the class columns."""
    found: Counter[tuple[str, str, int]] = Counter()
    for path in paths:
        # Not pq.read_table: given a path below split=train/ it would take the folder for a column.
        rows: Any = pq.ParquetFile(path).read(columns=CLASS_COLUMNS)
        counted = rows.group_by(CLASS_COLUMNS).aggregate([([], "count_all")])
        keys = zip(*(counted[name].to_pylist() for name in CLASS_COLUMNS), strict=True)
        found.update(dict(zip(keys, counted["count_all"].to_pylist(), strict=True)))
    return found


def _categories_of_groups(paths: Iterable[Path]) -> Iterator[list[str]]:
    """Yield the category ids of each row group, file after file."""
    for path in paths:
        footer = _footer(path)
        file: Any = pq.ParquetFile(path)
        # At once: row groups are small, and on a distant storage each read takes its time.
        categories = file.read(columns=["category_id"])["category_id"].to_pylist()
        start = 0
        for index in range(footer.num_row_groups):
            end = start + footer.row_group(index).num_rows
            yield categories[start:end]
            start = end


def _ordered_classes(
    classes: Mapping[str, Counter[tuple[str, str, int]]], folder: Path
) -> tuple[tuple[tuple[str, str], ...], int]:
    everywhere = {found for split in classes.values() for found in split}
    versions = sorted({taxonomy for _, _, taxonomy in everywhere})
    pairs = {(category, path) for category, path, _ in everywhere}
    trained = {category for category, _, _ in classes["train"]}
    untrained = sorted(path for category, path in pairs if category not in trained)
    paths_per_category = Counter(category for category, _ in pairs)
    twice = sorted(category for category, paths in paths_per_category.items() if paths > 1)
    problem = (
        f"rows of several taxonomy versions {versions}"
        if len(versions) > 1
        else f"categories with more than one path {twice}"
        if twice
        else f"classes without a single training image {untrained}"
        if untrained
        else f"a single class {sorted(trained)}, where a classifier needs two"
        if len(pairs) < 2
        else ""
    )
    if problem:
        raise TrainingDataError(
            f"Cannot train on {folder}: it has {problem}. Correct the labels, then run "
            "build-training-set again."
        )
    return tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0]))), versions[0]

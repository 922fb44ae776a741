"""What order and how often rows of a skewed or sorted table reach a batch."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog_batch.config import TrainSettings
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train.loop import Batch
from catalog_batch.train.readers import ShardReader
from catalog_batch.train.snapshot import resolve_snapshot

Write = Callable[..., Path]
MakeRows = Callable[..., list[Any]]

CATEGORIES = 12


def reader_of(table: Path, rank: int = 0, world_size: int = 1, **settings: Any) -> ShardReader:
    return ShardReader(
        resolve_snapshot(str(table)),
        Preprocessing.for_side(16),
        TrainSettings(**{"batch_size": 8, "shuffle_rows": 48, **settings}),
        rank,
        world_size,
    )


def labels_of(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch.labels[batch.weights > 0].tolist() for batch in batches]


def rows_of_classes(make_rows: MakeRows, rows: list[int]) -> list[Any]:
    """Build rows of as many classes as there are numbers, class after class."""
    [drawn] = make_rows({"train": 1})
    return [
        {
            **drawn,
            "image_id": f"{label:02d}-{index:04d}",
            "category_id": f"c{label:02d}",
            "category_path": f"Things > {label:02d}",
        }
        for label, count in enumerate(rows)
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def skewed_table(
    tmp_path_factory: pytest.TempPathFactory, write_table: Write, make_rows: MakeRows
) -> Path:
    """Write 150, 42 and 8 rows of three classes, in an order without a pattern of 5."""
    rows = rows_of_classes(make_rows, [150, 42, 8])
    mixed = [rows[index * 71 % len(rows)] for index in range(len(rows))]
    return write_table(tmp_path_factory.mktemp("skewed") / "t", mixed)


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_together_take_as_many_rows_of_each_class_in_epochs_of_the_same_length(
    skewed_table: Path, world_size: int
) -> None:
    def ranks_of(epoch: int, sampling: str) -> list[list[list[int]]]:
        readers = (
            reader_of(skewed_table, rank, world_size, sampling=sampling)
            for rank in range(world_size)
        )
        return [labels_of(reader.training(epoch)) for reader in readers]

    for epoch in range(2):
        ranks, natural = ranks_of(epoch, "balanced"), ranks_of(epoch, "natural")
        assert [list(map(len, of_rank)) for of_rank in ranks] == [
            list(map(len, of_rank)) for of_rank in natural
        ]
        counts = Counter(label for of_rank in ranks for batch in of_rank for label in batch)
        assert counts.total() == 200
        assert max(abs(counts[label] - 200 / 3) for label in range(3)) <= world_size


def test_a_balanced_epoch_repeats_with_the_seed_and_the_next_one_differs(
    skewed_table: Path,
) -> None:
    def order(epoch: int) -> list[list[int]]:
        return labels_of(reader_of(skewed_table, sampling="balanced").training(epoch))

    assert order(1) == order(1)
    assert order(1) != order(2)


def classes_in_a_batch(batches: Iterator[Batch]) -> float:
    firsts = labels_of(batches)[:50]
    return sum(len(set(labels)) for labels in firsts) / len(firsts)


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_of_a_class_sorted_table_are_as_mixed_as_those_of_a_shuffled_one(
    tmp_path: Path, write_table: Write, make_rows: MakeRows, world_size: int
) -> None:
    rows = rows_of_classes(make_rows, [40] * CATEGORIES)
    in_order = write_table(tmp_path / "sorted", rows)
    shuffled = [rows[index * 131 % len(rows)] for index in range(len(rows))]
    mixed = write_table(tmp_path / "shuffled", shuffled)
    found = [
        classes_in_a_batch(reader_of(table, world_size - 1, world_size).training(0))
        for table in (in_order, mixed)
    ]
    # Of 12 classes 8 rows drawn freely show 6.0.
    assert found[0] > 5
    assert found[0] / found[1] > 0.85


def test_without_a_buffer_of_rows_batches_of_a_sorted_table_show_what_row_groups_hold(
    tmp_path: Path, write_table: Write, make_rows: MakeRows
) -> None:
    table = write_table(tmp_path / "sorted", rows_of_classes(make_rows, [40] * CATEGORIES))
    assert classes_in_a_batch(reader_of(table, shuffle_rows=1).training(0)) < 3.5

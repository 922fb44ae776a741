"""Rows of a split, read from its files without Spark."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog_batch.errors import TrainingDataError
from catalog_batch.split_rows import RowBatch, SplitRows

SIZES = (5, 1, 6)
"""Rows of the files, which have row groups of two at the most."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> SplitRows:
    folder, files, first = tmp_path_factory.mktemp("split"), list[Path](), 0
    for size in SIZES:
        numbers = range(first, first + size)
        table = pa.table(
            {
                "image_id": [f"i{number}" for number in numbers],
                "content": [bytes([number]) for number in numbers],
                "category_id": [f"c{number % 3}" for number in numbers],
            }
        )
        files.append(folder / f"{first:02}.parquet")
        pq.write_table(table, files[-1], row_group_size=2)
        first += size
    return SplitRows(4, "train", tuple(files), first)


def found_at(rows: SplitRows, places: list[int]) -> list[RowBatch]:
    batches = list(rows.at(places))
    return [
        RowBatch([image_id], [content], [category])
        for batch in batches
        for image_id, content, category in zip(
            batch.image_ids, batch.contents, batch.category_ids, strict=True
        )
    ]


@pytest.mark.parametrize("places", [[], [0], [11], [0, 1, 4, 5, 6, 10], [*range(12)]])
def test_rows_at_places_are_those_of_the_order_of_batches(
    rows: SplitRows, places: list[int]
) -> None:
    in_order = list(rows.batches(1))
    assert len(in_order) == sum(SIZES)
    assert found_at(rows, places) == [in_order[place] for place in places]


def test_a_file_that_vanished_is_named(rows: SplitRows, tmp_path: Path) -> None:
    gone = SplitRows(4, "train", (*rows.files, tmp_path / "gone.parquet"), 20)
    assert found_at(gone, [3])  # Read as far as it is needed.
    with pytest.raises(TrainingDataError, match=r"gone\.parquet"):
        list(gone.at([12]))

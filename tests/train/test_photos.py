from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog_batch.errors import MissingTableError
from catalog_batch.train.photos import photo_source


def test_each_photo_of_validation_and_test_is_the_one_stored(
    training_table: Path, make_rows: Callable[..., list[dict[str, Any]]]
) -> None:
    photo = photo_source(str(training_table), 0)
    for row in make_rows():
        expected = None if row["split"] == "train" else row["content"]
        assert photo(row["image_id"]) == expected, row["image_id"]
    assert photo("unknown") is None


def test_an_older_version_gives_its_own_photos_also_in_a_folder_with_a_space(
    tmp_path: Path,
    write_table: Callable[..., Path],
    make_rows: Callable[..., list[dict[str, Any]]],
) -> None:
    table = write_table(tmp_path / "my data" / "training_examples")
    write_table(table, make_rows({"train": 9, "test": 3}))
    old, new = photo_source(table.as_uri(), 0), photo_source(table.as_uri(), 1)
    assert old("test-bags-0009") is not None
    assert new("test-bags-0009") is None
    assert new("test-bags-0000") == old("test-bags-0000") is not None


def test_a_version_that_is_gone_is_named(training_table: Path) -> None:
    with pytest.raises(MissingTableError, match="has no version 7"):
        photo_source(str(training_table), 7)

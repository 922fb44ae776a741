"""Rows of today's validation and test that the bundle training starts from was trained on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.promotion.shop import SIDE, spec_of

from catalog_batch.modeling.bundle import write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.train.seen_rows import doubt_of_start
from catalog_batch.train.snapshot import resolve_snapshot

Write = Callable[..., Path]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(make_rows: Callable[..., Rows]) -> Rows:
    """Return 9 training, 6 validation and 6 test rows, each of a product of its own."""
    made = make_rows({"train": 9, "validation": 6, "test": 6})
    return [{**row, "group_id": row["image_id"]} for row in made]


def write_earlier(
    folder: Path, table: Path, created_at: str = "2999-01-01T00:00:00Z", **more: str
) -> Path:
    torch.manual_seed(0)
    spec = spec_of(training_table=str(table), created_at=created_at, **more)
    network = build_network("squeezenet1_1", 3, image_side=SIDE)
    write_bundle(folder, network, spec, np.zeros((1, SIDE, SIDE, 3), np.uint8))
    return folder


@pytest.fixture
def table(tmp_path: Path, write_table: Write, rows: Rows) -> Path:
    """Return a table of one version."""
    return write_table(tmp_path / "t", rows)


@pytest.fixture
def bundle(tmp_path: Path, table: Path) -> Path:
    """Return a bundle that was trained on version 0 of it."""
    return write_earlier(tmp_path / "earlier", table)


def test_rows_that_another_split_makes_test_rows_are_counted(
    table: Path, bundle: Path, write_table: Write, rows: Rows
) -> None:
    moved = {"train-bags-0000", "train-lamps-0001"}
    again = [{**row, "split": "test"} if row["image_id"] in moved else row for row in rows]
    # Another photo of a product whose first photo was trained on and is there no more.
    again[2] = {**again[2], "image_id": "new", "split": "validation"}
    doubt = doubt_of_start(str(bundle), resolve_snapshot(str(write_table(table, again))))
    assert "trained on version 0 of" in doubt
    assert "the products of 1 of 7 validation rows and 2 of 8 test rows" in doubt


def test_a_split_that_only_grew_raises_no_doubt(
    table: Path, bundle: Path, write_table: Write, rows: Rows
) -> None:
    assert doubt_of_start(str(bundle), resolve_snapshot(str(table))) == ""
    new = {**rows[-1], "image_id": "new", "group_id": "new"}
    grown = resolve_snapshot(str(write_table(table, [*rows, new])))
    assert doubt_of_start(str(bundle), grown) == ""
    assert doubt_of_start("none", grown) == ""


def test_the_doubt_of_what_training_starts_from_is_inherited(
    table: Path, write_table: Write, rows: Rows, tmp_path: Path
) -> None:
    bundle = str(write_earlier(tmp_path / "doubtful", table, doubt="It has seen all."))
    assert doubt_of_start(bundle, resolve_snapshot(str(table))) == "It has seen all."
    again = [{**row, "split": "test"} if row is rows[0] else row for row in rows]
    doubt = doubt_of_start(bundle, resolve_snapshot(str(write_table(table, again))))
    assert "1 of 7 test rows" in doubt and doubt.endswith("It has seen all.")


@pytest.mark.parametrize("how", ["files deleted", "built anew", "built anew, by its id"])
def test_a_version_that_cannot_be_read_any_more_raises_a_doubt(
    table: Path, bundle: Path, write_table: Write, rows: Rows, tmp_path: Path, how: str
) -> None:
    if how == "files deleted":
        for file in table.glob("split=train/*.parquet"):
            file.unlink()
    else:
        shutil.rmtree(table)
        by_id = {"training_table_id": "another"} if "id" in how else {}
        created_at = "2999-01-01T00:00:00Z" if by_id else "2020-01-01T00:00:00Z"
        bundle = write_earlier(tmp_path / "older", table, created_at, **by_id)
    newest = resolve_snapshot(str(write_table(table, rows)))
    doubt = doubt_of_start(str(bundle), newest)
    assert "cannot be read any more" in doubt and "nobody knows" in doubt
    assert ("missing or damaged" if how == "files deleted" else "built anew since") in doubt

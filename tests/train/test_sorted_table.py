"""A table sorted by class trains as well as a shuffled one: row groups and rows are drawn."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.small import SMALL

from catalog_batch.config import TrainSettings
from catalog_batch.train import checkpoints
from catalog_batch.train.cluster import run_workers
from catalog_batch.train.readers import ShardReader, preprocessing_for
from catalog_batch.train.reports import EpochReport
from catalog_batch.train.snapshot import resolve_snapshot
from catalog_batch.train.trainer import plan_training

TRAIN_ROWS = 96
DRAWN = {"shuffle_rows": 48}
NEXT_TO_UNDRAWN = {"shuffle_rows": 1}


def settings_for_test(**changes: Any) -> TrainSettings:
    # A fixed backbone: its random features tell colours apart, and what its head learns of them
    # depends on the order of the rows, and hardly on luck.
    fixed = {"architecture": "resnet18", "freeze": "backbone", "augmentation": "none"}
    return TrainSettings(**{**SMALL, **fixed, "learning_rate": 3e-3, "epochs": 3, **changes})


@dataclass
class Tables:
    sorted: Path
    shuffled: Path
    in_three_groups: Path
    """Sorted, with a row group of each class."""


@pytest.fixture(scope="module")
def tables(
    tmp_path_factory: pytest.TempPathFactory,
    write_table: Callable[..., Path],
    make_rows: Callable[..., list[Any]],
) -> Iterator[Tables]:
    """Write the same rows in other orders; training reads row groups of four, of a class each."""
    folder = tmp_path_factory.mktemp("orders")
    rows = make_rows({"train": TRAIN_ROWS, "validation": 30})
    by_class = sorted(rows[:TRAIN_ROWS], key=lambda row: str(row["category_id"]))
    at_random = random.Random(1).sample(by_class, TRAIN_ROWS)
    rest = rows[TRAIN_ROWS:]
    yield Tables(
        write_table(folder / "sorted", [*by_class, *rest], 4),
        write_table(folder / "shuffled", [*at_random, *rest], 4),
        write_table(folder / "three", [*by_class, *rest], TRAIN_ROWS // 3),
    )


def deviation_of_classes(table: Path, **changes: Any) -> float:
    """Return the standard deviation of a class's rows in a batch, over a few epochs."""
    settings = settings_for_test(**changes)
    reader = ShardReader(resolve_snapshot(str(table)), preprocessing_for(settings), settings)
    batches = [batch for epoch in range(8) for batch in reader.training(epoch)]
    counts = [np.bincount(batch.labels.numpy(), minlength=3) for batch in batches]
    return float(np.std(counts))


def last_epoch(table: Path, **changes: Any) -> EpochReport:
    settings = settings_for_test(**changes)
    planned = plan_training(str(table), None, settings, table.parent / "runs", table.name)
    run_workers(planned.settings, planned.snapshot, planned.folder)
    newest, _ = checkpoints.newest_whole(planned.folder)
    assert newest is not None
    return checkpoints.read_state(newest).history[-1]


def test_batches_of_a_sorted_table_are_mixed_as_those_of_a_shuffled_one(tables: Tables) -> None:
    # Drawing 8 of 96 rows without putting any back.
    by_chance = (8 * 1 / 3 * 2 / 3 * (96 - 8) / (96 - 1)) ** 0.5
    for table in (tables.sorted, tables.shuffled):
        assert deviation_of_classes(table, **DRAWN) == pytest.approx(by_chance, rel=0.1)
    assert deviation_of_classes(tables.sorted, **NEXT_TO_UNDRAWN) > 1.5 * by_chance


def test_a_sorted_table_trains_as_well_as_a_shuffled_one(tables: Tables) -> None:
    by_class, at_random = (last_epoch(each, **DRAWN) for each in (tables.sorted, tables.shuffled))
    undrawn = last_epoch(tables.in_three_groups, **NEXT_TO_UNDRAWN)
    assert min(by_class.validation_accuracy, at_random.validation_accuracy) >= 0.9
    assert by_class.validation_loss == pytest.approx(at_random.validation_loss, abs=0.1)
    assert undrawn.validation_loss > by_class.validation_loss + 0.25

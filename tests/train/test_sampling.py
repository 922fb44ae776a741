"""Balanced sampling takes as many rows of each class, and of each rank as many as it has."""

import random
from collections import Counter
from collections.abc import Generator

import numpy as np
import pytest

from catalog_batch.errors import ReconciliationError
from catalog_batch.train.sampling import balanced, balanced_quotas

COUNTS = [900, 80, 20]


def stream(counts: list[int], seed: int = 1) -> Generator[tuple[tuple[int, int], int], None, None]:
    rows = [(label, index) for label, count in enumerate(counts) for index in range(count)]
    random.Random(seed).shuffle(rows)
    yield from ((row, row[0]) for row in rows)


def taken(counts: list[int], quotas: list[int], seed: int = 5) -> list[tuple[int, int]]:
    return list(balanced(stream(counts), counts, quotas, random.Random(seed)))


def test_each_class_is_taken_equally_often_and_every_rare_row_is_seen() -> None:
    rows = taken(COUNTS, balanced_quotas(np.array([COUNTS]))[0].tolist())
    assert len(rows) == 1000
    assert sorted(Counter(label for label, _ in rows).values()) == [333, 333, 334]
    times = Counter(rows)
    assert len([row for row in times if row[0] > 0]) == 100
    assert {times[row] for row in times if row[0] == 2} <= {16, 17}
    assert {times[row] for row in times if row[0] == 1} <= {4, 5}
    assert {times[row] for row in times if row[0] == 0} == {1}


def test_every_part_of_an_epoch_is_balanced() -> None:
    rows = taken([9000, 800, 200], [3333, 3333, 3334])
    for start in range(0, 10_000, 2000):
        part = Counter(label for label, _ in rows[start : start + 2000])
        assert min(part.values()) > 0.22 * 2000, (start, part)


def test_a_single_row_comes_back_all_over_the_rest_of_the_epoch() -> None:
    rows = taken([999, 1], [500, 500])
    places = [place for place, row in enumerate(rows) if row[0] == 1]
    assert len(places) == 500
    natural = [row[0] for row, _ in stream([999, 1])].index(1)
    thirds = np.histogram(places, bins=3, range=(places[0], 1000))[0]
    assert natural < 600
    assert thirds.min() > 100


def test_the_seed_decides_which_rows_of_frequent_classes_are_left_out() -> None:
    assert taken(COUNTS, [334, 333, 333]) == taken(COUNTS, [334, 333, 333])
    first, other = (
        {row for row in taken(COUNTS, [334, 333, 333], seed) if row[0] == 0} for seed in (5, 6)
    )
    assert len(first) == len(other) == 334
    assert first != other


def test_ranks_take_as_many_rows_as_they_have_and_together_as_many_of_each_class() -> None:
    rows = np.array([[500, 60, 20], [380, 40, 0], [900, 0, 100]])
    quotas = balanced_quotas(rows)
    assert quotas.sum(axis=1).tolist() == rows.sum(axis=1).tolist()
    assert np.abs(quotas.sum(axis=0) - 2000 / 3).max() <= 3
    assert not quotas[rows == 0].any()


def test_ranks_with_a_class_each_take_all_of_their_rows() -> None:
    quotas = balanced_quotas(np.array([[70, 0, 0], [0, 30, 0]]))
    assert quotas.tolist() == [[70, 0, 0], [0, 30, 0]]


def test_other_numbers_of_rows_than_the_table_has_are_an_error() -> None:
    rows = balanced(stream([4, 2]), [4, 3], [3, 4], random.Random(1))
    with pytest.raises(ReconciliationError, match=r"came: \[4, 2\].*files have: \[4, 3\]"):
        list(rows)

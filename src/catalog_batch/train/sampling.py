"""Balanced sampling in a stream: rows of rare classes come repeatedly, some of frequent ones never.

Rows come one after the other, so nothing can be drawn by its index. But how many rows of each
class a rank will get is known before, and with that how often each is to be taken.
"""

import heapq
import itertools
import random
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from catalog_batch.errors import ReconciliationError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Row = TypeVar("Row")

ROUNDS = 1000
"""Most corrections of the shares; ranks that hold all classes alike need one."""

TOLERANCE = 1e-9


def balanced_quotas(rows: Counts) -> Counts:
    """Say how many rows of each class each rank takes in an epoch.

    A rank takes as many rows as it has, so that its steps stay the same. Over all ranks each class
    gets the same number, but for what rounding costs, at most one row a rank. Where that cannot
    be, since a rank holds too few classes, the first of the two goes before.

    Args:
        rows: Rows that each rank has of each class, [ranks, C].

    Returns:
        Rows to take, [ranks, C], with the sums over classes of ``rows``.
    """
    held = rows.sum(axis=1).astype(np.float64)
    each = held.sum() / np.count_nonzero(rows.sum(axis=0))
    shares = rows.astype(np.float64)
    # Sinkhorn's iteration: the classes' sums are made right, then the ranks', until both are.
    for _ in range(ROUNDS):
        shares *= each / _not_0(shares.sum(axis=0))
        sums = shares.sum(axis=1)
        shares *= (held / _not_0(sums))[:, None]
        if np.abs(sums - held).max() <= TOLERANCE * held.max():
            break
    return np.stack([_rounded(*pair) for pair in zip(shares, held, strict=True)])


def _not_0(sums: Floats) -> Floats:
    """Replace sums of nothing, so that nothing can be divided by them."""
    return np.where(sums > 0, sums, 1.0)


def _rounded(shares: Floats, total: float) -> Counts:
    """Round to whole numbers of the same sum: up where most was cut off."""
    whole: Counts = np.floor(shares + TOLERANCE).astype(np.int64)
    missing = round(total) - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole


def balanced(
    rows: Generator[tuple[Row, int], None, None],
    counts: Sequence[int],
    quotas: Sequence[int],
    draw: random.Random,
) -> Generator[Row, None, None]:
    """Take ``quotas`` rows of each class from a stream that has ``counts`` of them.

    With q of n rows to take, each is taken q / n times, rounded up or down: which way is drawn. So
    every row of a class with q >= n is seen. What is taken again comes back at drawn places
    before the class's next row is due, and a class is spread over the epoch as its rows are: of
    each class about one row is held.

    Args:
        rows: Rows with the label of each; closed at the end.
        counts: Rows that come of each class.
        quotas: Rows to take of each class.
        draw: Of the places and the rounding.

    Raises:
        ReconciliationError: When other numbers of rows came.
    """
    length, seen = sum(counts), [0] * len(counts)
    phases = [draw.randrange(max(count, 1)) for count in counts]
    # (place in the stream, number, row): the number decides between equal places.
    held: list[tuple[float, int, Row]] = []
    number = itertools.count()
    with closing(rows):
        for place, (row, label) in enumerate(rows):
            seen[label] += 1
            count, quota = max(counts[label], 1), quotas[label]
            # Whole numbers: together the rows of a class are taken exactly ``quota`` times.
            before = ((seen[label] - 1) * quota + phases[label]) // count
            copies = (seen[label] * quota + phases[label]) // count - before
            for copy in range(copies):
                due = place + (copy + draw.random()) / copies * length / count
                if due > length:
                    due = place + draw.random() * (length - place)
                heapq.heappush(held, (due, next(number), row))
            while held and held[0][0] <= place:
                yield heapq.heappop(held)[2]
    while held:
        yield heapq.heappop(held)[2]
    if seen != list(counts):
        raise ReconciliationError(
            f"Rows of each class that came: {seen}; that the training table's files have: "
            f"{list(counts)}. Nothing is published. Run again; if it happens again, report it "
            "with the table's version."
        )

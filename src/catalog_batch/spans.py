"""Spans of time in queries, from which Delta knows the files that it need not read."""

from collections.abc import Collection
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

MOST_SPANS = 100
"""That a query names; of more, all between the first and the last."""

Span = tuple[int, int]
"""Its first microsecond since 1970, and the one after its last."""


def within(times: Column, spans: Collection[Span]) -> Column:
    """Return whether a time is in one of some spans, one at the least.

    Of more than ``MOST_SPANS`` it is whether the time is between the first and the last.
    """
    named = sorted(spans)
    if len(named) > MOST_SPANS:
        named = [(named[0][0], max(end for _, end in named))]

    def at(time: int) -> Column:
        return F.timestamp_micros(F.lit(time))

    return reduce(Column.__or__, [(times >= at(first)) & (times < at(end)) for first, end in named])

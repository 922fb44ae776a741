"""How far Spark is with what it works on, for a bar on a terminal."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from catalog_batch.progress import polled_progress

# For how many rows are answered; queries that may begin between two looks.
_LOOK_SECONDS, _QUERIES_AT_ONCE = 0.5, 20


@contextmanager
def task_progress(
    session: SparkSession, description: str, total: int = 100, unit: str = ""
) -> Iterator[None]:
    """Show a bar on a terminal while Spark works inside the block.

    Args:
        session: Whose tasks are followed.
        description: What is being done.
        total: What all tasks together handle, each about the same part of it.
        unit: What ``total`` counts, for the rate.
    """
    tracker = session.sparkContext.statusTracker()

    def share_done() -> int:
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        running = [stage for stage in stages if stage is not None]
        tasks = sum(stage.numTasks for stage in running)
        done = sum(stage.numCompletedTasks for stage in running)
        return total * done // tasks if tasks else 0

    with polled_progress(description, total, share_done, unit):
        yield


class AnsweredRows:
    """How many rows Python workers have answered in the first query that asks them from now on.

    Tasks tell it while they run, with each heartbeat (``spark.executor.heartbeatInterval``), where
    an accumulator of Python's is told when they end. Spark keeps it for its page on queries.
    """

    def __init__(self, session: SparkSession) -> None:
        """Begin with the first call, which passes over the queries that there are."""
        self._session = session
        self._others: set[int] | None = None
        self._query: int | None = None
        self._metric = -1
        self._rows = 0
        self._looked_at = -math.inf

    def __call__(self) -> int:
        """Return the rows of the last heartbeat; 0 before there is such a query."""
        if self._others is None:
            self._others = set(self._newest_queries())
        elif time.monotonic() > self._looked_at + _LOOK_SECONDS:
            self._look(self._others)
            self._looked_at = time.monotonic()
        return self._rows

    def _look(self, others: set[int]) -> None:
        if self._query is None:
            # Not the newest alone: while a query is planned, Delta asks others about its tables.
            for query in self._newest_queries():
                if query not in others and self._finds_metric(query):
                    self._query = query
                    break
                others.add(query)
        if self._query is not None:
            told = self._store.executionMetrics(self._query).get(self._metric)
            if told.isDefined():
                # Not there for a moment as the query ends.
                self._rows = max(self._rows, int(told.get().replace(",", "")))
            elif not self._rows:
                # Planned again while it ran, the query counts elsewhere.
                self._finds_metric(self._query)

    def _finds_metric(self, query: int) -> bool:
        for node in _scala_items(self._store.planGraph(query).allNodes()):
            if node.name() == "ArrowEvalPython":
                numbers = {it.name(): it.accumulatorId() for it in _scala_items(node.metrics())}
                self._metric = numbers["number of output rows"]
                return True
        return False

    def _newest_queries(self) -> list[int]:
        skipped = max(0, self._store.executionsCount() - _QUERIES_AT_ONCE)
        queries = self._store.executionsList(skipped, _QUERIES_AT_ONCE)
        return [query.executionId() for query in _scala_items(queries)]

    @property
    def _store(self) -> Any:
        return self._session._jsparkSession.sharedState().statusStore()


def _scala_items(sequence: Any) -> Iterator[Any]:
    return (sequence.apply(place) for place in range(sequence.size()))

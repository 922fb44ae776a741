"""Producing items in a thread, a few ahead, with a limit on how long the consumer waits."""

from collections.abc import Generator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

from catalog_batch.errors import CatalogBatchError

T = TypeVar("T")

DEPTH = 2
POLL_SECONDS = 0.05
JOIN_SECONDS = 10.0


class _Ended:
    """Follows the last item in the queue; carries the error that ended the production."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Producer(Thread, Generic[T]):
    def __init__(self, items: Generator[T, None, None]) -> None:
        super().__init__(name="prefetch", daemon=True)
        self.items = items
        self.queue: Queue[T | _Ended] = Queue(DEPTH)
        self.stopping = Event()

    def run(self) -> None:
        ended = _Ended()
        try:
            for item in self.items:
                self._put(item)
                if self.stopping.is_set():
                    break
        except BaseException as error:  # it is raised again where the items are consumed
            ended = _Ended(error)
        finally:
            # Ends the threads behind the items, which only the thread that runs them may do.
            self.items.close()
        self._put(ended)

    def _put(self, item: T | _Ended) -> None:
        while not self.stopping.is_set():
            try:
                return self.queue.put(item, timeout=POLL_SECONDS)
            except Full:
                continue


def prefetched(
    items: Generator[T, None, None], stall_seconds: float, what: str
) -> Generator[T, None, None]:
    """Yield items that a thread produces ahead; closing the generator ends the thread.

    Args:
        items: What to produce; closed in the producing thread.
        stall_seconds: Longest wait for the next item.
        what: Names the source in the error.

    Raises:
        CatalogBatchError: When the wait was longer than ``stall_seconds``.
    """
    producer = _Producer(items)
    producer.start()
    try:
        while True:
            item = _next_item(producer, stall_seconds, what)
            if isinstance(item, _Ended):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        producer.stopping.set()
        producer.join(JOIN_SECONDS)


def _next_item(producer: _Producer[T], stall_seconds: float, what: str) -> T | _Ended:
    try:
        return producer.queue.get(timeout=stall_seconds)
    except Empty:
        raise CatalogBatchError(
            f"No batch of {what} came for {stall_seconds:g} seconds. Check the storage the table "
            "lies on and the load of this machine, or raise train.stall_seconds."
        ) from None

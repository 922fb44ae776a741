"""Draw chunks in several processes and hand them back in order."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

from catalog_batch.demo.chunks import Chunk, ImageRecord, draw_chunk

WAITING_PER_WORKER = 4
"""Chunks handed out ahead of time: keeps workers busy and bounds what waits in memory."""


def draw_in_order(
    chunks: Iterable[Chunk], workers: int
) -> Generator[list[ImageRecord], None, None]:
    """Draw chunks, in this process for one worker and in as many processes for more."""
    if workers == 1:
        yield from map(draw_chunk, chunks)
        return
    # Spawned, not forked: a fork copies the locks of the threads that a caller may run.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        waiting: deque[Future[list[ImageRecord]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(draw_chunk, chunk))
            if len(waiting) >= workers * WAITING_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

"""Reading bytes: the very file that was found, no more than it has, and ahead of who needs them."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

from catalog_batch.imaging import Reason, Rejection

T = TypeVar("T")
R = TypeVar("R")

# The leaf is no link (its target was resolved when it was found), and a pipe does not block.
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def modified_at(status: os.stat_result) -> datetime | None:
    """Return the modification time, UTC, to the microsecond; None past the year 9999."""
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return None


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a file for reading and close it again; a link is not followed."""
    descriptor = os.open(path, FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_local(path: str, size: int | None, modified: datetime | None) -> bytes | Rejection:
    """Read a whole local file if it is, and stays, the one that was found.

    Args:
        path: Resolved path; a link in its place is a change.
        size: Bytes that were found; at most one more is read.
        modified: Modification time that was found.

    Raises:
        OSError: When the file cannot be opened or read.
    """
    with opened(path) as descriptor:
        if not _is_found(os.fstat(descriptor), size, modified):
            return changed()
        content = read_at(descriptor, 0, (size or 0) + 1)
        is_same = len(content) == size and _is_found(os.fstat(descriptor), size, modified)
    return content if is_same else changed()


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Read up to ``size`` bytes; fewer only where the file ends."""
    content = os.pread(descriptor, size, offset)
    while 0 < len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content


def announce_local(path: str) -> None:
    """Have the kernel fetch a file into its cache, if it can; nobody waits for it."""
    # What is wrong with the file is told when it is read.
    with suppress(OSError), opened(path) as descriptor:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


def changed() -> Rejection:
    """Return the rejection of a file that is no longer the one that was found."""
    return Rejection(
        Reason.CHANGED_WHILE_READING, "size, time or kind differ from when it was found"
    )


def too_large(size: int) -> Rejection:
    """Return the rejection of a file of ``size`` bytes, which are not read."""
    return Rejection(Reason.TOO_LARGE, f"{size} bytes")


def announced(items: Iterable[T], announce: Callable[[T], None], places: int) -> Iterator[T]:
    """Yield items in their order, each announced when it is ``places`` away."""
    waiting: deque[T] = deque()
    for item in items:
        announce(item)
        waiting.append(item)
        if len(waiting) > places:
            yield waiting.popleft()
    yield from waiting


def read_ahead(
    items: Iterable[T],
    size_of: Callable[[T], int],
    read: Callable[[T], R],
    in_flight: int,
    max_bytes: int,
) -> Iterator[tuple[T, R]]:
    """Read items in threads, ahead of the consumer, and hand them out in their order.

    What ``read`` raises is raised in its item's place. ``read`` runs in several threads at a time;
    with ``in_flight`` 1 there is no thread, and each item is read when it is asked for.

    Args:
        items: What to read; drawn from no further than there is room.
        size_of: Bytes that reading an item will take in memory.
        read: Reads one item.
        in_flight: Items that may be read, or wait to be taken, at a time.
        max_bytes: Sum of their sizes; a larger item is read alone.
    """
    if in_flight == 1:
        for item in items:
            yield item, read(item)
        return
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="read-ahead")
    ahead: deque[tuple[T, int, Future[R]]] = deque()
    try:
        for item in items:
            size = size_of(item)
            while ahead and (len(ahead) == in_flight or _bytes(ahead) + size > max_bytes):
                yield _next(ahead)
            ahead.append((item, size, pool.submit(read, item)))
        while ahead:
            yield _next(ahead)
    finally:
        # A read that hangs must not keep the consumer: it ends with its thread, unheard.
        pool.shutdown(wait=False, cancel_futures=True)


def _next(ahead: deque[tuple[T, int, Future[R]]]) -> tuple[T, R]:
    item, _, future = ahead.popleft()
    return item, future.result()


def _bytes(ahead: deque[tuple[T, int, Future[R]]]) -> int:
    return sum(size for _, size, _ in ahead)


def _is_found(status: os.stat_result, size: int | None, modified: datetime | None) -> bool:
    is_same = status.st_size == size and modified_at(status) == modified
    return stat.S_ISREG(status.st_mode) and is_same

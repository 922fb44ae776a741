"""Work on batches in a child process that may crash, spin or eat memory at one item's cost."""

import ctypes
import errno
import itertools
import math
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Self, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

Item = TypeVar("Item")
Result = TypeVar("Result")
Process = Callable[[Sequence[Item]], Iterator[Result]]
"""A generator function: one result for each item, in order, from nothing but the items."""

_BATCHES_IN_FLIGHT = 2
_PROGRESS_CELLS = 1024  # far more than there are ever batches in flight
_NOT_BEGUN = -1
_MAX_DEATHS_BEFORE_WORK = 3
# Pebble may wait for ever where a child was killed in the middle of a message.
_START_SECONDS = 60.0
_OUT_OF_MEMORY_EXIT = 86
_PR_SET_PDEATHSIG = 1


class Failure(StrEnum):
    """How an item ended the process that worked on it."""

    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"


@dataclass(frozen=True)
class Lost:
    """Stands in for the result of an item that cannot be worked on."""

    failure: Failure
    detail: str


@dataclass(frozen=True)
class Limits:
    """What the child may use.

    Attributes:
        memory_bytes: Memory on top of what the child has once it has started.
        cpu_seconds: CPU time for each item, rounded up by less than a second.
        wall_seconds: Time for each batch, without the start of a child.
    """

    memory_bytes: int
    cpu_seconds: int
    wall_seconds: float


@dataclass(frozen=True)
class _Attempt(Generic[Item]):
    """A batch that was given to the child, and the cell that tells which item it is at."""

    items: Sequence[Item]
    cell: int
    future: ProcessFuture[bytes]


class IsolatedWorker(Generic[Item, Result]):
    """One child process that works on batches; it is replaced when a batch ends it.

    The child starts with the first batch and stays for later calls of ``map``, until ``close``. It
    ends with the thread that started it, so an object is to be used by one thread, and by one
    ``map`` at a time.
    """

    def __init__(self, start: Callable[[], Process[Item, Result]], limits: Limits) -> None:
        """Take what is run and how far it may go.

        Args:
            start: Called once in each child, before the limits apply; returns what works on a
                batch. It must pickle, and so must items and results. What is defined in
                ``__main__`` cannot be found by the child.
            limits: What the child may use.
        """
        self._limits = limits
        self._progress = _CONTEXT.RawArray("q", _PROGRESS_CELLS)
        self._setup = (pickle.dumps(start), limits, self._progress, os.getpid())
        self._cells = itertools.cycle(range(_PROGRESS_CELLS))
        self._pool: ProcessPool | None = None
        self._deaths_before_work = 0

    def __enter__(self) -> Self:
        """Return the worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()

    def close(self) -> None:
        """End the child at once, whatever it is doing; a later ``map`` starts another."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    def map(self, batches: Iterable[Sequence[Item]]) -> Iterator[tuple[Item, Result | Lost]]:
        """Yield each item with its result, in order; batches are taken as they are needed.

        The items of a batch that fails, but for the one that is lost, are worked on again.

        Raises:
            RuntimeError: If a child cannot be started.
            Exception: What the process function raised, caused by the child's traceback.
        """
        ahead = iter(batches)
        pending: deque[_Attempt[Item]] = deque()
        try:
            self._fill(pending, ahead)
            while pending:
                self._wait_for_first(pending)
                attempt = pending.popleft()
                lost = self._failure_of(attempt)
                results: Sequence[Result | Lost]
                if lost is None:
                    results = self._results_of(attempt)
                elif self._is_certain(attempt):
                    results = [lost]
                else:
                    parts = [self._submit(part) for part in self._split(attempt, lost)]
                    pending.extendleft(reversed(parts))
                    continue
                self._fill(pending, ahead)
                yield from zip(attempt.items, results, strict=True)
        finally:
            if pending:  # left early
                self.close()

    def _fill(self, pending: deque[_Attempt[Item]], ahead: Iterator[Sequence[Item]]) -> None:
        free = max(0, _BATCHES_IN_FLIGHT - len(pending))
        pending.extend(self._submit(items) for items in itertools.islice(ahead, free))

    def _submit(self, items: Sequence[Item]) -> _Attempt[Item]:
        cell = next(self._cells)
        self._progress[cell] = _NOT_BEGUN
        try:
            future = self._schedule(items, cell)
        except RuntimeError:  # the pool broke after it was looked at
            future = self._schedule(items, cell)
        return _Attempt(items, cell, future)

    def _schedule(self, items: Sequence[Item], cell: int) -> ProcessFuture[bytes]:
        pool = self._open_pool()
        return pool.schedule(_work, args=(items, cell), timeout=self._limits.wall_seconds)

    def _open_pool(self) -> ProcessPool:
        if self._pool is not None and not self._pool.active:
            self.close()
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=1, initializer=_open_child, initargs=self._setup, context=_CONTEXT
            )
        return self._pool

    def _wait_for_first(self, pending: deque[_Attempt[Item]]) -> None:
        """Wait until the first batch is done, giving all a new pool as often as theirs breaks."""
        while not (pending[0].future.done() and not _is_unserved(pending[0])):
            waiting = [attempt.future for attempt in pending if not attempt.future.done()]
            is_broken = pending[0].future.done()
            if not is_broken and _one_is_done(waiting, _START_SECONDS + self._limits.wall_seconds):
                continue
            self.close()
            self._count_death_before_work("the child ended, or hung, while it started")
            renewed = [self._submit(a.items) if _is_unserved(a) else a for a in pending]
            pending.clear()
            pending.extend(renewed)

    def _results_of(self, attempt: _Attempt[Item]) -> Sequence[Result]:
        """Return the results, or raise what the child raised."""
        self._deaths_before_work = 0
        answer: list[Result] | _Raised = pickle.loads(attempt.future.result())
        if isinstance(answer, _Raised):
            raise answer.error from _ChildTraceback(f"\n{answer.traceback}")
        return answer

    def _failure_of(self, attempt: _Attempt[Item]) -> Lost | None:
        match attempt.future.exception():
            case None:
                return None
            case ProcessExpired() as expired:
                return _explain_exit(expired.exitcode, self._limits)
            case TimeoutError():
                return Lost(Failure.TIMED_OUT, f"took over {self._limits.wall_seconds:g} s")
            case error:
                raise error

    def _is_certain(self, attempt: _Attempt[Item]) -> bool:
        """Tell whether it was the item that failed, and it alone."""
        return len(attempt.items) == 1 and self._progress[attempt.cell] != _NOT_BEGUN

    def _split(self, attempt: _Attempt[Item], lost: Lost) -> list[Sequence[Item]]:
        """Return the batch in parts, the item that it failed at in one of its own."""
        items, suspect = attempt.items, self._progress[attempt.cell]
        if suspect != _NOT_BEGUN:
            self._deaths_before_work = 0
            parts = [items[:suspect], items[suspect : suspect + 1], items[suspect + 1 :]]
        elif len(items) > 1:
            parts = [items[: len(items) // 2], items[len(items) // 2 :]]
        else:
            self._count_death_before_work(lost.detail)
            parts = [items]
        return [part for part in parts if len(part) > 0]

    def _count_death_before_work(self, detail: str) -> None:
        self._deaths_before_work += 1
        if self._deaths_before_work >= _MAX_DEATHS_BEFORE_WORK:
            raise RuntimeError(
                f"A child process ended {self._deaths_before_work} times in a row before it came "
                f"to its first item: {detail}. Look at what its start function needs, and at the "
                "memory that is free on this machine."
            )


def _is_unserved(attempt: _Attempt[Any]) -> bool:
    """Tell whether a batch was never begun to be answered, as its pool broke."""
    future = attempt.future
    return not future.done() or isinstance(future.exception(), BrokenProcessPool)


def _one_is_done(futures: Iterable[ProcessFuture[bytes]], timeout: float) -> bool:
    return bool(wait(futures, timeout, FIRST_COMPLETED).done)


def _explain_exit(code: int, limits: Limits) -> Lost:
    if code == -signal.SIGXCPU:
        return Lost(Failure.TIMED_OUT, f"used over {limits.cpu_seconds} s of CPU time")
    if code == _OUT_OF_MEMORY_EXIT:
        return Lost(Failure.OUT_OF_MEMORY, f"needed over {limits.memory_bytes:,} bytes of memory")
    if code == -signal.SIGKILL:
        detail = "killed by SIGKILL, as by the system's out-of-memory killer"
    elif code < 0:
        detail = f"killed by {signal.Signals(-code).name}"
    else:
        detail = f"exited with code {code}"
    return Lost(Failure.CRASHED, detail)


# How a child is started.


class _SpawnedProcess(SpawnProcess):
    """A spawned process that does not import the parent's main module.

    In a Spark worker that module is ``pyspark.daemon``, whose import takes a second and 100 MB.
    """

    _one_at_a_time = threading.Lock()

    def start(self) -> None:
        """Start the process, while an empty module stands in for ``__main__``."""
        with self._one_at_a_time:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _SpawnedProcess


_CONTEXT = _Context()


# What runs in the child.


class _ChildTraceback(Exception):
    """Shows where in the child an exception was raised."""


@dataclass(frozen=True)
class _Raised:
    """An exception on its way to the parent."""

    error: BaseException
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> "_Raised":
        try:
            is_sendable = isinstance(error, Exception)
            pickle.loads(pickle.dumps(error))
        except Exception:
            is_sendable = False
        text = "".join(traceback.format_exception(error))
        return cls(error if is_sendable else RuntimeError(f"The child raised {error!r}."), text)


@dataclass(frozen=True)
class _Child:
    """What a child process keeps between batches."""

    process: Process[Any, Any] | _Raised
    limits: Limits
    progress: Any
    max_data_bytes: int


_child: _Child | None = None


def _open_child(start: bytes, limits: Limits, progress: Any, parent: int) -> None:
    """Prepare this process; an error of ``start`` is kept and told with the first batch."""
    global _child
    _end_with(parent)
    _silence()
    for number in (signal.SIGTERM, signal.SIGXCPU):  # end C code too, unlike pebble's handler
        signal.signal(number, signal.SIG_DFL)
    _set_soft_limit(resource.RLIMIT_CORE, 0)
    try:
        process = pickle.loads(start)()
    except Exception as error:
        cannot = RuntimeError(f"A child process cannot start: {type(error).__name__}: {error}")
        process = _Raised(cannot, traceback.format_exc())
    _child = _Child(process, limits, progress, _data_bytes() + limits.memory_bytes)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _silence() -> None:
    """Keep C libraries' warnings out of the parent's output, and its input to itself."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _work(items: Sequence[Any], cell: int) -> bytes:
    """Return the pickled results of a batch, or the exception that it raised."""
    assert _child is not None
    if isinstance(_child.process, _Raised):
        return pickle.dumps(_child.process)
    _set_soft_limit(resource.RLIMIT_DATA, _child.max_data_bytes)
    try:
        answer: list[Any] | _Raised = list(_results(_child, items, cell))
    except BaseException as error:
        _exit_if_out_of_memory(error)
        answer = _Raised.of(error)
    finally:
        # A child that ends while it answers would leave half a message and a lock behind.
        _set_soft_limit(resource.RLIMIT_CPU, None)
        _set_soft_limit(resource.RLIMIT_DATA, None)
    return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)


def _exit_if_out_of_memory(error: BaseException) -> None:
    """End this process, whose memory is in pieces; the next one starts afresh."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        os._exit(_OUT_OF_MEMORY_EXIT)


def _results(child: _Child, items: Sequence[Any], cell: int) -> Iterator[Any]:
    assert not isinstance(child.process, _Raised)
    results = iter(child.process(items))
    for index in range(len(items)):
        child.progress[cell] = index
        seconds = math.ceil(time.process_time()) + child.limits.cpu_seconds
        _set_soft_limit(resource.RLIMIT_CPU, seconds)
        try:
            result = next(results)
        except StopIteration:
            raise RuntimeError(f"{len(items)} items had {index} results.") from None
        yield result
    if next(results, child) is not child:
        raise RuntimeError(f"{len(items)} items had more results than that.")


def _set_soft_limit(kind: int, value: int | None) -> None:
    """Limit this process; ``None`` is as much as the system allows."""
    hard = resource.getrlimit(kind)[1]
    is_allowed = value is not None and (hard == resource.RLIM_INFINITY or value < hard)
    resource.setrlimit(kind, (value if value is not None and is_allowed else hard, hard))


def _data_bytes() -> int:
    """Return what the kernel counts against ``RLIMIT_DATA``."""
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmData"))
    return int(kilobytes) * 1024

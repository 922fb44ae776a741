"""What a child process is given to work on in tests: harmless items, and each kind of poison."""

import ctypes
import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from catalog_batch.ingest.isolation import IsolatedWorker, Limits

LIMITS = Limits(memory_bytes=200_000_000, cpu_seconds=1, wall_seconds=20.0)


def segfault() -> None:
    ctypes.string_at(0)


def spin_in_c() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def sleep() -> None:
    time.sleep(60)


def eat_memory() -> None:
    eaten = bytearray()
    while True:
        eaten += bytes(10_000_000)


def eat_memory_in_numpy() -> None:
    np.ones(100_000_000)


def eat_small_objects() -> None:
    eaten: list[list[int]] = []
    while True:
        eaten.append([len(eaten)])


def leave() -> None:
    os._exit(3)


def leave_politely() -> None:
    os._exit(0)


def abort() -> None:
    os.abort()


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


POISON: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        segfault,
        spin_in_c,
        sleep,
        eat_memory,
        eat_memory_in_numpy,
        eat_small_objects,
        leave,
        leave_politely,
        abort,
        kill_itself,
    )
}


def shout(items: Sequence[str]) -> Iterator[str]:
    """Put each item in capitals, after what its name says has been done."""
    for item in items:
        POISON.get(item, lambda: None)()
        yield item.upper()


def start_shouting() -> Callable[[Sequence[str]], Iterator[str]]:
    return shout


def tell_pid(items: Sequence[object]) -> Iterator[int]:
    yield from (os.getpid() for _ in items)


def start_telling_pid() -> Callable[[Sequence[object]], Iterator[int]]:
    return tell_pid


def tell_modules(items: Sequence[str]) -> Iterator[bool]:
    yield from (item in sys.modules for item in items)


def start_telling_modules() -> Callable[[Sequence[str]], Iterator[bool]]:
    return tell_modules


def divide(items: Sequence[int]) -> Iterator[float]:
    yield from (1 / item for item in items)


def start_dividing() -> Callable[[Sequence[int]], Iterator[float]]:
    return divide


def forget_the_last(items: Sequence[int]) -> Iterator[int]:
    yield from items[:-1]


def start_forgetting() -> Callable[[Sequence[int]], Iterator[int]]:
    return forget_the_last


def start_without_a_file() -> Callable[[Sequence[int]], Iterator[int]]:
    open("/nowhere/at/all").close()
    return forget_the_last


def start_with_a_crash() -> Callable[[Sequence[int]], Iterator[int]]:
    ctypes.string_at(0)
    return forget_the_last


def crash_before_work(items: Sequence[int]) -> Iterator[int]:
    ctypes.string_at(0)
    return iter(items)


def start_crashing_before_work() -> Callable[[Sequence[int]], Iterator[int]]:
    return crash_before_work


def burn(items: Sequence[int], cpu_seconds: float, result_bytes: int) -> Iterator[bytes]:
    for item in items:
        end = time.thread_time() + cpu_seconds
        while time.thread_time() < end:
            hashlib.sha256(bytes(1000)).digest()
        yield bytes([item % 256]) * result_bytes


def start_burning(
    cpu_seconds: float, result_bytes: int
) -> Callable[[Sequence[int]], Iterator[bytes]]:
    return partial(burn, cpu_seconds=cpu_seconds, result_bytes=result_bytes)


def doze(items: Sequence[int], seconds: float) -> Iterator[int]:
    for item in items:
        time.sleep(seconds)
        yield item


def start_dozing(seconds: float) -> Callable[[Sequence[int]], Iterator[int]]:
    return partial(doze, seconds=seconds)


def hold_a_child_that_spins() -> None:
    """Tell the pid of a child, keep it busy in C, and wait to be killed."""
    worker = IsolatedWorker(start_holding, Limits(200_000_000, 60, 60.0))
    for _, pid in worker.map([["pid"], ["spin"]]):
        print(pid, flush=True)


def hold(items: Sequence[str]) -> Iterator[int]:
    for item in items:
        if item == "spin":
            spin_in_c()
        yield os.getpid()


def start_holding() -> Callable[[Sequence[str]], Iterator[int]]:
    return hold

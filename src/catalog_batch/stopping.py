"""Stopping by Ctrl-C or SIGTERM: an exception where the program is, one that is not lost.

A handler's exception leaves by every ``finally``: locks are released, and the run is logged as
stopped. Raised inside an import it may not come that far: pydantic makes an error of its own of it,
and importlib's callbacks drop it, as finalisers do.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 0.05

_asked: dict[str, int] = {}
"""The exit code that a signal asked for, once its exception was raised. Ray turns that into one of
its own."""


def listen() -> None:
    """Have a signal leave the main thread by ``SystemExit``, with 128 and its number as the code.

    The first one alone, so that nothing disturbs what is tidied up then.
    """
    for number in _NUMBERS:
        signal.signal(number, _stop)
    sys.unraisablehook = _raise_again


@contextmanager
def stoppable() -> Iterator[None]:
    """Leave by the exit code that a signal asked for, whatever its exception has become.

    What follows the block is not disturbed any more: the run's outcome is logged and told.

    Raises:
        SystemExit: With that code.
    """
    try:
        yield
    except BaseException as error:
        # Spark's own handler of Ctrl-C, until its session is there, raises what Python's does.
        code = _asked.get("code", 130 if isinstance(error, KeyboardInterrupt) else None)
        if code is None:
            raise
        raise SystemExit(code) from None
    finally:
        _ignore()


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        _send_again(number)
        return
    _asked["code"] = 128 + number
    _ignore()
    # A module that another thread is still importing has no session yet, and cannot be imported.
    cancel_all_jobs = getattr(sys.modules.get("catalog_batch.spark"), "cancel_all_jobs", None)
    if cancel_all_jobs:
        cancel_all_jobs()
    raise SystemExit(_asked["code"])


def _ignore() -> None:
    for number in _NUMBERS:
        if signal.getsignal(number) is _stop:  # nobody else's, of a program that we are a part of
            signal.signal(number, signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _raise_again(dropped: "sys.UnraisableHookArgs") -> Any:
    """Stop once more when a finaliser dropped the exception; show all others, as Python does."""
    if not (isinstance(dropped.exc_value, SystemExit) and "code" in _asked):
        return sys.__unraisablehook__(dropped)
    listen()
    return _send_again(_asked["code"] - 128)


def _send_again(number: int) -> None:
    again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()

"""A signal's exception is not lost, wherever the program is when it comes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# What a run does with an outcome, without Spark and tables.
_PROGRAM = """
import sys, time
from pathlib import Path
from catalog_batch.stopping import listen, stoppable

def tell(): Path("begun").touch()

listen()
try:
    with stoppable():
        {work}
        for _ in range(200): time.sleep(0.05)
        sys.exit(7)
finally:
    {after}
    time.sleep({tidying})
    Path("tidied").touch()
"""
_IMPORTED = """
import time
from pathlib import Path
try:
    Path("begun").touch()
    for _ in range(20): time.sleep(0.05)
except BaseException as error:
    raise RuntimeError("as pydantic does") from error
"""
_DROPPED = """class Finalised:
            def __del__(self):
                tell()
                time.sleep(1)
        Finalised()"""
_RENAMED = """try:
            tell()
            time.sleep(10)
        except BaseException:
            raise RuntimeError("as Ray does") from None"""


@pytest.mark.parametrize(
    "work", ["import slow", _DROPPED, _RENAMED, "tell()"], ids=["import", "drop", "rename", "plain"]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_by_its_exit_code(
    tmp_path: Path, work: str, number: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(_IMPORTED, encoding="utf-8")
    assert signalled(tmp_path, work, [number]) == 128 + number
    assert (tmp_path / "tidied").exists()


def test_another_handlers_interrupt_has_its_code_too(tmp_path: Path) -> None:
    assert signalled(tmp_path, "tell(); time.sleep(1); raise KeyboardInterrupt", []) == 130


def test_a_second_signal_does_not_disturb_what_is_tidied_up(tmp_path: Path) -> None:
    assert signalled(tmp_path, "tell()", [signal.SIGTERM, signal.SIGINT], tidying=1.0) == 143
    assert (tmp_path / "tidied").exists()


def test_what_follows_the_block_is_not_disturbed(tmp_path: Path) -> None:
    outcome = signalled(tmp_path, "sys.exit(3)", [signal.SIGTERM], tidying=1.0, after="tell()")
    assert outcome == 3
    assert (tmp_path / "tidied").exists()


def signalled(
    folder: Path,
    work: str,
    numbers: list[signal.Signals],
    tidying: float = 0.0,
    after: str = "pass",
) -> int:
    """Run the program, send signals once it says that it has begun, and return its exit code."""
    text = _PROGRAM.format(work=work, tidying=tidying, after=after)
    program = subprocess.Popen(
        [sys.executable, "-c", text], cwd=folder, env={**os.environ, "PYTHONPATH": "."}
    )
    while not (folder / "begun").exists():
        assert program.poll() is None
        time.sleep(0.01)
    for number in numbers:
        time.sleep(0.2)
        program.send_signal(number)
    return program.wait(timeout=30)

"""A process that hangs ends itself and says where; one that works is left alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

from catalog_batch.train.watchdog import EXIT_CODE, STALLED, Watchdog

HANGS = """
import sys, time
from pathlib import Path
from catalog_batch.train.watchdog import Watchdog

def forward():
    time.sleep(60)

with Watchdog(0.5 / 60, Path(sys.argv[1]), "Rank 1 of 2"):
    forward()
"""

WORKS = """
import sys, time
from pathlib import Path
from catalog_batch.train.watchdog import Watchdog

with Watchdog(2 / 60, Path(sys.argv[1]), "Rank 0 of 1") as watchdog:
    for _ in range(30):
        time.sleep(0.1)
        watchdog.alive()
"""


def test_a_process_that_hangs_ends_and_says_where(tmp_path: Path) -> None:
    started = time.monotonic()
    finished = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)], env=dict(os.environ), check=False
    )
    assert finished.returncode == EXIT_CODE
    assert time.monotonic() - started < 30
    text = (tmp_path / STALLED).read_text()
    assert text.startswith("Rank 1 of 2 did nothing for 0.5 seconds, at ")
    assert "(forward)" in text and "raise train.watchdog_minutes" in text


def test_work_that_goes_on_is_not_ended(tmp_path: Path) -> None:
    # In a process of its own, which may end: a busy machine can hold it up for a second.
    finished = subprocess.run(
        [sys.executable, "-c", WORKS, str(tmp_path)], env=dict(os.environ), check=False
    )
    assert finished.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_without_minutes_nothing_is_watched(tmp_path: Path) -> None:
    with Watchdog(0, tmp_path, "Rank 0 of 1"):
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []

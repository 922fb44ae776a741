"""A scheduler that stops a job gets a clean stop (fault 05)."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.commands import BIN, Line, run_command

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


def stop_when(
    is_time: Callable[[], bool], arguments: Sequence[str | Path]
) -> tuple[int, dict[str, object]]:
    """Start a verb, send SIGTERM when it is time, and return exit code and status line."""
    job = subprocess.Popen(
        [BIN / "catalog-batch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not is_time():
        assert job.poll() is None, "the job ended before it could be stopped"
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    return job.returncode, json.loads(output.splitlines()[-1])


def test_a_stopped_ingest_cleans_up_and_the_next_one_completes_it(
    line: Line, tmp_path: Path
) -> None:
    staging = tmp_path / "_staging"
    ingest = ["ingest", line.manifest, "--images", line.images, "--warehouse", tmp_path]
    exit_code, status = stop_when(lambda: staging.is_dir() and any(staging.iterdir()), ingest)
    assert (exit_code, status["status"], status["exit_code"]) == (143, "stopped", 143)
    assert list(staging.iterdir()) == []
    again = run_command(["catalog-batch", *ingest])
    assert again.exit_code == 0, again.errors
    assert again.status["counts"] == line.job("ingest").status["counts"]


def test_a_stopped_training_says_so(line: Line, tmp_path: Path) -> None:
    runs, registry = tmp_path / "runs", tmp_path / "registry"
    small = ["--set=train.weights=none", "--set=train.image_side=64", "--set=train.epochs=50"]
    where = [f"--set=runs={runs}", f"--set=registry={registry}", "--run-name=stopped"]
    events = runs / "stopped" / "events.jsonl"
    exit_code, status = stop_when(
        lambda: events.is_file() and '"epoch"' in events.read_text(encoding="utf-8"),
        ["train", "--warehouse", line.warehouse, *small, *where],
    )
    assert (exit_code, status["status"]) == (143, "stopped")

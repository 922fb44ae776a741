"""A scheduler that stops a job gets a clean stop (fault 05)."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from deltalake import DeltaTable
from tests.commands import BIN, Line, run_command

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


def stop_when(
    is_time: Callable[[], bool],
    arguments: Sequence[str | Path],
    number: signal.Signals = signal.SIGTERM,
) -> tuple[int, dict[str, object]]:
    """Start a verb, send a signal when it is time, and return exit code and status line."""
    job = subprocess.Popen(
        [BIN / "catalog-batch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not is_time():
        assert job.poll() is None, "the job ended before it could be stopped"
        time.sleep(0.05)
    job.send_signal(number)
    output, _ = job.communicate(timeout=60)
    return job.returncode, json.loads(output.splitlines()[-1])


@pytest.mark.parametrize(
    ("number", "stage", "code"),
    [
        (signal.SIGTERM, "rows", 143),
        (signal.SIGINT, "decoded", 130),
        (signal.SIGTERM, "ungrouped", 143),  # while tables are published
    ],
)
def test_a_stopped_ingest_cleans_up_and_the_next_one_completes_it(
    line: Line, tmp_path: Path, number: signal.Signals, stage: str, code: int
) -> None:
    staging = tmp_path / "_staging"
    ingest = ["ingest", line.manifest, "--images", line.images, "--warehouse", tmp_path]
    exit_code, status = stop_when(lambda: any(staging.glob(f"*/{stage}")), ingest, number)
    assert (exit_code, status["status"], status["exit_code"]) == (code, "stopped", code)
    # A worker that is stopped while it decodes may write once more: the next run clears that.
    assert stage == "decoded" or list(staging.iterdir()) == []
    again = run_command(["catalog-batch", *ingest])
    assert again.exit_code == 0, again.errors
    assert list(staging.iterdir()) == []
    counts, whole = again.status["counts"], line.job("ingest").status["counts"]
    # What the stopped run had committed is a duplicate now, or unchanged where it was linked too.
    done = ("ingested", "duplicate", "unchanged")
    assert sum(counts[name] for name in done) == sum(whole[name] for name in done)
    assert {**counts, **dict.fromkeys(done)} == {**whole, **dict.fromkeys(done)}
    rows = ("products", "product_images", "images", "rejected_images", "image_duplicates", "labels")
    for name in rows:
        stopped, other = (
            DeltaTable(f"{root}/{name}").count() for root in (tmp_path, line.warehouse)
        )
        assert stopped == other, name


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

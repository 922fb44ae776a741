"""Training joins a Ray cluster that is running already."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.commands import BIN, Line, run_command

from catalog_batch.evaluate.rows import EVALUATION_TABLES

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
SMALL = ["--set=train.weights=none", "--set=train.image_side=64", "--set=train.epochs=1"]
HEAD = [
    "--node-ip-address=127.0.0.1",
    "--include-dashboard=false",
    "--disable-usage-stats",
    "--num-cpus=2",
    "--object-store-memory=100000000",
]


@pytest.fixture
def ray_address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = subprocess.Popen(
        [BIN / "ray", "start", "--head", "--block", f"--port={port}", *HEAD],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert head.stdout is not None
    for text in head.stdout:
        if "Ray runtime started" in text:
            break
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.communicate(timeout=60)


def test_training_runs_on_a_cluster_given_by_address(
    line: Line, ray_address: str, tmp_path: Path
) -> None:
    for table in ("training_examples", "models", "promotions", "run_log", *EVALUATION_TABLES):
        shutil.copytree(line.warehouse / table, tmp_path / table)
    # Its registry is begun anew, and there another model has to have another name.
    where = [f"--set=train.ray_address={ray_address}", "--set=train.model_name=clustered"]
    finished = run_command(["catalog-batch", "train", "--warehouse", tmp_path, *SMALL, *where])
    assert finished.exit_code == 0, finished.errors
    assert finished.status["alias"] == "champion"

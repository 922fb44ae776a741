"""Training joins a Ray cluster that is running already: by its address, and as a job of it."""

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.commands import BIN, ROOT, Line, run_command

from catalog_batch.evaluate.rows import EVALUATION_TABLES

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
SMALL = ["--set=train.weights=none", "--set=train.image_side=64", "--set=train.epochs=1"]
HEAD = [
    "--node-ip-address=127.0.0.1",
    # Its server takes jobs.
    "--include-dashboard=true",
    "--dashboard-host=127.0.0.1",
    "--disable-usage-stats",
    "--num-cpus=2",
    "--object-store-memory=100000000",
]


@dataclass(frozen=True)
class Cluster:
    """A cluster of one node on this machine."""

    address: str
    dashboard: str
    folder: Path
    """Where its processes log."""

    def workers_of_training(self) -> list[Path]:
        """Return the logs of the processes that trained on it."""
        return list(self.folder.glob("session_2*/logs/train/ray-train-app-worker-*.log"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    port, dashboard = free_port(), free_port()
    # A short path: sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", *HEAD, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert head.stdout is not None
        for text in head.stdout:
            if "Ray runtime started" in text:
                break
        yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", Path(folder))
        head.terminate()
        head.communicate(timeout=60)


@pytest.fixture
def warehouse(line: Line, tmp_path: Path) -> Path:
    """Copy what training reads and fills; its registry is begun anew."""
    for table in ("training_examples", "models", "promotions", "run_log", *EVALUATION_TABLES):
        shutil.copytree(line.warehouse / table, tmp_path / table)
    return tmp_path


def test_training_runs_on_a_cluster_given_by_address(warehouse: Path, cluster: Cluster) -> None:
    # In a registry that lacks the warehouse's model another one has to have another name.
    where = [f"--set=train.ray_address={cluster.address}", "--set=train.model_name=clustered"]
    finished = run_command(["catalog-batch", "train", "--warehouse", warehouse, *SMALL, *where])
    assert finished.exit_code == 0, finished.errors
    assert finished.status["alias"] == "champion"
    assert cluster.workers_of_training()


def test_training_is_a_job_that_a_cluster_is_given(warehouse: Path, cluster: Cluster) -> None:
    before = cluster.workers_of_training()
    where = ["--set=train.ray_address=auto", "--set=train.model_name=submitted"]
    train = ["jobs/train_classifier.py", "--warehouse", warehouse, *SMALL, *where]
    submit = ["ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", "jobs"]
    finished = run_command([*submit, "--", sys.executable, ROOT / train[0], *train[1:]])
    assert finished.exit_code == 0, finished.output + finished.errors
    assert '"alias": "champion"' in finished.output
    assert len(cluster.workers_of_training()) > len(before)

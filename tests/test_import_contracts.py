"""The import contracts hold, and would notice if they did not."""

import shutil
import sys
from pathlib import Path

import pytest
from tests.commands import ROOT, run_command

LINT = Path(sys.executable).parent / "lint-imports"


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("ingest/sources.py", "import torch\n", "Ingest needs no torch"),
        ("train/loop.py", "import ray\n", "The model and its loop are plain PyTorch"),
        ("evaluate/metrics.py", "import pyarrow\n", "Evaluation reads arrays"),
        ("train/worker.py", "import pyspark\n", "A Ray worker needs no JVM"),
        ("train/worker.py", "import wandb\n", "Trackers are imported in train.tracking alone"),
        ("score/udf.py", "import petastorm\n", "A Spark executor needs no Ray"),
        ("ingest/pipeline.py", "import catalog_batch.score.pipeline\n", "Stages meet only"),
    ],
)
def test_a_violated_contract_fails_the_check(
    module: str, line: str, contract: str, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "src" / "catalog_batch" / module
    target.write_text(line + target.read_text(encoding="utf-8"), encoding="utf-8")
    finished = run_command([LINT, "--no-cache"], cwd=tmp_path, PYTHONPATH=str(tmp_path / "src"))
    broken = [row for row in finished.output.splitlines() if row.endswith("BROKEN")]
    assert finished.exit_code == 1
    assert any(contract in row for row in broken), finished.output

"""Every notebook runs from its first cell to its last."""

import sys
from pathlib import Path

import pytest
from tests.commands import ROOT, Line, run_command

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
NBMAKE = [sys.executable, "-m", "pytest", "--nbmake", "-q", "--override-ini=addopts="]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(notebook: Path, line: Line) -> None:
    finished = run_command([*NBMAKE, notebook], CATALOG_BATCH__WAREHOUSE=str(line.warehouse))
    assert finished.exit_code == 0, finished.output

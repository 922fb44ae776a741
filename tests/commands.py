"""Run the commands of the virtual environment as a user would."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and what it printed."""

    exit_code: int
    output: str
    errors: str

    @property
    def status(self) -> dict[str, object]:
        """The status line: the last line of standard output."""
        status: dict[str, object] = json.loads(self.output.strip().splitlines()[-1])
        return status


def run_command(arguments: Sequence[str | Path], cwd: Path = ROOT, **variables: str) -> Finished:
    """Run a command of the virtual environment as a user would."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
    finished = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


@dataclass(frozen=True)
class Line:
    """The whole line, run once: where it is, and how each job ended."""

    folder: Path
    jobs: dict[str, Finished]

    @property
    def warehouse(self) -> str:
        return str(self.folder / "warehouse")

    @property
    def manifest(self) -> str:
        return str(self.folder / "catalogue" / "manifest.csv")

    @property
    def images(self) -> str:
        return str(self.folder / "catalogue" / "images")

    def run(self, *arguments: str) -> Finished:
        """Run a verb on this warehouse."""
        return run_command(["catalog-batch", *arguments, "--warehouse", self.warehouse])

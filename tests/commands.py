"""Run the commands of the virtual environment as a user would."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Finished:
    """A command that ended: what it was, its exit code and what it printed."""

    command: str
    exit_code: int
    output: str
    errors: str

    @property
    def status(self) -> dict[str, Any]:
        """The status line: the last line of standard output."""
        status: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return status


def run_command(arguments: Sequence[str | Path], cwd: Path = ROOT, **variables: str) -> Finished:
    """Run a command of the virtual environment as a user would."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables}
    finished = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    command = " ".join(map(str, arguments))
    return Finished(command, finished.returncode, finished.stdout, finished.stderr)


@dataclass(frozen=True)
class Line:
    """The whole line, run once: where it is, and the commands that made it."""

    folder: Path
    commands: list[Finished]

    @property
    def warehouse(self) -> Path:
        """The folder of its tables."""
        return self.folder / "warehouse"

    @property
    def manifest(self) -> Path:
        """The manifest it was made from."""
        return self.folder / "catalogue" / "manifest.csv"

    @property
    def images(self) -> Path:
        """The folder of the source images."""
        return self.folder / "catalogue" / "images"

    def job(self, verb: str) -> Finished:
        """Return how a verb of the console command ended the first time."""
        return next(
            command
            for command in self.commands
            if command.command.startswith(f"catalog-batch {verb}")
        )

    def run(self, *arguments: str) -> Finished:
        """Run a verb on this warehouse."""
        return run_command(["catalog-batch", *arguments, "--warehouse", str(self.warehouse)])

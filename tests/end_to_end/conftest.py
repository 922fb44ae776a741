"""A small warehouse for all end-to-end tests, made by the commands of the README as written."""

import pickle
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.commands import ROOT, Finished, Line, run_command

from catalog_batch.ledger import held_lock

_COMMAND = re.compile(
    r"^\$ (?P<command>.+?)(\s+# exit code (?P<code>\d+))?$\n(?P<shown>(?:^(?!\$ ).*\n)*)",
    re.MULTILINE,
)


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Line:
    """Run the README's commands once, in one of pytest's processes; each works on its own copy."""
    own = tmp_path_factory.getbasetemp()
    common = own if worker_id == "master" else own.parent
    made = common / "line.pickle"
    with held_lock(common / "line.lock", wait=True):
        if not made.exists():
            folder = tmp_path_factory.mktemp("made")
            made.write_bytes(pickle.dumps(Line(folder, run_commands_of_readme(folder))))
    line: Line = pickle.loads(made.read_bytes())
    return replace(line, folder=shutil.copytree(line.folder, own / "line", symlinks=True))


def run_commands_of_readme(folder: Path) -> list[Finished]:
    for name in ("conf", "jobs"):
        (folder / name).symlink_to(ROOT / name)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("```console\n")[1].split("```")[0]
    commands = []
    for match in _COMMAND.finditer(block):
        finished = run_command(shlex.split(match["command"]), cwd=folder)
        assert finished.exit_code == int(match["code"] or 0), finished
        # What the README shows of the output; a … stands for what differs from run to run.
        shown = ".*".join(map(re.escape, match["shown"].strip().split("…")))
        assert re.search(shown, finished.output), (shown, finished.output)
        commands.append(finished)
    return commands

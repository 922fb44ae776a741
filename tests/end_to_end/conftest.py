"""A small warehouse for all end-to-end tests, made by the commands of the README as written."""

import re
import shlex
from pathlib import Path

import pytest
from tests.commands import ROOT, Line, run_command

_COMMAND = re.compile(
    r"^\$ (?P<command>.+?)(\s+# exit code (?P<code>\d+))?$\n(?P<shown>(?:^(?!\$ ).*\n)*)",
    re.MULTILINE,
)


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder = tmp_path_factory.mktemp("line")
    for name in ("conf", "jobs"):
        (folder / name).symlink_to(ROOT / name)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("```console\n")[1].split("```")[0]
    line = Line(folder, [])
    for match in _COMMAND.finditer(block):
        finished = run_command(shlex.split(match["command"]), cwd=Path(folder))
        assert finished.exit_code == int(match["code"] or 0), finished
        # What the README shows of the output; a … stands for what differs from run to run.
        shown = ".*".join(map(re.escape, match["shown"].strip().split("…")))
        assert re.search(shown, finished.output), (shown, finished.output)
        line.commands.append(finished)
    return line

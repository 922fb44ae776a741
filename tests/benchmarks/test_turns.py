"""Commands in turns: one runs, the others stand still, and each has its own time."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.commands import Finished
from benchmarks.processes import processes_of
from benchmarks.turns import run_in_turns
from tests.commands import ROOT

LOGS_TIMES = """
import json, subprocess, sys, time
log, seconds, child = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
started = child and subprocess.Popen([sys.executable, __file__, *child])
with open(log, "w") as file:
    while time.process_time() < seconds:
        file.write(f"{time.time()!r}\\n")
if started:
    started.wait()
print(json.dumps({"seconds": seconds}))
"""
WAITS = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
FAILS = """
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
raise ValueError(17)
"""
STARTS_MANY = """
import json, subprocess, sys
for _ in range(100):
    subprocess.run(["sh", "-c", 'date +%s.%N >> "$0"', sys.argv[1]])
print(json.dumps({"ended": True}))
"""


def command(program: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


@pytest.fixture
def logs_times(tmp_path: Path) -> Path:
    path = tmp_path / "logs_times.py"
    path.write_text(LOGS_TIMES, encoding="utf-8")
    return path


def times_in(log: Path) -> list[float]:
    return [float(line) for line in log.read_text(encoding="utf-8").splitlines()]


def stood_still(run: Finished, log: Path) -> bool:
    """Return whether what logs times did so before and after a pause, and in none."""
    seen = times_in(log)
    paused = any(seen[0] < since < until < seen[-1] for since, until in run.pauses)
    broken = [at for at in seen if any(since < at < until for since, until in run.pauses)]
    return paused and not broken


def test_a_command_and_its_children_stand_still_while_another_has_its_turn(
    logs_times: Path, tmp_path: Path
) -> None:
    logs = [str(tmp_path / name) for name in ("one", "child", "other")]
    one = [sys.executable, str(logs_times), logs[0], "0.5", logs[1], "0.5"]
    other = [sys.executable, str(logs_times), logs[2], "1"]
    began = time.monotonic()
    first, second = run_in_turns([one, other], turn_seconds=0.1)
    elapsed = time.monotonic() - began
    assert (first.status["seconds"], second.status["seconds"]) == (0.5, 1)
    for finished, log in ((first, logs[0]), (first, logs[1]), (second, logs[2])):
        assert stood_still(finished, Path(log))
    assert first.seconds >= 0.5
    assert second.seconds >= 1
    assert first.seconds + second.seconds <= elapsed
    assert second.cpu_seconds >= 1


def test_the_time_of_a_command_is_without_its_pauses() -> None:
    pauses = ((102.0, 110.0), (112.0, 120.0))
    run = Finished(6.0, 6.0, 1.0, {}, {}, started_at=100.0, pauses=pauses)
    assert run.seconds_until(101.0) == 1.0
    assert run.seconds_until(111.0) == 3.0
    assert run.seconds_until(115.0) == 4.0
    assert run.seconds_until(122.0) == 6.0


def test_a_command_that_starts_processes_all_the_time_is_stopped_with_them(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "other"]
    runs = run_in_turns([command(STARTS_MANY, log) for log in logs], turn_seconds=0.05)
    for run, log in zip(runs, logs, strict=True):
        assert run.status == {"ended": True}
        assert stood_still(run, log)


def test_when_a_command_fails_the_others_are_killed(tmp_path: Path) -> None:
    told = tmp_path / "session"
    with pytest.raises(SystemExit, match="ValueError: 17"):
        run_in_turns([command(WAITS, told), command(FAILS, told)], turn_seconds=0.2)
    assert is_gone(told)


def test_a_benchmark_that_is_terminated_leaves_nothing_stopped(tmp_path: Path) -> None:
    told = [tmp_path / "one", tmp_path / "other"]
    commands = [command(WAITS, each) for each in told]
    program = f"from benchmarks.turns import run_in_turns; run_in_turns({commands!r}, 0.2)"
    benchmark = subprocess.Popen(command(program), cwd=ROOT)
    try:
        while not all(each.exists() for each in told):
            assert benchmark.poll() is None
            time.sleep(0.05)
    finally:
        while benchmark.poll() is None:  # As shells do, which send a signal to all they started.
            benchmark.send_signal(signal.SIGTERM)
            time.sleep(0.001)
    # The latter when another one came after all had been ended.
    assert benchmark.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert all(map(is_gone, told))


def is_gone(told: Path) -> bool:
    session = int(told.read_text(encoding="utf-8"))
    return all(process.has_ended for process, _ in processes_of(session))

"""What the profile of scoring is computed from: threads looked at, and Spark's log of tasks."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.commands import run_command
from benchmarks.scoring.profile import (
    PHASES,
    SPENDERS,
    STAGES,
    TASKS,
    WORKERS,
    Night,
    Size,
    Timeline,
    cpu_of_stages,
    page_of,
)

BUSY_FOR_A_WHILE = """
import time
end = time.process_time() + 0.5
while time.process_time() < end: pass
print("{}")
"""


def test_the_time_of_a_session_is_seen_as_its_driver_s() -> None:
    seen = Timeline()
    run_command([sys.executable, "-c", BUSY_FOR_A_WHILE], 0.05, seen.look)
    last = seen.totals[-1]
    assert set(last) <= set(SPENDERS)
    assert last["Python driver"] > 0.4
    assert seen.spent_until(seen.times[0] - 1) == {}
    assert seen.spent_until(seen.times[-1]) == last


def test_workers_are_busy_until_they_no_longer_spend_a_third_of_the_time() -> None:
    spent = [0.0, 0.2, 0.4, 0.41, 0.42]
    seen = Timeline(
        times=[10.0, 10.25, 10.5, 10.75, 11.0],
        totals=[Counter({WORKERS: seconds, TASKS: 1.0}) for seconds in spent],
    )
    assert seen.last_busy() == 10.5


def event(stage: int, cpu_seconds: float, run_seconds: float) -> str:
    metrics = {
        "Executor CPU Time": int(cpu_seconds * 1e9),
        "Executor Deserialize CPU Time": 0,
        "Executor Run Time": int(run_seconds * 1e3),
    }
    event = {"Event": "SparkListenerTaskEnd", "Stage ID": stage, "Task Metrics": metrics}
    return json.dumps(event) + "\n"


def test_the_stage_that_waits_for_python_is_told_from_the_one_before_it(tmp_path: Path) -> None:
    log = tmp_path / "events"
    others = json.dumps({"Event": "SparkListenerApplicationEnd"}) + "\n"
    tasks = [event(1, 1, 1), event(4, 0.25, 1), event(5, 0.5, 40), event(5, 0.5, 41)]
    log.write_text("".join([*tasks, event(7, 2, 3), others]), encoding="utf-8")
    assert cpu_of_stages(log) == dict(zip(STAGES, (0.25, 1.0, 3.0), strict=True))


def night(seconds: float) -> Night:
    return Night(
        clock=dict.fromkeys(PHASES, seconds),
        cpu={phase: Counter({TASKS: seconds / 2}) for phase in PHASES},
        stages=dict.fromkeys(STAGES, seconds / 4),
    )


def test_the_page_has_the_medians_and_what_an_image_more_takes() -> None:
    few, many = ([night(s) for s in seconds] for seconds in ((4.0, 5.0, 9.0), (25.0, 20.0, 7.0)))
    page = page_of(Size(100, 1100, 3), few, many)
    assert "| **after**, by the clock | 5.00 | 20.00 | 15.00 |" in page
    assert f"| CPU: {TASKS} | 2.50 | 10.00 | 7.50 |" in page
    assert f"| CPU: {WORKERS} | 0.00 | 0.00 | 0.00 |" in page
    assert f"| {STAGES[0]} | 1.25 | 5.00 | 3.75 |" in page


def test_without_workers_at_work_there_is_no_end_of_it() -> None:
    with pytest.raises(ValueError, match="empty"):
        Timeline(times=[1.0, 2.0], totals=[Counter(), Counter()]).last_busy()

"""The verbs as a user runs them: exit codes, the status line, the row of ``run_log``."""

import sys
from pathlib import Path

import pytest
from tests.commands import ROOT, Finished, run_command
from tests.promotion.shop import Shop

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

LAX = [
    "--set=promote.min_accuracy=0.5",
    "--set=promote.max_class_loss=1",
    "--set=promote.max_calibration_error=0.5",
    "--set=promote.min_test_rows=1",
]


def run_script(shop: Shop, script: str, *arguments: str) -> Finished:
    command: list[str | Path] = [sys.executable, ROOT / "jobs" / script, *arguments]
    return run_command([*command, "--warehouse", str(shop.root)])


def test_refuse_promote_and_roll_back(shop: Shop) -> None:
    refused = run_script(shop, "promote_model.py", *LAX, "--set=promote.min_improvement=0.5")
    assert refused.exit_code == 30, refused.errors
    assert (
        "GateRefusedError: catalogue/2 is not promoted: promote.min_improvement" in refused.errors
    )
    assert (refused.status["status"], refused.status["counts"]["checks_failed"]) == ("refused", 1)
    promoted = run_script(shop, "promote_model.py", "catalogue/2", *LAX)
    assert promoted.exit_code == 0, promoted.errors
    assert promoted.status["model"] == "catalogue/2"
    assert promoted.status["checks"][0] == {
        "name": "min_accuracy",
        "bound": 0.5,
        "champion": 0.375,
        "challenger": 0.5,
        "passed": True,
        "rows": 8,
    }
    rolled_back = run_script(shop, "roll_back_model.py")
    assert rolled_back.exit_code == 0, rolled_back.errors
    assert shop.aliases() == {"champion": 1}
    logged = [(row["job"], row["exit_code"]) for row in shop.read("run_log")]
    assert logged == [("promote", 30), ("promote", 0), ("rollback", 0)]

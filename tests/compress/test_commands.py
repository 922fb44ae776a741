"""The verb as a user runs it: exit codes, the status line, the rows that it leaves."""

import sys

import pytest
from tests.commands import ROOT, run_command
from tests.promotion.shop import Shop

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]
SCRIPT = [sys.executable, ROOT / "jobs" / "optimise_model.py"]
# Within every bound but that of speed, which nothing passes: no test hangs on a machine's.
TRY = ["--set=optimise.variants=onnx-fp32,torch-folded", "--set=optimise.min_speed_up=1000"]


def test_nothing_worth_keeping_exits_with_10_and_is_told(shop: Shop) -> None:
    tried = run_command([*SCRIPT, "catalogue@champion", *TRY, "--warehouse", str(shop.root)])
    assert tried.exit_code == 10, tried.errors
    assert (tried.status["model"], tried.status["registered"]) == ("catalogue/1", "none")
    assert tried.status["counts"]["variants_not_fastest"] == 2
    assert [row["verdict"] for row in tried.status["variants"]] == [
        "reference",
        "not_fastest",
        "not_fastest",
    ]
    rows = {row["variant"]: row for row in shop.read("model_variants")}
    assert rows.keys() == {"torch-fp32", "onnx-fp32", "torch-folded"}
    assert all(row["agreement"] == 1.0 for row in rows.values())
    assert [(row["job"], row["exit_code"]) for row in shop.read("run_log")] == [("optimise", 10)]


def test_a_setting_that_names_no_variant_is_refused_at_once(shop: Shop) -> None:
    refused = run_command(
        [*SCRIPT, "--set=optimise.variants=onnx-int4", "--warehouse", str(shop.root)]
    )
    assert refused.exit_code == 20
    assert "optimise.variants" in refused.errors and "onnx-int8" in refused.errors

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from tests.compress.shop import spec_of_trained

from catalog_batch.compress import trials
from catalog_batch.compress.findings import Verdict, findings_table, judge
from catalog_batch.compress.trials import Trial
from catalog_batch.config import OptimiseSettings
from catalog_batch.modeling.variants import AS_TRAINED

BOUNDS = OptimiseSettings(min_agreement=0.99, max_accuracy_loss=0.01, min_speed_up=1.2)
REFERENCE = Trial("torch-fp32", 10.0, 1.0, 0.8, 0.7, 1000)


NAMES = ["torch-fp32", "onnx-int8", "torch-bf16"]


def verdicts(*shown: Trial, **problems: str) -> dict[str, Verdict]:
    found = judge([REFERENCE, *shown], problems, BOUNDS)
    return {finding.variant: finding.verdict for finding in found}


def test_the_fastest_within_the_bounds_is_kept() -> None:
    found = verdicts(
        Trial("onnx-fp32", 15.0, 1.0, 0.8, 0.7, 1000),
        Trial("openvino-fp32", 18.0, 0.99, 0.795, 0.7, 1000),
        Trial("onnx-int8", 40.0, 0.98, 0.81, 0.7, 1000),
        **{"torch-bf16": "RuntimeError: no"},
    )
    assert found == {
        "torch-fp32": Verdict.REFERENCE,
        "onnx-fp32": Verdict.NOT_FASTEST,
        "openvino-fp32": Verdict.KEPT,
        "onnx-int8": Verdict.REFUSED,
        "torch-bf16": Verdict.NOT_MADE,
    }


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        (Trial("onnx-int8", 40.0, 0.98, 0.81, 0.7, 1000), "agreement 0.9800 is below 0.99"),
        (
            Trial("onnx-int8", 40.0, 1.0, 0.78, 0.7, 1000),
            "accuracy falls by 0.0200, more than 0.01",
        ),
        (Trial("onnx-int8", 40.0, 1.0, 0.9, 0.7, 96), "far too slow, and stopped after 96 images"),
        (
            Trial("onnx-int8", 40.0, 1.0, 0.8, 0.67, 1000),
            "accepted changes by -0.0300, more than 0.02",
        ),
        (
            Trial("onnx-int8", 40.0, 1.0, 0.8, 0.73, 1000),
            "accepted changes by +0.0300, more than 0.02",
        ),
    ],
)
def test_a_refusal_names_the_bound_and_the_figure(trial: Trial, reason: str) -> None:
    [_, finding] = judge([REFERENCE, trial], {}, BOUNDS)
    assert (finding.verdict, finding.speed_up) == (Verdict.REFUSED, 4.0)
    assert reason in finding.reason


def test_a_bound_itself_is_within_it() -> None:
    bounds = OptimiseSettings(min_agreement=0.995, max_accuracy_loss=0.003)
    trials = [
        Trial(AS_TRAINED, 10.0, 1.0, 0.9, 0.7, 1000),
        Trial("onnx-int8", 40.0, 0.995, 0.897, 0.7, 1000),
    ]
    assert 0.9 - 0.897 > 0.003  # in floating point
    assert judge(trials, {}, bounds)[1].verdict == Verdict.KEPT


def test_what_is_hardly_faster_is_not_worth_a_version() -> None:
    assert (
        verdicts(Trial("onnx-fp32", 11.9, 1.0, 0.8, 0.7, 1000))["onnx-fp32"] == Verdict.NOT_FASTEST
    )
    assert verdicts(Trial("onnx-fp32", 12.0, 1.0, 0.8, 0.7, 1000))["onnx-fp32"] == Verdict.KEPT
    assert verdicts() == {"torch-fp32": Verdict.REFERENCE}


def test_the_table_has_a_line_for_each_variant() -> None:
    findings = judge(
        [REFERENCE, Trial("onnx-int8", 40.0, 0.98, 0.81, 0.7, 1000)],
        {"torch-bf16": "no [kernel]"},
        BOUNDS,
    )
    page = io.StringIO()
    Console(file=page, width=160).print(findings_table(findings))
    lines = [line for line in page.getvalue().splitlines() if "torch" in line or "onnx" in line]
    assert [name in line for name, line in zip(NAMES, lines, strict=True)] == [True] * 3
    assert "4.00" in lines[1] and "below 0.99" in lines[1] and "no [kernel]" in lines[2]


def test_a_variant_that_was_stopped_stays_so_when_the_others_slow_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = iter([10.0, 30.0])
    monkeypatch.setattr(trials, "LOOKED_AT", 0)
    monkeypatch.setattr(
        trials._Contestant, "images_per_second", property(lambda _: next(speeds, 10.0))
    )
    slow, reference = (trials._Contestant(None, 0.5) for _ in range(2))  # type: ignore[arg-type]
    assert not slow.goes_on(reference)  # 10 a second beside 30
    assert not slow.goes_on(reference)  # 10 beside 10
    assert reference.goes_on(reference)


def test_a_picture_is_accepted_by_the_threshold_of_its_category_and_by_its_energy() -> None:
    first = spec_of_trained().classes[0].category_id
    spec = replace(spec_of_trained(), temperature=2.0, thresholds={first: 0.9}, energy_limit=-4.0)
    logits = np.array(
        [
            [8, -40, -40],  # as sure as can be
            [8, 5, -40],  # 0.82 of the first, which must reach 0.9
            [5, 8, -40],  # 0.82 of the second, which has no threshold
            [3.9, -40, -40],  # sure, and unlike the pictures of training
        ],
        dtype=np.float32,
    )
    assert trials._are_accepted(logits, spec, 0.5) == [True, False, True, False]
    assert trials._are_accepted(logits, spec, 0.83) == [True, False, False, False]
    anything = replace(spec, energy_limit=None)
    assert trials._are_accepted(logits, anything, 0.5) == [True, False, True, True]

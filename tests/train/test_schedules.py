"""Schedules as functions of the step, against torch's schedulers where these have the same."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau

from catalog_batch.train.schedules import cycle_momentum, plateau_factor, rate_factor


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)


def test_one_cycle_has_the_rates_and_the_momentum_of_torchs() -> None:
    optimizer = sgd()
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=23)
    for step in range(23):
        group = optimizer.param_groups[0]
        assert rate_factor("one_cycle", step, 23) == pytest.approx(group["lr"])
        assert cycle_momentum(step, 23) == pytest.approx(group["momentum"])
        optimizer.step()
        if step < 22:
            scheduler.step()


def test_cosine_has_the_rates_of_torchs_and_ends_at_0() -> None:
    optimizer = sgd()
    scheduler = CosineAnnealingLR(optimizer, T_max=10)
    for step in range(11):
        assert rate_factor("cosine", step, 10) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rate_factor("cosine", 10, 10) == 0
    assert rate_factor("cosine", 12, 10) == 0


def test_a_warm_up_rises_in_a_line_from_near_0_and_the_schedule_follows_it() -> None:
    constant = [rate_factor("constant", step, 12, warmup_steps=4) for step in range(6)]
    assert constant == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = [rate_factor("cosine", step, 12, warmup_steps=4) for step in (0, 4, 8, 12)]
    assert cosine == pytest.approx([0.25, 1, 0.5, 0])


def test_the_only_step_of_one_cycle_is_its_peak() -> None:
    assert rate_factor("one_cycle", 0, 1) == 1


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_short_runs_have_rates_too(schedule: str, steps: int) -> None:
    rates = [rate_factor(schedule, step, steps) for step in range(steps + 1)]  # type: ignore[arg-type]
    assert all(0 <= rate <= 1 for rate in rates)


def test_a_plateau_cuts_the_rate_as_torchs_does() -> None:
    losses = [3.0, 2.0, 2.0, 2.5, 1.9, 1.95, 1.9, 1.91, 1.92, 1.0, 1.1]
    optimizer = sgd()
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=1, threshold=0)
    for epochs in range(1, len(losses) + 1):
        scheduler.step(losses[epochs - 1])
        assert plateau_factor(losses[:epochs]) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert plateau_factor(losses) == pytest.approx(1e-3)

"""Learning rates as functions of the step.

A function of the step has no state: a run that is resumed, on another number of ranks perhaps
and so with other steps per epoch, goes on at the same point of its schedule. Torch's schedulers
save their counts and would not.
"""

import math
from collections.abc import Iterable
from typing import Literal

ScheduleName = Literal["constant", "cosine", "one_cycle", "plateau"]

PLATEAU_EPOCHS = 2
PLATEAU_CUT = 0.1

# The figures of torch's OneCycleLR, after Smith and Topin 2017.
RISING_SHARE = 0.3
FIRST_RATE = 1 / 25
LAST_RATE = FIRST_RATE / 10_000
HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85


def rate_factor(schedule: ScheduleName, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Return the learning rate of a step as a share of the peak.

    Args:
        schedule: ``plateau`` is constant here; ``plateau_factor`` cuts it.
        step: From 0; past the last one the schedule stays where it ended.
        steps: Of the whole run.
        warmup_steps: Steps over which the rate rises in a line; not used by ``one_cycle``.
    """
    if schedule == "one_cycle":
        rising, share = _place_in_cycle(step, steps)
        return _cosine(FIRST_RATE, 1, share) if rising else _cosine(1, LAST_RATE, share)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "cosine":
        return _cosine(1, 0, (step - warmup_steps) / max(steps - warmup_steps, 1))
    return 1.0


def cycle_momentum(step: int, steps: int) -> float:
    """Return the momentum of a step of ``one_cycle``: low where the rate is high."""
    rising, share = _place_in_cycle(step, steps)
    ends = (HIGH_MOMENTUM, LOW_MOMENTUM) if rising else (LOW_MOMENTUM, HIGH_MOMENTUM)
    return _cosine(*ends, share)


def plateau_factor(losses: Iterable[float]) -> float:
    """Return what validation losses, epoch by epoch, have left of the rate.

    It is cut to a tenth when the loss has not fallen below its best for 2 epochs, and again when
    it has not for 2 more.
    """
    factor, best, waited = 1.0, math.inf, 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == PLATEAU_EPOCHS:
            factor, waited = factor * PLATEAU_CUT, 0
    return factor


def _place_in_cycle(step: int, steps: int) -> tuple[bool, float]:
    """Tell whether the rate is rising, and how far along the rise, or the fall, the step is."""
    if steps == 1:
        return True, 1.0  # Its end would be all that there is.
    peak = RISING_SHARE * steps - 1
    if step <= peak:
        return True, step / peak
    return False, (step - peak) / (steps - 1 - peak)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2

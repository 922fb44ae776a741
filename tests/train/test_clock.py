"""Ranks whose own clocks differ save after the same step, seldom asking each other."""

import torch
from torch import Tensor

from catalog_batch.train.clock import CheckpointClock

CPU = torch.device("cpu")


class Ranks:
    """Two ranks whose steps take as long as is said; the sums are the leading one's answers."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 0.0
        self.looks = 0
        self.answer = torch.zeros(2, dtype=torch.int64)
        self.leading = CheckpointClock(minutes, True, CPU, self.told, lambda: self.seconds)
        self.other = CheckpointClock(
            minutes, False, CPU, lambda own: own + self.answer, lambda: 9.0
        )

    def told(self, own: Tensor) -> Tensor:
        self.looks += 1
        self.answer = own
        return own

    def step(self, seconds: float) -> bool:
        self.seconds += seconds
        due = self.leading.is_due()
        assert self.other.is_due() == due
        if due:
            self.leading.restart()
            self.other.restart()
        return due


def test_all_ranks_save_after_the_same_step_when_the_minutes_are_over() -> None:
    ranks = Ranks(minutes=10)
    due = [step for step in range(1, 3001) if ranks.step(0.5)]
    assert due == [1200, 2400]
    assert ranks.looks < 100


def test_steps_that_become_slow_do_not_put_a_checkpoint_off_for_long() -> None:
    ranks = Ranks(minutes=10)
    while not ranks.step(0.001 if ranks.seconds < 0.01 else 2.0):
        pass
    assert 600 <= ranks.seconds < 640


def test_without_minutes_nothing_is_due_and_nobody_asked() -> None:
    ranks = Ranks(minutes=0)
    assert not any(ranks.step(1e6) for _ in range(20))
    assert ranks.looks == 0

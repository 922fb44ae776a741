"""When to save within an epoch: one rank's clock decides, and all save after the same step."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor


class CheckpointClock:
    """Says after which steps a checkpoint is due.

    Asking the leading rank after each step would make all wait for each other, and a GPU for its
    CPU. So the ranks count steps, and when they look at the leading rank's clock it also says how
    many steps later the next look is: a quarter of those that are likely left, and at most twice
    as many as since the last, since the first steps on a GPU are only waiting in line.
    """

    def __init__(
        self,
        minutes: float,
        leads: bool,
        device: torch.device,
        reduce_sum: Callable[[Tensor], Tensor],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            minutes: Between checkpoints; 0 for none. The same on all ranks.
            leads: Whether this rank's clock is the one that counts.
            device: Of the tensors that ``reduce_sum`` takes.
            reduce_sum: Returns a tensor's sum over the ranks.
            now: Seconds, of any beginning.
        """
        self._seconds = 60 * minutes
        self._leads = leads
        self._device = device
        self._reduce_sum = reduce_sum
        self._now = now
        self.restart()

    def restart(self) -> None:
        """Begin anew, after a checkpoint: on all ranks after the same step."""
        self._started = self._looked = self._now()
        self._steps, self._next_look = 0, 1

    def is_due(self) -> bool:
        """Say whether a checkpoint is due: call it after each step, on all ranks."""
        if not self._seconds:
            return False
        self._steps += 1
        if self._steps < self._next_look:
            return False
        answer = self._look() if self._leads else (0, 0)
        told = self._reduce_sum(torch.tensor(answer, device=self._device)).tolist()
        self._steps, self._next_look = 0, told[1]
        return bool(told[0])

    def _look(self) -> tuple[int, int]:
        """Say whether a checkpoint is due, and after how many steps to look again."""
        now = self._now()
        seconds_a_step = max((now - self._looked) / self._steps, 1e-6)
        left = self._started + self._seconds - now
        self._looked = now
        likely = math.floor(left / seconds_a_step / 4)
        return int(left <= 0), max(1, min(likely, 2 * self._steps))

"""What a session's processes use while they run, by looks at ``/proc``."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.processes import DRIVER, kib_of, processes_of

_ENDS_WITHIN = 30.0
"""Seconds that processes of a command have to end after it."""


@dataclass
class Watch:
    """What has been seen of a session's processes so far."""

    session: int
    cpu: dict[int, float] = field(default_factory=dict)
    peak_kib: int = 0
    peak_kib_by_role: dict[str, int] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)

    def sample(self) -> bool:
        """Look at each process once; return whether any is left."""
        members = processes_of(self.session)
        total = 0
        for process, role in members:
            self.cpu[process.pid] = process.cpu_seconds
            total += kib_of(process.pid, "smaps_rollup", "Pss")
            kept = self._kept_role(process.pid, role)
            peak = kib_of(process.pid, "status", "VmHWM")
            self.peak_kib_by_role[kept] = max(peak, self.peak_kib_by_role.get(kept, 0))
        self.peak_kib = max(self.peak_kib, total)
        return bool(members)

    def sample_until(
        self,
        ended: threading.Event,
        interval: float,
        look: Callable[[int], None] = lambda session: None,
    ) -> None:
        """Sample until the command has ended and nothing of its session is left.

        Args:
            ended: Set when the command has; what is left of it has some seconds more.
            interval: Seconds between two looks.
            look: Called each time with the session's id.
        """
        gone_by = float("inf")
        while self.sample() and time.monotonic() < gone_by:
            look(self.session)
            if ended.wait(interval) and gone_by == float("inf"):
                gone_by = time.monotonic() + _ENDS_WITHIN
            elif ended.is_set():
                time.sleep(interval)

    def cpu_by_role(self) -> dict[str, float]:
        """Return the CPU seconds of all processes of each role."""
        total = dict[str, float]()
        for pid, seconds in self.cpu.items():
            total[self.roles[pid]] = total.get(self.roles[pid], 0.0) + seconds
        return total

    def _kept_role(self, pid: int, role: str) -> str:
        """Return the role of a process; it keeps the one it had when Spark ends before it."""
        if role == DRIVER:
            role = self.roles.get(pid, role)
        self.roles[pid] = role
        return role

"""What ``/proc`` tells of processes and threads: whose they are, what they do, what they used.

A session also holds processes that have lost their parent, as Spark's Python workers and its JVM do
when a driver ends.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

DRIVER = "driver"
_TICKS = os.sysconf("SC_CLK_TCK")
_ROLES = ("jvm", "spark daemon", "python worker", "decoder")


@dataclass(frozen=True)
class Process:
    """A line of ``/proc``: ids, name, CPU seconds used so far, state."""

    pid: int
    parent: int
    session: int
    name: str
    cpu_seconds: float
    state: str
    """One letter, as ``man proc_pid_stat`` tells them."""

    @property
    def is_stopped(self) -> bool:
        """Whether it does no more of its own once SIGSTOP was sent.

        It stands still, has ended, or is in the kernel and will stop on its way out.
        """
        return self.state in "TtD" or self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether it only waits for its parent to ask how."""
        return self.state in "ZX"


def processes_of(session: int) -> list[tuple[Process, str]]:
    """Return the processes of a session with their roles: driver, jvm and so on."""
    entries = (_process(f"/proc/{entry}/stat") for entry in os.listdir("/proc") if entry.isdigit())
    found = {process.pid: process for process in entries if process}
    return [(each, _role(each, found)) for each in found.values() if each.session == session]


def threads_of(pid: int) -> list[tuple[int, str, float]]:
    """Return the id, name and CPU seconds of a process's threads; none when it has ended."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []
    found = (_process(f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return [(each.pid, each.name, each.cpu_seconds) for each in found if each]


def session_mib(session: int) -> float:
    """Return the proportional set sizes of a session's processes: shared pages count once."""
    found = processes_of(session)
    return sum(kib_of(process.pid, "smaps_rollup", "Pss") for process, _ in found) / 1024


def kib_of(pid: int, file: str, key: str) -> int:
    """Return a figure of a process's file such as ``status``; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return 0
    found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _process(path: str) -> Process | None:
    """Read a ``stat`` file of a process or a thread; None when that has ended."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    entry, _, rest = text.partition("(")
    name, _, rest = rest.rpartition(")")
    parts = rest.split()
    cpu = (int(parts[11]) + int(parts[12])) / _TICKS
    return Process(int(entry), int(parts[1]), int(parts[3]), name, cpu, parts[0])


def _role(process: Process, table: dict[int, Process]) -> str:
    """Name a process by how far below Spark's JVM it stands; ``driver`` when it does not."""
    steps = 0
    current: Process | None = process
    while current is not None:
        if current.name == "java":
            return _ROLES[min(steps, len(_ROLES) - 1)]
        steps, current = steps + 1, table.get(current.parent)
    return DRIVER

"""The child process: what one poison item may cost, and that nothing is left behind."""

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.ingest import poison

from catalog_batch.ingest.isolation import Failure, IsolatedWorker, Limits, Lost

ROOT = Path(__file__).parents[2]
NONE_LEFT_WITHIN_SECONDS = 2.0


@pytest.fixture(scope="module")
def shouting() -> Iterator[IsolatedWorker[str, str]]:
    with IsolatedWorker(poison.start_shouting, poison.LIMITS) as worker:
        yield worker


@pytest.fixture
def telling_pid() -> Iterator[IsolatedWorker[object, int]]:
    with IsolatedWorker(poison.start_telling_pid, poison.LIMITS) as worker:
        yield worker


def is_gone(pid: int) -> bool:
    """Tell whether a process ends soon; one that nobody has waited for yet counts as ended."""
    deadline = time.monotonic() + NONE_LEFT_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_results_come_in_the_order_of_items(shouting: IsolatedWorker[str, str]) -> None:
    batches = [[f"a{n}", f"b{n}"] for n in range(20)]
    flat = [item for batch in batches for item in batch]
    assert list(shouting.map(batches)) == [(item, item.upper()) for item in flat]


def test_no_batches_have_no_results(shouting: IsolatedWorker[str, str]) -> None:
    assert list(shouting.map([])) == []
    assert list(shouting.map([[], ["a"], []])) == [("a", "A")]


@pytest.mark.parametrize(
    ("item", "failure", "detail"),
    [
        ("segfault", Failure.CRASHED, "killed by SIGSEGV"),
        ("abort", Failure.CRASHED, "killed by SIGABRT"),
        ("kill_itself", Failure.CRASHED, "out-of-memory killer"),
        ("leave", Failure.CRASHED, "exited with code 3"),
        ("spin_in_c", Failure.TIMED_OUT, "1 s of CPU time"),
        ("eat_memory", Failure.OUT_OF_MEMORY, "200,000,000 bytes"),
        ("eat_memory_in_numpy", Failure.OUT_OF_MEMORY, "200,000,000 bytes"),
        ("eat_small_objects", Failure.OUT_OF_MEMORY, "200,000,000 bytes"),
    ],
)
def test_poison_costs_its_own_row(
    shouting: IsolatedWorker[str, str], item: str, failure: Failure, detail: str
) -> None:
    outcomes = dict(shouting.map([["a", "b", item, "c"], ["d", "e"]]))
    lost = outcomes.pop(item)
    assert isinstance(lost, Lost)
    assert lost.failure == failure
    assert detail in lost.detail
    assert list(outcomes.items()) == [(i, i.upper()) for i in "abcde"]


def test_several_poison_items_in_one_batch_each_cost_their_own_row(
    shouting: IsolatedWorker[str, str],
) -> None:
    items = ["segfault", "a", "leave", "kill_itself", "b", "eat_memory", "c", "abort"]
    outcomes = dict(shouting.map([items, ["d"]]))
    assert list(outcomes) == [*items, "d"]
    lost = [item for item, outcome in outcomes.items() if isinstance(outcome, Lost)]
    assert lost == ["segfault", "leave", "kill_itself", "eat_memory", "abort"]


@pytest.mark.parametrize("item", ["sleep", "leave_politely"])
def test_an_item_without_an_end_is_given_up_when_its_wall_time_is_over(item: str) -> None:
    limits = Limits(memory_bytes=200_000_000, cpu_seconds=9, wall_seconds=0.8)
    with IsolatedWorker(poison.start_shouting, limits) as worker:
        outcomes = dict(worker.map([["a", item, "b"]]))
    assert outcomes.pop(item) == Lost(Failure.TIMED_OUT, "took over 0.8 s")
    assert outcomes == {"a": "A", "b": "B"}


def test_slow_items_that_exceed_the_wall_time_together_are_all_worked_on() -> None:
    limits = Limits(memory_bytes=200_000_000, cpu_seconds=9, wall_seconds=1.0)
    with IsolatedWorker(partial(poison.start_dozing, 0.4), limits) as worker:
        assert list(worker.map([[1, 2, 3]])) == [(1, 1), (2, 2), (3, 3)]


def test_cpu_time_is_counted_for_each_item_anew() -> None:
    start = partial(poison.start_burning, cpu_seconds=0.5, result_bytes=1)
    limits = Limits(memory_bytes=200_000_000, cpu_seconds=1, wall_seconds=30.0)
    with IsolatedWorker(start, limits) as worker:
        assert [lost for _, lost in worker.map([[1, 2, 3, 4]]) if isinstance(lost, Lost)] == []


def test_one_child_serves_all_calls(telling_pid: IsolatedWorker[object, int]) -> None:
    first = {pid for _, pid in telling_pid.map([[1, 2], [3]])}
    second = {pid for _, pid in telling_pid.map([[4]])}
    assert len(first) == 1
    assert first == second
    assert os.getpid() not in first


def test_a_child_killed_between_two_calls_is_replaced(
    telling_pid: IsolatedWorker[object, int],
) -> None:
    ((_, first),) = telling_pid.map([[1]])
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    ((_, second),) = telling_pid.map([[1]])
    assert isinstance(second, int)
    assert first != second


def test_input_is_taken_as_it_is_needed(telling_pid: IsolatedWorker[object, int]) -> None:
    taken: list[int] = []

    def batches() -> Iterator[list[int]]:
        for number in range(100):
            taken.append(number)
            yield [number]

    outcomes = telling_pid.map(batches())
    for used in range(1, 11):
        next(outcomes)
        assert len(taken) <= used + 2
    outcomes.close()  # type: ignore[attr-defined]


def test_a_call_left_early_does_not_disturb_the_next(
    telling_pid: IsolatedWorker[object, int],
) -> None:
    for item, _ in telling_pid.map([[n] for n in range(9)]):
        if item == 3:
            break
    assert [item for item, _ in telling_pid.map([["a"], ["b"]])] == ["a", "b"]


def test_an_error_of_the_input_passes_through(telling_pid: IsolatedWorker[object, int]) -> None:
    batches = ([1 // n] for n in (1, 1, 0))
    with pytest.raises(ZeroDivisionError, match="integer division"):
        list(telling_pid.map(batches))


def test_an_exception_is_raised_in_the_parent_with_the_traceback_of_the_child() -> None:
    with IsolatedWorker(poison.start_dividing, poison.LIMITS) as worker:
        with pytest.raises(ZeroDivisionError) as raised:
            list(worker.map([[1, 0, 2]]))
        assert "in divide" in str(raised.value.__cause__)
        assert list(worker.map([[2]])) == [(2, 0.5)]


def test_a_result_too_few_is_an_error() -> None:
    with (
        IsolatedWorker(poison.start_forgetting, poison.LIMITS) as worker,
        pytest.raises(RuntimeError, match="3 items had 2 results"),
    ):
        list(worker.map([[1, 2, 3]]))


def test_a_child_that_cannot_start_says_why() -> None:
    with (
        IsolatedWorker(poison.start_without_a_file, poison.LIMITS) as worker,
        pytest.raises(RuntimeError, match="/nowhere/at/all") as raised,
    ):
        list(worker.map([[1]]))
    assert "in start_without_a_file" in str(raised.value.__cause__)


@pytest.mark.parametrize("start", [poison.start_with_a_crash, poison.start_crashing_before_work])
def test_a_child_that_never_comes_to_its_work_is_given_up(start: object) -> None:
    with (
        IsolatedWorker(start, poison.LIMITS) as worker,  # type: ignore[arg-type, var-annotated]
        pytest.raises(RuntimeError, match="3 times in a row"),
    ):
        list(worker.map([[1, 2]]))


def test_nothing_is_left_and_nobody_is_waited_for_after_close() -> None:
    worker = IsolatedWorker(poison.start_holding, Limits(200_000_000, 60, 60.0))
    outcomes = worker.map([["pid"], ["spin"]])
    _, pid = next(outcomes)
    assert isinstance(pid, int)
    time.sleep(0.3)
    started = time.monotonic()
    worker.close()
    assert time.monotonic() - started < 1
    assert is_gone(pid)


def test_the_child_dies_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", "import tests.ingest.poison as p; p.hold_a_child_that_spins()"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert is_gone(pid)


def test_a_program_that_forgets_to_close_ends_without_a_word() -> None:
    program = (
        "from catalog_batch.ingest.isolation import IsolatedWorker\n"
        "from tests.ingest import poison\n"
        "worker = IsolatedWorker(poison.start_telling_pid, poison.LIMITS)\n"
        "print(*(pid for _, pid in worker.map([[1]])))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert is_gone(int(ended.stdout))


PROBE = """
from catalog_batch.ingest.isolation import IsolatedWorker
from tests.ingest import poison

def main(infile, outfile):
    with IsolatedWorker(poison.start_telling_modules, poison.LIMITS) as worker:
        outcomes = list(worker.map([["numpy", "pyspark", "pyspark.daemon"]]))
    outfile.write(repr(outcomes).encode())
"""


def test_a_child_of_a_spark_worker_does_not_import_pyspark(tmp_path: Path) -> None:
    (tmp_path / "pyspark_probe.py").write_text(PROBE)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "PYTHON_WORKER_FACTORY_SECRET": "secret",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "pyspark.daemon", "pyspark_probe"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stderr is not None
        (port,) = struct.unpack("!i", daemon.stdout.read(4))
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(struct.pack("!i", 6) + b"secret")
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(partial(connection.recv, 4096), b""))
        daemon.terminate()
        errors = daemon.stderr.read()
    assert errors == b""
    expected = [("numpy", True), ("pyspark", False), ("pyspark.daemon", False)]
    assert answer.endswith(repr(expected).encode())

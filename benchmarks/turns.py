"""Run several commands in turns: one runs, the others stand still.

A virtual machine may be a fifth slower from one minute to the next. What it takes from one command
in its turn it takes from the others in theirs, as long as they all have something to do.
"""

import random
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

from benchmarks.commands import Command, Finished, started

TURN_SECONDS = 3.0

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_DRAW = random.Random(0)


def run_in_turns(
    commands: Sequence[Sequence[str]], turn_seconds: float = TURN_SECONDS
) -> list[Finished]:
    """Run commands, of which only one runs at a time.

    All are in memory together. They are watched while they stand still: what looking costs, most
    for a command of many processes, is nobody's time. Each has a turn before any has another, in
    an order that is drawn anew: what the machine does every ten seconds is not always the same
    one's. What a command only waits for, a timer, goes on while it stands still.

    Args:
        commands: The words of each.
        turn_seconds: How long one runs before it is the next one's turn.

    Returns:
        How each went, in the order of ``commands``.

    Raises:
        SystemExit: When one fails; its last errors are shown, and the others are killed.
    """
    found = dict[int, Finished]()
    running = dict[int, Command]()
    with _ended_by_signals(), ExitStack() as stack:
        while waiting := [number for number in range(len(commands)) if number not in found]:
            _DRAW.shuffle(waiting)
            for number in waiting:
                if number in running:
                    running[number].go_on()
                else:
                    running[number] = stack.enter_context(started(commands[number]))
                if finished := _take_turn(running[number], turn_seconds):
                    found[number] = finished
    return [found[number] for number in range(len(commands))]


def _take_turn(command: Command, seconds: float) -> Finished | None:
    """Let a command run for some seconds; return how it went, when it has ended."""
    if not command.ends_within(seconds):
        command.stand_still()
        command.watch.sample()
        return None
    usage, ended = command.wait(), threading.Event()
    ended.set()
    command.watch.sample_until(ended, interval=0.1)
    command.end()
    return command.result(usage)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have a signal that would end us end the commands first: what is stopped stays so for ever.

    Nothing can do so for SIGKILL.
    """
    heard = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]  # as by nohup

    def leave(number: int, _: FrameType | None) -> None:
        for each in heard:  # Shells and make send another one, which would cut the ending short.
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    kept = {number: signal.signal(number, leave) for number in heard}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

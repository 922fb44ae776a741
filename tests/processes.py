"""Find processes that tests have started, however indirectly."""

from contextlib import suppress

import psutil


def descendants(named: str) -> list[psutil.Process]:
    """Return the living processes below this one whose command line holds a text."""
    found = []
    for process in psutil.Process().children(recursive=True):
        # It may end, or be waited for, between any two looks at it.
        with suppress(psutil.NoSuchProcess):
            if named in " ".join(process.cmdline()):
                found.append(process)
    return found

"""What glibc's allocator does with the memory of a network's activations."""

import ctypes

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Variable for a process that computes in another thread than its first one: such a thread has
heaps of its own otherwise, too small for activations. Read when the process starts."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process use the memory of one step for the next, until it ends.

    By default blocks above 32 MiB, as the activations of a batch are, go back to the kernel each
    time they are freed, and come back as pages that it has to clear: with MobileNet v2 on a CPU
    half of the time, where pages are dear. What is kept is in pieces: the peak of training grows
    too, up to twofold, and that of scoring by a sixth.

    Returns:
        Whether it was done; False where the C library is not glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    # No block is a mapping of its own: glibc before 2.35 takes no other threshold than 32 MiB.
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
    return all([set_option(name, value) == 1 for name, value in options.items()])

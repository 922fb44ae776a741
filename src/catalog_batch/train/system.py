"""What the machine is doing: processors, memory, and the GPU of this process."""

from contextlib import suppress

import psutil
import pynvml
import torch

GIB = 2**30


def system_figures(device: torch.device) -> dict[str, float]:
    """Measure the machine that this process runs on; takes about a millisecond.

    Args:
        device: Where the network is; a GPU's figures are left out on a CPU.

    Returns:
        ``cpu_percent`` of all cores since the last call (0.0 in the first), ``memory_percent`` of
        the machine, ``process_memory_gib``, and of a GPU ``gpu_percent`` and ``gpu_memory_gib``,
        whichever process takes it.
    """
    figures = {
        "cpu_percent": psutil.cpu_percent(),
        "memory_percent": psutil.virtual_memory().percent,
        "process_memory_gib": psutil.Process().memory_info().rss / GIB,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        figures["gpu_memory_gib"] = (total - free) / GIB
        with suppress(RuntimeError, pynvml.NVMLError):  # A part of a GPU has no load of its own.
            figures["gpu_percent"] = float(torch.cuda.utilization(device))
    return figures

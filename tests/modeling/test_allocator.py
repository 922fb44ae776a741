"""Memory of earlier steps is used again: page faults are counted, in a process of its own each."""

import os
import subprocess
import sys

from catalog_batch.modeling.allocator import ONE_ARENA

SCRIPT = """
import resource, sys, threading
import torch
from torch import nn
from catalog_batch.modeling.allocator import keep_freed_memory

def faults_of_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        network(torch.zeros(16, 3, 192, 192)).mean().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def compute():
    faults_of_steps()
    print(faults_of_steps())

if "kept" in sys.argv:
    assert keep_freed_memory()
torch.set_num_threads(1)
# Activations of 37 and 55 MiB.
layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 1, 3)
network = nn.Sequential(*layers)
if "thread" in sys.argv:
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
else:
    compute()
"""


def page_faults(*how: str, **variables: str) -> int:
    words = [sys.executable, "-c", SCRIPT, *how]
    environment = {**os.environ, **variables}
    ended = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return int(ended.stdout)


def test_steps_use_the_memory_of_earlier_ones() -> None:
    usual = page_faults()
    assert page_faults("kept") < usual / 10
    assert page_faults("kept", "thread", **ONE_ARENA) < usual / 10

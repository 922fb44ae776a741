"""From logits to confidences: the same arithmetic, to the last bit, in reports and in scoring.

Thresholds are confidences that rows of validation had, and a row must not miss its own: whoever
computes one takes it from here. With numpy, for a worker that runs a graph has no PyTorch. What is
computed for a row does not depend on the others.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def confidences(logits: Floats, temperature: float = 1.0) -> Floats:
    """Return float32 [N, C], each class's confidence: the softmax of logits by temperature."""
    scaled = logits / np.float32(temperature)
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: Floats = shares / shares.sum(axis=1, keepdims=True)
    return found


def energies(logits: Floats, temperature: float = 1.0) -> Floats:
    """Return float32 [N], how unlike each picture is to those of training: higher is less alike.

    Liu et al., Energy-based Out-of-distribution Detection, 2020: https://arxiv.org/abs/2010.03759
    """
    scaled = logits / np.float32(temperature)
    highest = scaled.max(axis=1)
    sums = np.exp(scaled - highest[:, None]).sum(axis=1)
    found: Floats = np.float32(-temperature) * (np.log(sums) + highest)
    return found


def sums_over(shares: Floats, classes: npt.NDArray[np.int64]) -> Floats:
    """Return float32 [N], the sum of the confidences, [N, C], of some classes, given by place."""
    # Taken and not indexed: the order of the numbers in memory is that of their addition.
    found: Floats = np.take(shares, classes, axis=1).sum(axis=1)
    return found

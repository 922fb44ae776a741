"""The smallest training that is one: settings that the tests of whole runs begin with."""

from typing import Any

SMALL: dict[str, Any] = {
    "architecture": "mobilenet_v3_small",
    "weights": "none",
    "image_side": 32,
    "batch_size": 8,
    "epochs": 2,
    "num_workers": 0,
    "device": "cpu",
}

"""The smallest training that is one: settings that the tests of whole runs begin with."""

from typing import Any

SMALL: dict[str, Any] = {
    "architecture": "mobilenet_v3_small",
    "weights": "none",
    "image_side": 32,
    "batch_size": 8,
    "epochs": 2,
    "num_workers": 0,
    # Several threads on cores that other tests keep busy take many times as long as one.
    "cpus_per_worker": 1,
    "device": "cpu",
}

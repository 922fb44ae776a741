"""The smallest training that is one, and the smallest checkpoint: what tests begin with."""

from pathlib import Path
from typing import Any

from catalog_batch.train import checkpoints
from catalog_batch.train.reports import FitState

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


def written(run_folder: Path, state: FitState) -> Path:
    """Write a checkpoint that holds a run's state and nothing else, not yet in its place."""
    return checkpoints.write(
        run_folder,
        lambda folder: checkpoints.write_json(folder, checkpoints.STATE, state.to_json()),
    )

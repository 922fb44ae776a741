"""What an earlier start left in a run's folder, and Ray's own view of it."""

import asyncio
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray.train
import torch
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport
from ray.train.v2.api.config import CheckpointConfig
from tests.train.small import written

from catalog_batch.errors import CatalogBatchError
from catalog_batch.train import checkpoints
from catalog_batch.train.reports import FitState


def checkpoint_of(run_folder: Path, epoch: int) -> Path:
    """Leave a whole checkpoint, as old as its epoch says, in place of Ray's copy of it."""
    place = written(run_folder, FitState(epoch=epoch)).rename(
        run_folder / f"checkpoint_2026-01-01_00-00-0{epoch}.0"
    )
    os.utime(place, ns=(0, epoch))
    return place


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes: an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("many", [True, False], ids=["weights", "state"])
def test_a_checkpoint_for_which_there_is_no_room_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, many: bool
) -> None:
    def fill(folder: Path) -> None:
        checkpoints.write_weights(folder, checkpoints.MODEL, {"w": torch.ones(100_000 * many)})
        checkpoints.write_json(folder, checkpoints.STATE, {"text": "x" * 100_000})

    run_folder = tmp_path / "run-1"
    run_folder.mkdir()
    what = "run-1.*too large.*Free some space there, and run again with --run-name run-1"
    with files_of_at_most(50_000), pytest.raises(CatalogBatchError, match=what):
        checkpoints.write(run_folder, fill)
    assert list(run_folder.iterdir()) == []


def rays_manager(run_folder: Path) -> CheckpointManager:
    storage = StorageContext(str(run_folder.parent), run_folder.name)
    return CheckpointManager(CheckpointConfig(num_to_keep=checkpoints.KEPT), storage)


def test_ray_starts_again_after_a_checkpoint_that_it_kept_was_deleted(tmp_path: Path) -> None:
    run_folder = tmp_path / "run-1"
    run_folder.mkdir()

    async def reported(path: Path) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(path)
        report = _TrainingReport(checkpoint, metrics={}, validation=False)
        rays_manager(run_folder).register_checkpoint(report)

    asyncio.run(reported(checkpoint_of(run_folder, 1)))
    shutil.rmtree(run_folder / "checkpoint_2026-01-01_00-00-01.0")
    # Ray 2.55 gives its own error an argument that this does not take.
    with pytest.raises((CheckpointManagerInitializationError, TypeError)):
        rays_manager(run_folder)
    checkpoints.forget_earlier_start(run_folder)
    assert rays_manager(run_folder).latest_checkpoint_result is None


def test_a_start_keeps_two_whole_checkpoints_and_the_damaged_ones_to_tell_of(
    tmp_path: Path,
) -> None:
    paths = [checkpoint_of(tmp_path, epoch) for epoch in range(1, 6)]
    (paths[4] / checkpoints.STATE).write_text("{}")
    checkpoints.forget_earlier_start(tmp_path)
    assert [path.exists() for path in paths] == [False, False, True, True, True]


def test_a_start_keeps_the_checkpoint_to_go_on_from_however_old(tmp_path: Path) -> None:
    paths = [checkpoint_of(tmp_path, epoch) for epoch in range(1, 5)]
    os.utime(paths[3], ns=(0, 0))
    checkpoints.forget_earlier_start(tmp_path)
    assert [path.exists() for path in paths] == [False, False, True, True]

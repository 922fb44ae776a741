"""Starting Ray, running the workers, and bringing their errors back as ours."""

import logging
import math
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read when Ray is imported and when it starts: nothing is sent home.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import ray.train
import ray.train.torch
import torch
from ray._private import ray_constants
from ray.train import ScalingConfig
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from catalog_batch.config import TrainSettings
from catalog_batch.errors import BadInputError, CatalogBatchError, ConfigError
from catalog_batch.modeling.allocator import ONE_ARENA
from catalog_batch.train import checkpoints, events
from catalog_batch.train.rendezvous import RENDEZVOUS, FileTorchConfig
from catalog_batch.train.snapshot import Snapshot
from catalog_batch.train.watchdog import STALLED
from catalog_batch.train.worker import train_worker

LOOPBACK = "127.0.0.1"

COLLECTIVE_TIMEOUT = "RAY_TRAIN_COLLECTIVE_TIMEOUT_S"
"""Variable that Ray hands on to its controller and workers."""

OBJECT_STORE_BYTES = 100_000_000
"""Shared memory Ray takes; it would take 30% of the machine, and batches do not pass through it."""

# Of a training in this process Ray says at each report that it is a local one.
logging.getLogger("ray.train").setLevel(logging.WARNING)

STARTS = 10
"""Attempts, of a minute each, to get a cluster's workers started before a run is given up."""


class StopOnBadInput(UserCallback):
    """Ends a run that was refused or diverged: a restart would read and compute the same again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a worker's refusal in Ray's controller, which does not retry its own errors."""
        for error in worker_exceptions.values():
            ours = _ours(error)
            if isinstance(ours, BadInputError):
                raise ours


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray's trainer, which would put a handler of its own in the place of ours while it trains.

    That one ends the process before its run is logged, as one that crashed.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the command: what it raises closes the cluster."""


def run_workers(settings: TrainSettings, snapshot: Snapshot, run_folder: Path) -> None:
    """Run ``train_worker`` on all ranks, or in this process for ``num_workers`` 0.

    Args:
        settings: Workers, their resources, and the cluster to use.
        snapshot: What to train on.
        run_folder: Holds the run's checkpoints; a run that was cut off there goes on.

    Raises:
        CatalogBatchError: A worker's own error, or the failure of Ray itself.
    """
    with open_cluster(settings):
        device, reason = device_for(settings, _gpus(settings))
        events.emit(run_folder, "device", device=device, reason=reason)
        use_gpu = device == "gpu"
        trainer = _Trainer(
            train_worker,
            train_loop_config={
                "settings": settings,
                "snapshot": snapshot,
                "run_folder": run_folder,
                "use_gpu": use_gpu,
            },
            # A rank waits for the others at most as long as one waits for its batch.
            torch_config=_torch_config(settings, run_folder),
            scaling_config=_scaling(settings, use_gpu),
            run_config=RunConfig(  # type: ignore[arg-type]
                name=run_folder.name,
                storage_path=str(run_folder.parent),
                failure_config=FailureConfig(
                    settings.max_failures, controller_failure_limit=STARTS
                ),
                checkpoint_config=CheckpointConfig(num_to_keep=checkpoints.KEPT),
                callbacks=[StopOnBadInput()],
            ),
        )
        stalled = run_folder / STALLED
        stalled.unlink(missing_ok=True)
        checkpoints.forget_earlier_start(run_folder)
        try:
            with _collective_timeout(60 * settings.watchdog_minutes):
                trainer.fit()
        except TrainingFailedError as error:
            raise as_our_error(error, _text(stalled)) from error


@contextmanager
def _collective_timeout(seconds: float) -> Iterator[None]:
    """Let a rank wait so long for others in Ray's own barriers, where it would wait for ever."""
    before = os.environ.get(COLLECTIVE_TIMEOUT)
    if seconds and before is None:
        os.environ[COLLECTIVE_TIMEOUT] = str(seconds)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(COLLECTIVE_TIMEOUT, None)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


@contextmanager
def open_cluster(settings: TrainSettings) -> Iterator[None]:
    """Start or join a cluster for the block, unless there is one already or none is needed."""
    if settings.num_workers == 0 or ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with warnings.catch_warnings():
        # A tip about a future default for visible GPUs, which would let CPU workers see them.
        warnings.simplefilter("ignore", FutureWarning)
        if settings.ray_address:
            ray.init(settings.ray_address, **common)
        else:
            _start_local(settings, common)
    # Ray's own handlers would end this process with exit code 1, before its run is logged.
    _restore(handlers)
    try:
        yield
    finally:
        ray.shutdown()
        _restore(handlers)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # one came, and all others wait
                signal.signal(number, handler)


def _start_local(settings: TrainSettings, common: dict[str, Any]) -> None:
    # Ray replaces 127.0.0.1 by the machine's own address, and its servers then listen on every
    # interface; told that there is no cluster, it stays on the loopback.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        ray.init(
            "local",
            num_cpus=math.ceil(settings.num_workers * settings.cpus_per_worker),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            runtime_env={"env_vars": _local_variables(settings)},
            **common,
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = True


def _local_variables(settings: TrainSettings) -> dict[str, str]:
    variables = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    is_on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    return {**variables, **(ONE_ARENA if settings.keep_memory and is_on_cpu else {})}


def _torch_config(settings: TrainSettings, run_folder: Path) -> ray.train.torch.TorchConfig:
    # A rank waits for the others at most as long as these wait for two batches.
    timeout_s = math.ceil(2 * settings.stall_seconds)
    for left_over in run_folder.glob(f"{RENDEZVOUS}*"):
        left_over.unlink()
    if settings.ray_address:
        return ray.train.torch.TorchConfig(timeout_s=timeout_s)
    return FileTorchConfig(timeout_s=timeout_s, folder=str(run_folder))


def _gpus(settings: TrainSettings) -> int:
    if settings.num_workers == 0:
        return torch.cuda.device_count()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU", 0))


def expected_device(settings: TrainSettings) -> str:
    """Return what ``device_for`` will, before Ray starts; of a cluster's GPUs the best is expected.

    Raises:
        ConfigError: As ``device_for``.
    """
    needed = max(1, settings.num_workers)
    gpus = needed if may_have_other_gpus(settings) else torch.cuda.device_count()
    return device_for(settings, gpus)[0]


def may_have_other_gpus(settings: TrainSettings) -> bool:
    """Return whether the workers may have GPUs that this process does not see.

    A process of a cluster sees only its own: a trial of a search none, though its workers have
    some.
    """
    return bool(settings.ray_address) or ray.is_initialized()


def device_for(settings: TrainSettings, gpus: int) -> tuple[str, str]:
    """Choose ``gpu`` or ``cpu`` for all workers alike; return it with the reason.

    Raises:
        ConfigError: When GPUs were asked for and there is not one for each worker.
    """
    needed = max(1, settings.num_workers)
    there = f"train.device is {settings.device!r} and there are {gpus} GPUs for {needed} workers"
    if settings.device == "gpu" and gpus < needed:
        fewer = "Lower train.num_workers, or set" if gpus else "Set"
        raise ConfigError(f"{there}. {fewer} train.device to 'auto' or 'cpu'.")
    return "cpu" if settings.device == "cpu" or gpus < needed else "gpu", there


def _scaling(settings: TrainSettings, use_gpu: bool) -> ScalingConfig:
    if settings.num_workers == 0:
        return ScalingConfig(num_workers=0)
    resources = {"CPU": settings.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}
    return ScalingConfig(
        num_workers=settings.num_workers, use_gpu=use_gpu, resources_per_worker=resources
    )


def as_our_error(error: TrainingFailedError, stalled: str = "") -> CatalogBatchError:
    """Find our error in a failure of Ray Train, a refusal first, or describe a foreign one.

    Args:
        error: Of the run's last attempt.
        stalled: What ranks' watchdogs left, in this attempt or one before.
    """
    failures = getattr(error, "worker_failures", None) or {0: error}
    found = [ours for failure in failures.values() if (ours := _ours(failure)) is not None]
    if found:
        # A rank that fails takes the others with it: the refusal is the cause.
        return next((ours for ours in found if isinstance(ours, BadInputError)), found[0])
    first = next(iter(failures.values()))
    return CatalogBatchError(
        f"Training failed on ranks {sorted(failures)}: {_last_line(first)}. {stalled}The run's "
        "checkpoints stay: run again with the same --run-name to go on from the last."
    )


def _ours(error: BaseException | None) -> CatalogBatchError | None:
    while error is not None and not isinstance(error, CatalogBatchError):
        within = getattr(error, "_base_exc", None) or getattr(error, "controller_failure", None)
        error = within or error.__cause__
    return error


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"

"""Letting the ranks of one machine find each other through a file instead of an open port.

By default the leading rank serves the others from a port on every interface of the machine, to
anybody who connects.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _setup_torch_process_group, _TorchBackend

RENDEZVOUS = ".ranks-"


@dataclass
class FileTorchConfig(TorchConfig):
    """Torch's process group over ``gloo`` or ``nccl``, set up through a file."""

    folder: str = ""
    """Folder that all ranks see; holds a small file per start of the workers."""

    @property
    def backend_cls(self) -> type["_FileBackend"]:
        """Name the class that sets the group up."""
        return _FileBackend


class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        on_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        # A file that another group used before would make the ranks wait for it.
        file = Path(backend_config.folder) / f"{RENDEZVOUS}{uuid.uuid4().hex}"
        setups = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend="nccl" if on_gpu else "gloo",
                world_rank=rank,
                world_size=len(worker_group),
                init_method=f"file://{file}",
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(setups)

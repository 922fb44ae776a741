"""One process among the ones that train together, and what they do jointly."""

from collections.abc import Callable
from dataclasses import dataclass

import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Rank:
    """This process among the ones that train together; rank 0 of 1 when it is alone."""

    rank: int
    world_size: int
    local_rank: int
    """Its number on its own machine."""

    device: torch.device

    @classmethod
    def current(cls, use_gpu: bool) -> "Rank":
        """Ask Ray Train which rank this is."""
        context = ray.train.get_context()
        return cls(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            local_rank=context.get_local_rank(),
            device=ray.train.torch.get_device() if use_gpu else torch.device("cpu"),
        )

    @property
    def leads(self) -> bool:
        """Whether this rank writes what all ranks agree on."""
        return self.rank == 0

    def built_in_turn(self, build: Callable[[], nn.Module]) -> nn.Module:
        """Build on each machine's first rank before the others, which find its downloads."""
        network = build() if self.local_rank == 0 else None
        ray.train.collective.barrier()
        return network or build()

    def in_parallel(self, network: nn.Module) -> nn.Module:
        """Wrap a network on this rank's device so that gradients are averaged over the ranks."""
        if self.world_size == 1:
            return network
        wrapped = DistributedDataParallel(network)
        # By default each forward pass replaces all ranks' batch-norm statistics by the leading
        # rank's; the loop averages what each has gathered. Set afterwards, because the argument
        # is called otherwise in other versions of torch.
        wrapped.broadcast_buffers = False
        return wrapped


def reduce_sum(tensor: Tensor) -> Tensor:
    """Add a tensor up over all ranks; every rank must call it equally often."""
    if not torch.distributed.is_initialized():
        return tensor
    total = tensor.detach().clone()
    torch.distributed.all_reduce(total)
    return total

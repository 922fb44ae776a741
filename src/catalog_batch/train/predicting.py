"""Predictions of all ranks' rows, gathered by the leading rank through the run's folder."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from catalog_batch.evaluate.predictions import (
    Floats,
    Labels,
    Predictions,
    load_predictions,
    merged,
)
from catalog_batch.train.loop import Batch


@torch.inference_mode()
def predict(
    network: nn.Module,
    batches: Iterable[Batch],
    normalise: Callable[[Tensor], Tensor],
    device: torch.device,
    classes: int,
) -> tuple[Labels, Floats]:
    """Return labels int64 [N] and logits float32 [N, classes] of the real rows, in their order.

    Args:
        network: Without a data parallel wrapper, on ``device``; is put in eval mode.
        batches: Padding rows, of weight 0, are dropped.
        normalise: Makes the network's input of uint8 images.
        device: Where the batches go.
        classes: Outputs of the network.
    """
    network.eval()
    labels: list[Labels] = []
    logits: list[Floats] = []
    for batch in batches:
        is_real = batch.weights > 0
        outputs = network(normalise(batch.images.to(device, non_blocking=True)))
        labels.append(batch.labels[is_real].numpy())
        logits.append(outputs.float().cpu()[is_real].numpy())
    return (
        np.concatenate([np.empty(0, np.int64), *labels]),
        np.concatenate([np.empty((0, classes), np.float32), *logits]),
    )


def gathered(
    share: Predictions, folder: Path, rank: int, world_size: int, barrier: Callable[[], None]
) -> Predictions | None:
    """Put all ranks' shares together on the leading rank; None on the others.

    Files and not a collective: what NCCL gathers must fit a GPU, and gloo's objects are pickles.

    Args:
        share: This rank's rows of a split.
        folder: Of the run, shared by all ranks.
        rank: This rank, 0 leads.
        world_size: Ranks that call this; each must.
        barrier: Waits for all of them.
    """
    paths = [folder / f".share-{share.split}-{other}.npz" for other in range(world_size)]
    # An earlier attempt may have left files: each is written anew before any is read.
    share.save(paths[rank])
    barrier()
    if rank != 0:
        return None
    together = merged([load_predictions(path) for path in paths])
    # Those of an earlier attempt on more ranks, too.
    for path in folder.glob(f".share-{share.split}-*"):
        path.unlink()
    return together

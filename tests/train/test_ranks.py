"""Two processes that train together over gloo, without Ray."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train.loop import Batch, FitSettings, Hooks, PartialEpoch, train_epoch
from catalog_batch.train.ranks import Rank, reduce_sum
from catalog_batch.train.recipe import Recipe, RecipeSettings

torch.set_num_threads(1)

RANKS = 2
SIDE = 8
normalise = Preprocessing.for_side(SIDE).normalise
SETTINGS = FitSettings(num_classes=3, epochs=1, patience=1)
SGD = RecipeSettings(optimizer="sgd", learning_rate=0.05)


def rows(count: int, seed: int, real: int | None = None) -> Batch:
    """Draw a batch whose rows after the first ``real`` are padding."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=draw)
    weights = (torch.arange(count) < (count if real is None else real)).float()
    return Batch(images, labels, weights)


BATCHES = [[rows(4, seed=10 * rank + step) for step in range(3)] for rank in range(RANKS)]
# One rank's pictures are bright, so that its statistics differ from the other's.
BATCHES[1] = [batch._replace(images=batch.images // 4 + 191) for batch in BATCHES[1]]

PADDED = [rows(4, seed=50), rows(4, seed=51, real=1)]


def with_statistics() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * SIDE**2, 3))


def without_statistics() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers()}


def train_rank(number: int, folder: Path) -> None:
    """Train two networks as one of two ranks, and leave what came of it in the folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        store=torch.distributed.FileStore(str(folder / "store"), RANKS),
        rank=number,
        world_size=RANKS,
        timeout=timedelta(minutes=5),
    )
    rank = Rank(number, RANKS, number, torch.device("cpu"))
    settings = replace(SETTINGS, rank=number, world_size=RANKS)
    network, saved = with_statistics(), list[dict[str, Tensor]]()

    def save(partial: PartialEpoch) -> None:
        saved.append(buffers(network))

    recipe = Recipe(network, replace(SGD, ema_decay=0.5), 3)
    hooks = Hooks(normalise, reduce_sum=reduce_sum, is_due=lambda: len(saved) == 0)
    batches = BATCHES[number]
    train_epoch(rank.in_parallel(network), recipe, batches, settings, hooks, save=save)
    plain = without_statistics()
    hooks = Hooks(normalise, reduce_sum=reduce_sum)
    batches = [PADDED[number]]
    train_epoch(rank.in_parallel(plain), Recipe(plain, SGD, 1), batches, settings, hooks)
    left = {
        "saved": saved,
        "statistics": buffers(network),
        "averaged": buffers(recipe.evaluated),
        "gradients": [parameter.grad for parameter in plain.parameters()],
    }
    torch.save(left, folder / f"{number}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two processes left, of which this is one."""
    folder = tmp_path_factory.mktemp("ranks")
    other = torch.multiprocessing.get_context("spawn").Process(
        target=train_rank, args=(1, folder), daemon=True
    )
    # Inherited by the other process: neither listens on more than the loopback.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        other.start()
        train_rank(0, folder)
    other.join()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def seen_alone(steps: int) -> list[dict[str, Tensor]]:
    """Return each rank's statistics of its own batches."""
    alone = []
    for batches in BATCHES:
        network = with_statistics()
        for batch in batches[:steps]:
            network(normalise(batch.images))
        alone.append(buffers(network))
    return alone


def test_ranks_leave_an_epoch_with_the_mean_of_the_statistics_each_gathered(
    trained: list[dict[str, Any]],
) -> None:
    for name in ("0.running_mean", "0.running_var"):
        first, second = (statistics[name] for statistics in seen_alone(steps=3))
        assert not torch.allclose(first, second, rtol=0.1)
        for left in trained:
            torch.testing.assert_close(left["statistics"][name], (first + second) / 2)
        averaged = [left["averaged"][name] for left in trained]
        assert torch.equal(*averaged)


def test_a_checkpoint_within_an_epoch_has_the_mean_of_the_statistics_until_then(
    trained: list[dict[str, Any]],
) -> None:
    for name in ("0.running_mean", "0.running_var"):
        first, second = (statistics[name] for statistics in seen_alone(steps=1))
        for left in trained:
            [saved] = left["saved"]
            torch.testing.assert_close(saved[name], (first + second) / 2)


def test_two_ranks_with_unevenly_padded_batches_have_the_gradients_of_one(
    trained: list[dict[str, Any]],
) -> None:
    joined = Batch(*(torch.cat(pair) for pair in zip(*PADDED, strict=True)))
    alone = without_statistics()
    train_epoch(alone, Recipe(alone, SGD, 1), [joined], SETTINGS, Hooks(normalise))
    for left in trained:
        for gradient, parameter in zip(left["gradients"], alone.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)

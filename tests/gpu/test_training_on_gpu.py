"""The training loop on a GPU beside the same on the CPU; needs neither Ray nor Petastorm.

On a machine with a GPU, torch, torchvision, safetensors, psutil, nvidia-ml-py and pytest-timeout:
``PYTHONPATH=src python -m pytest --noconftest tests/gpu``.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from catalog_batch.errors import DivergenceError
from catalog_batch.modeling.augmentation import build_augmentation
from catalog_batch.modeling.mixing import Mixing
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train import checkpoints
from catalog_batch.train.clock import CheckpointClock
from catalog_batch.train.loop import (
    STEPS_BETWEEN_LOOKS,
    Batch,
    FitSettings,
    FitState,
    Hooks,
    evaluate,
    fit,
    in_one_process,
    train_epoch,
)
from catalog_batch.train.predicting import predict
from catalog_batch.train.recipe import Recipe, RecipeSettings
from catalog_batch.train.system import system_figures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

Precision = Literal["fp32", "bf16", "fp16"]

CLASSES, SIDE, ROWS = 3, 32, 12
EPOCHS = 3
NORMALISE = Preprocessing.for_side(SIDE).normalise


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Have convolutions compute as the CPU does: without TF32, in one order of sums."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


def batch_of(seed: int, rows: int = ROWS) -> Batch:
    """Draw pictures whose brightness says the class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=draw)
    noise = torch.randint(60, (rows, SIDE, SIDE, 3), generator=draw)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Batch(images, labels, torch.ones(rows))


def network_on(device: str) -> nn.Module:
    torch.manual_seed(1)
    layers = (
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
    )
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, CLASSES))
    return network.to(device, memory_format=torch.channels_last)


def settings_on(device: str) -> FitSettings:
    return FitSettings(CLASSES, EPOCHS, patience=EPOCHS, device=device)


def recipe_of(network: nn.Module, device: str, precision: Precision = "fp32") -> Recipe:
    settings = RecipeSettings(learning_rate=1e-2, precision=precision, ema_decay=0.5)
    return Recipe(network, settings, batches_per_epoch=2, device=device)


def fitted(
    device: str, precision: Precision = "fp32", hooks: Hooks | None = None
) -> tuple[nn.Module, Recipe, FitState]:
    network = network_on(device)
    recipe = recipe_of(network, device, precision)
    state = fit(
        network,
        recipe,
        lambda epoch, first: [batch_of(2 * epoch), batch_of(2 * epoch + 1, rows=7)][first:],
        lambda: [batch_of(99)],
        settings_on(device),
        hooks or Hooks(NORMALISE),
    )
    return network, recipe, state


def losses(state: FitState) -> Tensor:
    rows = [(report.train_loss, report.validation_loss) for report in state.history]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("augmentation", ["none", "article", "crop", "trivial"])
def test_losses_are_those_of_a_cpu(augmentation: str) -> None:
    found = {
        device: losses(fitted(device, hooks=hooks_of(augmentation))[2])
        for device in ("cpu", "cuda")
    }
    # Pictures that were changed may be a level apart, where rounding is a tie.
    tolerance = 1e-3 if augmentation == "none" else 2e-2
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=tolerance, atol=tolerance)


def hooks_of(augmentation: str) -> Hooks:
    if augmentation == "none":
        return Hooks(NORMALISE)
    return Hooks(NORMALISE, build_augmentation(augmentation, 5, 0.1, 0.2))  # type: ignore[arg-type]


def test_pictures_that_were_augmented_are_those_of_a_cpu() -> None:
    images = batch_of(3).images
    found = [
        build_augmentation("article", 5, 0.1, 0.2)(images.to(device)).cpu().int()
        for device in ("cpu", "cuda")
    ]
    apart = (found[0] - found[1]).abs()
    assert (apart > 1).float().mean() < 0.01


def test_mixing_draws_the_same_as_on_a_cpu() -> None:
    images, labels, _ = batch_of(3)
    found = [
        Mixing("both", CLASSES, seed=5, alpha=1)(NORMALISE(images.to(device)), labels.to(device))
        for device in ("cpu", "cuda")
    ]
    for on_cpu, on_gpu in zip(*found, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns_as_fp32_does(precision: Precision) -> None:
    exactly, reduced = losses(fitted("cuda")[2]), losses(fitted("cuda", precision)[2])
    assert reduced[-1, 0] < reduced[0, 0]
    torch.testing.assert_close(reduced, exactly, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_goes_on_from_its_checkpoint_as_if_undisturbed(
    precision: Precision, tmp_path: Path
) -> None:
    undisturbed = fitted("cuda", precision)
    network = network_on("cuda")
    recipe = recipe_of(network, "cuda", precision)
    first = [batch_of(0), batch_of(1, rows=7)]

    def stop(report: object, state: FitState) -> None:
        checkpoints.write_weights(tmp_path, checkpoints.MODEL, network.state_dict())
        checkpoints.write_recipe(tmp_path, recipe.state())
        checkpoints.write_json(tmp_path, checkpoints.STATE, state.to_json())

    one = replace(settings_on("cuda"), epochs=1)
    hooks = Hooks(NORMALISE)
    fit(network, recipe, lambda *_: first, lambda: [batch_of(99)], one, hooks, on_epoch=stop)

    again = network_on("cuda")
    again.load_state_dict(checkpoints.read_weights(tmp_path, checkpoints.MODEL))
    resumed = recipe_of(again, "cuda", precision)
    resumed.restore(checkpoints.read_recipe(tmp_path))
    state = fit(
        again,
        resumed,
        lambda epoch, first: [batch_of(2 * epoch), batch_of(2 * epoch + 1, rows=7)][first:],
        lambda: [batch_of(99)],
        settings_on("cuda"),
        hooks,
        checkpoints.read_state(tmp_path),
    )
    torch.testing.assert_close(losses(state), losses(undisturbed[2]), rtol=1e-6, atol=1e-6)
    for name, value in undisturbed[0].state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)


def test_a_checkpoint_of_a_gpu_is_gone_on_from_on_a_cpu(tmp_path: Path) -> None:
    network, recipe, _ = fitted("cuda")
    checkpoints.write_weights(tmp_path, checkpoints.MODEL, network.state_dict())
    checkpoints.write_recipe(tmp_path, recipe.state())
    on_cpu = network_on("cpu")
    on_cpu.load_state_dict(checkpoints.read_weights(tmp_path, checkpoints.MODEL))
    restored = recipe_of(on_cpu, "cpu")
    restored.restore(checkpoints.read_recipe(tmp_path))
    for trained, kind in ((network, recipe), (on_cpu, restored)):
        settings = settings_on("cuda" if trained is network else "cpu")
        train_epoch(trained, kind, [batch_of(9)], settings, Hooks(NORMALISE), epoch=3)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(on_cpu.state_dict()[name], value.cpu(), rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_is_seen_within_some_steps() -> None:
    network = network_on("cuda")
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    steps = list[int]()

    def batches() -> Iterator[Batch]:
        for number in range(4 * STEPS_BETWEEN_LOOKS):
            steps.append(number)
            yield batch_of(number)

    with pytest.raises(DivergenceError, match="epoch 0, batch 0"):
        recipe = recipe_of(network, "cuda")
        train_epoch(network, recipe, batches(), settings_on("cuda"), Hooks(NORMALISE))
    assert len(steps) <= STEPS_BETWEEN_LOOKS + 2


def test_a_data_parallel_network_over_nccl_computes_the_same() -> None:
    plain = network_on("cuda")
    store = distributed.HashStore()  # type: ignore[no-untyped-call]
    distributed.init_process_group(
        "nccl", store=store, rank=0, world_size=1, timeout=timedelta(seconds=60)
    )

    def reduce_sum(tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total

    try:
        inner = network_on("cuda")
        wrapped = DistributedDataParallel(inner)
        hooks = Hooks(NORMALISE, reduce_sum=reduce_sum)
        found = [
            train_epoch(network, recipe_of(within, "cuda"), [batch_of(0)], settings_on("cuda"), to)
            for network, within, to in (
                (plain, plain, Hooks(NORMALISE)),
                (wrapped, inner, hooks),
            )
        ]
        clock = CheckpointClock(1e-9, True, torch.device("cuda"), reduce_sum)
        assert clock.is_due()
    finally:
        distributed.destroy_process_group()
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-6)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(inner.state_dict()[name], value, msg=name)


def test_locked_batches_are_copied_beside_the_steps_and_lose_nothing() -> None:
    batches = [batch_of(number) for number in range(6)]
    locked = [Batch(*(tensor.pin_memory() for tensor in batch)) for batch in batches]
    assert all(batch.images.is_pinned() for batch in locked)
    found = []
    for given in (batches, locked):
        network = network_on("cuda")
        recipe = recipe_of(network, "cuda")
        found.append(train_epoch(network, recipe, given, settings_on("cuda"), Hooks(NORMALISE)))
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-6)
    assert found[0].rows == found[1].rows == 6 * ROWS


# The compiler imports what PyTorch itself has given up.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_network_learns_the_same() -> None:
    plain, compiled = network_on("cuda"), network_on("cuda")
    compiled.compile()
    found = [
        train_epoch(
            network,
            recipe_of(network, "cuda"),
            [batch_of(0), batch_of(1)],
            settings_on("cuda"),
            Hooks(NORMALISE),
        )
        for network in (plain, compiled)
    ]
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-3)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "resnet18", "inception_v3"])
def test_networks_of_the_zoo_take_a_step_and_predict(architecture: str) -> None:
    side = 96
    torch.manual_seed(2)
    network = build_network(architecture, CLASSES, image_side=side)
    network = network.to("cuda", memory_format=torch.channels_last)
    before = copy.deepcopy(network.state_dict())
    images = torch.randint(256, (4, side, side, 3), dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    normalise = Preprocessing.for_side(side).normalise
    recipe = recipe_of(network, "cuda", "bf16")
    network.train()
    totals = train_epoch(network, recipe, [batch], settings_on("cuda"), Hooks(normalise))
    assert totals.rows == 3
    assert any(not torch.equal(before[name], it) for name, it in network.state_dict().items())
    device = torch.device("cuda")
    labels, logits = predict(network, [batch], normalise, device, CLASSES)
    assert labels.tolist() == [0, 1, 2]
    assert logits.shape == (3, CLASSES)


def test_the_figures_of_a_gpu_are_told() -> None:
    held = torch.ones(2**28, device="cuda")
    figures = system_figures(torch.device("cuda"))
    assert figures["gpu_memory_gib"] > held.nbytes / 2**30
    assert 0 <= figures.get("gpu_percent", 0.0) <= 100


def test_evaluation_adds_up_as_on_a_cpu() -> None:
    found = [
        evaluate(
            network_on(device),
            [batch_of(1), batch_of(2, rows=5)],
            NORMALISE,
            torch.device(device),
            in_one_process,
            CLASSES,
        )
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(found[0].confusion, found[1].confusion)
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-4)

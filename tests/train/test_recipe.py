"""Each setting of the recipe by what it does to the weights."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import get_model

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.augmentation import Augmentation
from catalog_batch.modeling.mixing import Mixing
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train import checkpoints
from catalog_batch.train.loop import (
    Batch,
    EpochReport,
    FitSettings,
    FitState,
    Hooks,
    evaluate,
    fit,
    in_one_process,
    train_epoch,
)
from catalog_batch.train.recipe import (
    OptimizerName,
    Recipe,
    RecipeSettings,
    make_optimizer,
    parameter_groups,
)

torch.set_num_threads(1)

CPU = torch.device("cpu")
SETTINGS = FitSettings(num_classes=3, epochs=3, patience=3)
SGD = RecipeSettings(optimizer="sgd", learning_rate=0.1)
HOOKS = Hooks(Preprocessing.for_side(8).normalise)


def batch_of(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randint(0, 256, (rows, 8, 8, 3), generator=generator, dtype=torch.uint8),
        torch.randint(0, 3, (rows,), generator=generator),
        torch.ones(rows),
    )


def rows_of(batch: Batch, start: int, end: int) -> Batch:
    return Batch(*(tensor[start:end] for tensor in batch))


def small_network(norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


def weights_of(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def trained(settings: RecipeSettings, *batches: Batch, **options: Any) -> Tensor:
    """Return the weights after an epoch of these batches."""
    network = small_network()
    recipe = Recipe(network, settings, len(batches), **options)
    train_epoch(network, recipe, batches, SETTINGS, HOOKS)
    return weights_of(network)


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    whole = batch_of(16)
    accumulated = trained(
        replace(SGD, accumulate_steps=2), rows_of(whole, 0, 8), rows_of(whole, 8, 16)
    )
    torch.testing.assert_close(accumulated, trained(SGD, whole), rtol=0, atol=1e-6)


def test_unevenly_filled_batches_make_the_step_of_all_their_real_rows() -> None:
    whole = batch_of(10)
    padded = rows_of(whole, 5, 10)
    padded = padded._replace(weights=torch.tensor([1.0, 0, 0, 0, 0]))
    settings = replace(SGD, accumulate_steps=2)
    options = {"class_weights": torch.tensor([0.2, 1.0, 3.0])}
    accumulated = trained(settings, rows_of(whole, 0, 5), padded, **options)
    expected = trained(SGD, rows_of(whole, 0, 6), **options)
    torch.testing.assert_close(accumulated, expected, rtol=0, atol=1e-6)


def test_the_batches_left_at_the_end_of_an_epoch_make_a_step() -> None:
    batches = [batch_of(4, seed) for seed in range(3)]
    first = Batch(*(torch.cat(pair) for pair in zip(*batches[:2], strict=True)))
    accumulated = trained(replace(SGD, accumulate_steps=2), *batches)
    torch.testing.assert_close(accumulated, trained(SGD, first, batches[2]), rtol=0, atol=1e-6)


def test_class_weights_make_the_step_of_torchs_weighted_loss() -> None:
    class_weights = torch.tensor([0.2, 1.0, 3.0])
    network, batch = small_network(), batch_of(6)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    logits = network(HOOKS.normalise(batch.images))
    functional.cross_entropy(logits, batch.labels, class_weights, label_smoothing=0.1).backward()
    optimizer.step()
    ours = trained(replace(SGD, label_smoothing=0.1), batch, class_weights=class_weights)
    torch.testing.assert_close(ours, weights_of(network), rtol=0, atol=1e-6)


def test_focal_loss_makes_a_smaller_step_and_its_gamma_is_of_no_use_to_cross_entropy() -> None:
    batch, start = batch_of(8), weights_of(small_network())
    plain = trained(SGD, batch)
    focal = trained(replace(SGD, loss="focal"), batch)
    assert 0 < (focal - start).norm() < (plain - start).norm()
    torch.testing.assert_close(trained(replace(SGD, focal_gamma=5.0), batch), plain)


def test_clipping_bounds_the_norm_of_the_update() -> None:
    start = weights_of(small_network())
    free = (trained(SGD, batch_of(8)) - start).norm()
    clipped = (trained(replace(SGD, clip_norm=0.5), batch_of(8)) - start).norm()
    assert free > 0.1 * 0.5
    assert clipped.item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_the_head_has_the_full_rate_and_biases_and_norms_no_weight_decay() -> None:
    network = small_network(norm=True)
    settings = replace(SGD, backbone_rate=0.1, weight_decay=0.01)
    groups = parameter_groups(network, settings, ("4.",))
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert [
        ([names[p] for p in group["params"]], pytest.approx(group["lr"]), group["weight_decay"])
        for group in groups
    ] == [
        (["4.weight"], 0.1, 0.01),
        (["4.bias"], 0.1, 0.0),
        (["0.weight"], 0.01, 0.01),
        (["0.bias", "1.weight", "1.bias"], 0.01, 0.0),
    ]


def test_parameters_of_one_rate_and_decay_are_one_group_the_heads_first() -> None:
    network = small_network(norm=True)
    [group] = parameter_groups(network, SGD, ("4.",))
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert [names[parameter] for parameter in group["params"]] == [
        "4.weight", "4.bias", "0.weight", "0.bias", "1.weight", "1.bias"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "left_out"),
    [
        ("swin_t", "relative_position_bias_table"),
        ("vit_b_16", "pos_embedding"),
        ("convnext_tiny", "layer_scale"),
    ],
)
def test_tables_and_scales_have_no_weight_decay_whatever_their_shape(
    architecture: str, left_out: str
) -> None:
    with torch.device("meta"):
        network = get_model(architecture)
    groups = parameter_groups(network, replace(SGD, weight_decay=0.01))
    decayed = {p for group in groups if group["weight_decay"] for p in group["params"]}
    named = dict(network.named_parameters())
    of_kind = {p for name, p in named.items() if name.endswith(left_out)}
    assert {p.ndim > 1 for p in of_kind} == {True}
    assert not of_kind & decayed
    layers = (nn.Linear, nn.Conv2d)
    weights = {m.weight for m in network.modules() if isinstance(m, layers)}
    assert weights <= decayed


def test_the_backbone_moves_at_its_share_of_the_rate() -> None:
    start = weights_of(small_network())
    full = trained(SGD, batch_of(8)) - start
    slow = trained(replace(SGD, backbone_rate=0.1), batch_of(8), head=("4.",)) - start
    backbone = 3 * 4 * 9 + 4
    torch.testing.assert_close(slow[:backbone], full[:backbone] * 0.1, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(slow[backbone:], full[backbone:])


def test_a_head_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"begins with any of \['fc.'\].*'4.bias'"):
        parameter_groups(small_network(), SGD, ("fc.",))


def test_a_warm_up_begins_with_a_small_step_and_an_epoch_ends_on_the_schedule() -> None:
    start = weights_of(small_network())
    first = trained(replace(SGD, warmup_epochs=4, epochs=8), batch_of(8)) - start
    torch.testing.assert_close(first, (trained(SGD, batch_of(8)) - start) / 4)

    network = small_network()
    recipe = Recipe(network, replace(SGD, schedule="cosine", epochs=2, warmup_epochs=0.5), 4)
    rates = []
    for epoch in range(2):
        recipe.begin_epoch(epoch)
        train_epoch(network, recipe, [batch_of(2)] * 4, SETTINGS, HOOKS, epoch)
        rates.append(recipe.learning_rate)
    assert rates == pytest.approx([0.075, 0.0])


def test_one_cycle_moves_momentum_against_the_rate() -> None:
    for name, key in (("sgd", "momentum"), ("adamw", "betas")):
        recipe = Recipe(small_network(), replace(SGD, optimizer=name, schedule="one_cycle"), 10)
        [group, *_] = recipe.optimizer.param_groups
        start = group[key]
        recipe.begin_epoch(3)
        low = group[key]
        assert group["lr"] > 0.09
        assert (start, low) == (
            pytest.approx((0.95, 0.999) if key == "betas" else 0.95),
            pytest.approx((0.85, 0.999) if key == "betas" else 0.85, abs=1e-2),
        )


def test_a_plateau_cuts_the_rate_of_every_group() -> None:
    settings = replace(SGD, schedule="plateau", backbone_rate=0.5)
    recipe = Recipe(small_network(), settings, 1, head=("4.",))
    recipe.begin_epoch(3, [1.0, 1.0, 1.1])
    rates = [group["lr"] for group in recipe.optimizer.param_groups]
    assert rates == pytest.approx([0.01, 0.005])


def test_other_ranks_mean_other_steps_an_epoch_and_the_same_place_in_the_schedule() -> None:
    settings = replace(SGD, schedule="cosine", epochs=4)
    alone, with_many = (Recipe(small_network(), settings, batches) for batches in (20, 5))
    with_many.restore(alone.state())
    with_many.begin_epoch(2)
    assert with_many.learning_rate == pytest.approx(0.05)


def test_the_average_is_the_one_computed_by_hand_and_is_what_is_evaluated() -> None:
    network = small_network(norm=True)
    recipe = Recipe(network, replace(SGD, ema_decay=0.75), 1)
    expected: dict[str, Tensor] = {}
    for seed in range(3):
        train_epoch(network, recipe, [batch_of(4, seed)], SETTINGS, HOOKS)
        for name, tensor in network.state_dict().items():
            before = expected.get(name, tensor)
            expected[name] = before * 0.75 + tensor * 0.25
    averaged = recipe.evaluated.state_dict()
    for name in ("0.weight", "1.running_mean", "4.bias"):
        torch.testing.assert_close(averaged[name], expected[name])
        assert not torch.equal(averaged[name], network.state_dict()[name])


def test_the_average_copies_indices() -> None:
    network = small_network()
    network.register_buffer("index", torch.arange(256))
    recipe = Recipe(network, replace(SGD, ema_decay=0.9999), 1)
    for seed in range(3):
        train_epoch(network, recipe, [batch_of(4, seed)], SETTINGS, HOOKS)
    assert torch.equal(recipe.evaluated.get_buffer("index"), torch.arange(256))


def test_fit_evaluates_the_averaged_weights() -> None:
    network = small_network()
    recipe = Recipe(network, replace(SGD, ema_decay=0.9), 2)
    validation = [batch_of(6, seed=7)]
    state = fit(
        network,
        recipe,
        lambda epoch, first: [batch_of(4, 1), batch_of(4, 2)],
        lambda: validation,
        replace(SETTINGS, epochs=1),
        HOOKS,
    )
    losses = [
        evaluate(module, validation, HOOKS.normalise, CPU, in_one_process, 3).loss
        for module in (recipe.evaluated, network)
    ]
    assert state.history[0].validation_loss == losses[0] != losses[1]


def test_bf16_runs_and_is_close() -> None:
    plain, reduced = (
        trained(replace(SGD, precision=precision), batch_of(8)) for precision in ("fp32", "bf16")
    )
    assert not torch.equal(plain, reduced)
    assert reduced.dtype == torch.float32
    update = plain - weights_of(small_network())
    assert (reduced - plain).norm() < 0.05 * update.norm()


def test_a_scaled_loss_gives_the_same_step_clipped_and_accumulated() -> None:
    settings = replace(SGD, clip_norm=0.5, accumulate_steps=2)
    batches = [batch_of(4, 1), batch_of(4, 2)]
    network = small_network()
    recipe = Recipe(network, settings, 2)
    # Settings allow a scaler on a GPU alone; its arithmetic is the same here.
    recipe._scaler = torch.amp.GradScaler("cpu", 2.0**11)
    train_epoch(network, recipe, batches, SETTINGS, HOOKS)
    torch.testing.assert_close(weights_of(network), trained(settings, *batches))


def test_a_step_that_overflows_leaves_the_weights_and_the_next_run_goes_on_with_its_scale() -> None:
    network = small_network()
    recipe = Recipe(network, SGD, 1)
    recipe._scaler = torch.amp.GradScaler("cpu", 3e38)
    train_epoch(network, recipe, [batch_of(4)], SETTINGS, HOOKS)
    assert torch.equal(weights_of(network), weights_of(small_network()))
    other = Recipe(small_network(), SGD, 1)
    other._scaler = torch.amp.GradScaler("cpu")
    other.restore(recipe.state())
    assert other.state().scaler["scale"] == pytest.approx(1.5e38)


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_a_first_step_that_overflows_leaves_no_trace(optimizer: OptimizerName) -> None:
    found = []
    for overflows in (True, False):
        network = small_network()
        recipe = Recipe(network, replace(SGD, optimizer=optimizer), 1)
        if overflows:
            recipe._scaler = torch.amp.GradScaler("cpu", 3e38)
            train_epoch(network, recipe, [batch_of(4)], SETTINGS, HOOKS)
        recipe._scaler = torch.amp.GradScaler("cpu", 1.0)
        recipe.begin_epoch(0)
        train_epoch(network, recipe, [batch_of(4, seed=1)], SETTINGS, HOOKS)
        found.append(weights_of(network))
    assert torch.equal(*found)


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_weights_that_are_frozen_at_first_join_those_that_are_trained(
    optimizer: OptimizerName,
) -> None:
    network = small_network()
    recipe = Recipe(network, replace(SGD, optimizer=optimizer), 1)
    layers = [layer for layer in network if list(layer.parameters())]
    network.requires_grad_(False)
    for layer in reversed(layers):
        layer.requires_grad_(True)
        before = [parameter.clone() for parameter in network.parameters()]
        train_epoch(network, recipe, [batch_of(4)], SETTINGS, HOOKS)
        changed = [
            not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)
        ]
        assert changed == [parameter.requires_grad for parameter in network.parameters()]


def test_a_resumed_run_goes_on_by_the_kernel_of_this_version_and_at_its_own_rates() -> None:
    recipe = Recipe(small_network(), replace(SGD, optimizer="adam"), 1)
    train_epoch(recipe._network, recipe, [batch_of(4)], SETTINGS, HOOKS)
    # Other groups, of the same parameters in the same order, have no part in what is resumed.
    settings = replace(SGD, optimizer="adam", weight_decay=0.1, learning_rate=0.5)
    other = Recipe(small_network(), settings, 1)
    other.restore(copy.deepcopy(recipe.state()))
    groups = other.optimizer.param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.1), (0.5, 0.0)]
    assert {group["fused"] for group in groups} == {True}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"precision": "fp16"}, "is for GPUs, and this run trains on 'cpu'.*'bf16'"),
        ({"warmup_epochs": 2.5, "epochs": 2}, "warmup_epochs is 2.5 and epochs 2.*1 is usual"),
        ({"schedule": "one_cycle", "warmup_epochs": 0.5}, "warmup_epochs is 0.5.*'cosine'"),
        ({"optimizer": "lion"}, "'adam', 'adamw' or 'sgd'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInputError, match=match):
        Recipe(small_network(), replace(SGD, **changes), 1)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_an_optimizer_is_built_by_name(name: OptimizerName) -> None:
    optimizer = make_optimizer(name, small_network().parameters(), 0.1, weight_decay=0.01)
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__.lower() == name
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.01)


RESUMED = RecipeSettings(
    optimizer="adamw",
    learning_rate=0.01,
    backbone_rate=0.5,
    weight_decay=0.05,
    schedule="cosine",
    warmup_epochs=1.5,
    epochs=4,
    label_smoothing=0.1,
    ema_decay=0.8,
    clip_norm=1.0,
    accumulate_steps=2,
)


class Run:
    """A network with its recipe, as a worker has them."""

    def __init__(self, settings: RecipeSettings = RESUMED) -> None:
        self.network = small_network(norm=True).to(memory_format=torch.channels_last)
        self.recipe = Recipe(self.network, settings, 3, head=("4.",))

    def fit(
        self,
        state: FitState | None = None,
        on_epoch: Callable[[EpochReport, FitState], None] = lambda report, state: None,
        on_partial: Callable[[FitState], None] = lambda state: None,
    ) -> FitState:
        return fit(
            self.network,
            self.recipe,
            lambda epoch, first: [batch_of(4, 10 * epoch + place) for place in range(first, 3)],
            lambda: [batch_of(6, seed=7)],
            replace(SETTINGS, epochs=4, patience=9),
            replace(HOOKS, is_due=lambda: True),
            state,
            on_epoch,
            on_partial,
        )

    def write(self, folder: Path, state: FitState) -> None:
        folder.mkdir()
        checkpoints.write_weights(folder, checkpoints.MODEL, self.network.state_dict())
        checkpoints.write_recipe(folder, self.recipe.state())
        checkpoints.write_json(folder, checkpoints.STATE, state.to_json())

    def read(self, folder: Path) -> FitState:
        self.network.load_state_dict(checkpoints.read_weights(folder, checkpoints.MODEL))
        self.recipe.restore(checkpoints.read_recipe(folder))
        return checkpoints.read_state(folder)


def figures(state: FitState) -> list[tuple[float, ...]]:
    return [(r.train_loss, r.validation_loss, r.learning_rate) for r in state.history]


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "one_cycle"])
def test_a_resumed_run_repeats_an_undisturbed_one_exactly(tmp_path: Path, schedule: Any) -> None:
    warmup_epochs = 0.0 if schedule == "one_cycle" else 1.5
    settings = replace(RESUMED, schedule=schedule, warmup_epochs=warmup_epochs)
    undisturbed, resumed = Run(settings), Run(settings)
    whole = undisturbed.fit(
        on_epoch=lambda report, state: undisturbed.write(tmp_path / str(state.epoch), state)
    )
    rest = resumed.fit(resumed.read(tmp_path / "2"))
    assert figures(rest) == figures(whole)
    for module in ("network", "recipe.evaluated"):
        first, second = (
            run.network if module == "network" else run.recipe.evaluated
            for run in (undisturbed, resumed)
        )
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), (module, name)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_a_run_resumed_within_an_epoch_repeats_an_undisturbed_one_exactly(
    tmp_path: Path, accumulate_steps: int
) -> None:
    settings = replace(RESUMED, accumulate_steps=accumulate_steps)
    undisturbed, resumed = Run(settings), Run(settings)
    saved = []

    def save(state: FitState) -> None:
        assert state.partial is not None
        saved.append((state.epoch, state.partial.batches))
        undisturbed.write(tmp_path / f"{state.epoch}-{state.partial.batches}", state)

    whole = undisturbed.fit(on_partial=save)
    # Three batches an epoch: never after the last, and only after whole steps.
    each = [2] if accumulate_steps == 2 else [1, 2]
    assert saved == [(epoch, batches) for epoch in range(4) for batches in each]
    rest = resumed.fit(resumed.read(tmp_path / "1-2"))
    assert figures(rest) == figures(whole)
    assert [report.train_rows for report in rest.history] == [12, 12, 12, 12]
    for name, tensor in undisturbed.recipe.evaluated.state_dict().items():
        assert torch.equal(tensor, resumed.recipe.evaluated.state_dict()[name]), name


def test_a_checkpoint_of_the_recipe_holds_tensors_and_json_alone(tmp_path: Path) -> None:
    run = Run()
    run.fit()
    run.write(tmp_path / "c", FitState())
    for path in (tmp_path / "c").glob("*.json"):
        json.loads(path.read_text())
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}


def test_mixed_batches_learn_their_probabilities() -> None:
    seen: list[tuple[int, ...]] = []

    class BothHalves(Mixing):
        def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(tuple(images.shape))
            shares = functional.one_hot(labels, 3).float()
            return (images + images.flip(0)) / 2, (shares + shares.flip(0)) / 2

    both_halves = BothHalves("none", 3, seed=1)
    network, batch = small_network(), batch_of(4)
    start = copy.deepcopy(network)
    totals = train_epoch(
        network, Recipe(network, SGD, 1), [batch], SETTINGS, replace(HOOKS, mix=both_halves)
    )
    images, shares = both_halves(HOOKS.normalise(batch.images), batch.labels)
    expected = functional.cross_entropy(start(images), shares)
    assert totals.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (totals.rows, seen[0]) == (4, (4, 3, 8, 8))


def test_the_mode_is_set_on_the_plain_network_before_each_epoch() -> None:
    called: list[tuple[nn.Module, int]] = []
    network = small_network(norm=True)

    def statistics_stay(plain: nn.Module, epoch: int) -> None:
        called.append((plain, epoch))
        plain.train()
        plain[1].eval()  # type: ignore[index]

    fit(
        network,
        Recipe(network, SGD, 1),
        lambda epoch, first: [batch_of(4, epoch)],
        lambda: [],
        replace(SETTINGS, epochs=2),
        Hooks(HOOKS.normalise, Augmentation(), set_mode=statistics_stay),
    )
    assert called == [(network, 0), (network, 1)]
    assert not network.state_dict()["1.running_mean"].any()


def test_a_compiled_network_keeps_the_names_of_its_weights_and_takes_the_same_step() -> None:
    network = small_network()
    recipe = Recipe(network, replace(SGD, ema_decay=0.9), 1)
    network.compile(backend="eager")
    train_epoch(network, recipe, [batch_of(8)], SETTINGS, HOOKS)
    torch.testing.assert_close(weights_of(network), trained(SGD, batch_of(8)))
    names = list(small_network().state_dict())
    assert list(network.state_dict()) == list(recipe.evaluated.state_dict()) == names


@pytest.fixture
def one_rank() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ranks_exchange_gradients_once_a_step_and_not_once_a_batch(one_rank: None) -> None:
    exchanged: list[int] = []

    def count(state: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
        exchanged.append(bucket.index())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    network = small_network()
    recipe = Recipe(network, replace(SGD, accumulate_steps=2), 3)
    parallel = DistributedDataParallel(network)
    parallel.register_comm_hook(None, count)
    batches = [batch_of(4, seed) for seed in range(3)]
    train_epoch(parallel, recipe, batches, SETTINGS, HOOKS)
    assert exchanged.count(0) == 2
    expected = trained(replace(SGD, accumulate_steps=2), *batches)
    torch.testing.assert_close(weights_of(network), expected)

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import GoogLeNetOutputs, InceptionOutputs

from catalog_batch.errors import DivergenceError
from catalog_batch.modeling.augmentation import build_augmentation
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train import loop
from catalog_batch.train.loop import (
    Batch,
    EpochReport,
    FitSettings,
    FitState,
    Hooks,
    PartialEpoch,
    Progress,
    evaluate,
    fit,
    in_one_process,
    train_epoch,
)
from catalog_batch.train.recipe import Recipe, RecipeSettings, RecipeState

torch.set_num_threads(1)

CPU = torch.device("cpu")
SETTINGS = FitSettings(num_classes=3, epochs=3, patience=3)
normalise = Preprocessing.for_side(8).normalise
HOOKS = Hooks(normalise)
SGD = RecipeSettings(optimizer="sgd", learning_rate=0.05)


def batch_of(rows: int, seed: int = 0, side: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randint(0, 256, (rows, side, side, 3), generator=generator, dtype=torch.uint8),
        torch.randint(0, 3, (rows,), generator=generator),
        torch.ones(rows),
    )


def with_padding(batch: Batch, rows: int) -> Batch:
    padding = batch_of(rows, seed=99)
    joined = [torch.cat(pair) for pair in zip(batch, padding, strict=True)]
    joined[2][len(batch.weights) :] = 0
    return Batch(*joined)


def small_network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16, 3),
    )


def gradients(network: nn.Module) -> list[Tensor]:
    return [
        parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None
    ]


def one_step(
    batch: Batch, reduce_sum: Callable[[Tensor], Tensor] = in_one_process, world_size: int = 1
) -> list[Tensor]:
    network = small_network()
    settings = replace(SETTINGS, world_size=world_size)
    train_epoch(
        network, Recipe(network, SGD, 1), [batch], settings, Hooks(normalise, reduce_sum=reduce_sum)
    )
    return gradients(network)


def run_fit(
    settings: FitSettings = SETTINGS,
    validation: Callable[[], Iterable[Batch]] = lambda: [batch_of(6, seed=7)],
    state: FitState | None = None,
    network: nn.Module | None = None,
    recipe: Recipe | None = None,
    on_epoch: Callable[[EpochReport, FitState], None] = lambda report, state: None,
    learning_rate: float = 0.05,
) -> FitState:
    network = network or small_network(dropout=0.5)
    recipe = recipe or Recipe(network, replace(SGD, learning_rate=learning_rate), 2)
    return fit(
        network,
        recipe,
        lambda epoch, first: [batch_of(5, seed=epoch), batch_of(3, seed=epoch + 50)],
        validation,
        settings,
        Hooks(normalise, build_augmentation("article", seed=5)),
        state=state,
        on_epoch=on_epoch,
    )


def losses(state: FitState) -> list[tuple[float, float]]:
    return [(report.train_loss, report.validation_loss) for report in state.history]


def test_the_same_seed_gives_identical_losses() -> None:
    assert losses(run_fit()) == losses(run_fit())


def test_training_lowers_the_loss_of_rows_it_has_seen() -> None:
    batch = batch_of(8)
    network = small_network()
    recipe = Recipe(network, RecipeSettings(learning_rate=1e-2), 1)
    first, *_, last = (train_epoch(network, recipe, [batch], SETTINGS, HOOKS) for _ in range(30))
    assert last.loss < first.loss / 2
    assert last.rows == 8


def test_padding_rows_change_neither_gradient_nor_counts() -> None:
    batch = batch_of(5)
    torch.testing.assert_close(one_step(with_padding(batch, 3)), one_step(batch))

    network = small_network()
    plain = evaluate(network, [batch], normalise, CPU, in_one_process, 3)
    padded = evaluate(network, [with_padding(batch, 3)], normalise, CPU, in_one_process, 3)
    assert padded.rows == plain.rows == 5
    assert padded.loss == pytest.approx(plain.loss)
    assert torch.equal(padded.confusion, plain.confusion)


def test_a_step_of_padding_alone_has_a_gradient_of_zero() -> None:
    only_padding = batch_of(4)._replace(weights=torch.zeros(4))
    assert all(not gradient.any() for gradient in one_step(only_padding))


class WithAuxiliary(nn.Module):
    """A trunk, a main head, and auxiliary ones, which in training answer in a form of their own."""

    def __init__(self, answer: Callable[..., tuple[Tensor, ...]], auxiliary: int) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.answer = answer
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.main = nn.Linear(36, 3)
        self.others = nn.ModuleList(nn.Linear(36, 3) for _ in range(auxiliary))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(images)
        return self.answer(self.main(features), *(other(features) for other in self.others))


@pytest.mark.parametrize(
    ("answer", "auxiliary", "share"),
    [(InceptionOutputs, 1, 0.4), (GoogLeNetOutputs, 2, 0.3)],
    ids=["Inception v3", "GoogLeNet"],
)
def test_auxiliary_heads_add_their_share_to_the_gradient_and_nothing_to_the_loss_told(
    answer: Callable[..., tuple[Tensor, ...]], auxiliary: int, share: float
) -> None:
    network, batch = WithAuxiliary(answer, auxiliary), batch_of(5)
    expected = copy.deepcopy(network)
    logits, *others = (
        cross_entropy(output, batch.labels) for output in expected(normalise(batch.images))
    )
    (logits + sum(share * other for other in others)).backward()
    totals = train_epoch(
        network, Recipe(network, SGD, 1), [with_padding(batch, 3)], SETTINGS, HOOKS
    )
    torch.testing.assert_close(gradients(network), gradients(expected))
    assert totals.loss == pytest.approx(logits.item(), rel=1e-5)


def test_two_unevenly_filled_ranks_average_to_the_gradient_of_one() -> None:
    whole = batch_of(5)
    first = Batch(*(tensor[:4] for tensor in whole))
    second = with_padding(Batch(*(tensor[4:] for tensor in whole)), 3)

    def sum_over_ranks(tensor: Tensor) -> Tensor:
        is_row_count = tensor.ndim == 0
        return torch.tensor(5.0) if is_row_count else tensor

    ranks = [one_step(batch, sum_over_ranks, world_size=2) for batch in (first, second)]
    averaged = [torch.stack(pair).mean(dim=0) for pair in zip(*ranks, strict=True)]
    torch.testing.assert_close(averaged, one_step(whole))


def test_ranks_leave_an_epoch_with_the_mean_of_their_batch_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3))
    recipe = Recipe(network, replace(SGD, ema_decay=0.9), 1)
    other_rank = torch.tensor([1.0, 2.0, 3.0])

    def sum_over_ranks(tensor: Tensor) -> Tensor:
        return tensor + other_rank if tensor.shape == other_rank.shape else tensor

    settings = replace(SETTINGS, world_size=2)
    train_epoch(
        network, recipe, [batch_of(4)], settings, Hooks(normalise, reduce_sum=sum_over_ranks)
    )
    own = nn.BatchNorm2d(3)
    own(normalise(batch_of(4).images))
    assert own.running_mean is not None
    for module in (network, recipe.evaluated):
        mean = dict(module.named_buffers())["0.running_mean"]
        torch.testing.assert_close(mean, (own.running_mean + other_rank) / 2)


@pytest.mark.parametrize(("seconds", "told_after"), [(0.0, [1, 2, 3]), (60.0, [3])])
def test_progress_is_told_every_few_seconds_and_at_the_end_of_an_epoch(
    seconds: float, told_after: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_TELLS", seconds)
    told: list[Progress] = []
    network = small_network()
    hooks = Hooks(normalise, on_progress=told.append)
    batches = [batch_of(4, seed) for seed in range(3)]
    totals = train_epoch(network, Recipe(network, SGD, 3), batches, SETTINGS, hooks, epoch=5)
    assert [(progress.epoch, progress.batches) for progress in told] == [(5, n) for n in told_after]
    assert 0 < told[-1].wait_seconds < told[-1].seconds <= totals.seconds


def test_the_confusion_matrix_has_true_classes_as_rows() -> None:
    class AlwaysOne(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(images), 1)

    batch = batch_of(3)._replace(labels=torch.tensor([0, 1, 2]))
    evaluation = evaluate(AlwaysOne(), [batch], normalise, CPU, in_one_process, 3)
    assert evaluation.confusion.tolist() == [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert evaluation.accuracy == pytest.approx(1 / 3)


def fit_while_labels_turn(validation_labels: list[int], **changes: Any) -> FitState:
    """Train on class 0; each epoch's validation rows are of the next of these classes."""
    labels = iter(validation_labels)
    batch = batch_of(8)._replace(labels=torch.zeros(8, dtype=torch.int64))
    network = small_network()
    return fit(
        network,
        Recipe(network, RecipeSettings(learning_rate=1e-2), 1),
        lambda epoch, first: [batch],
        lambda: [batch._replace(labels=torch.full((8,), next(labels)))],
        replace(SETTINGS, **changes),
        HOOKS,
    )


def test_training_stops_after_patience_and_flags_the_best_epoch() -> None:
    # The labels turn round after the second epoch: from there on the validation loss rises.
    state = fit_while_labels_turn([0, 0, 2, 2, 2, 2, 2], epochs=20, patience=2)
    assert [report.improved for report in state.history] == [True, True, False, False]
    assert state.best_loss == state.history[1].validation_loss
    assert state.epochs_without_improvement == 2


def test_the_last_weights_are_kept_when_asked_for_and_all_epochs_run() -> None:
    state = fit_while_labels_turn([0, 2, 2, 2], epochs=4, patience=1, keep_last=True)
    assert [report.improved for report in state.history] == [True] * 4
    losses = [report.validation_loss for report in state.history]
    assert state.best_loss == losses[0] < losses[-1]


def test_a_run_resumed_from_json_continues_the_same_history() -> None:
    undisturbed = run_fit()

    network = small_network(dropout=0.5)
    recipe = Recipe(network, SGD, 2)
    saved = run_fit(replace(SETTINGS, epochs=1), network=network, recipe=recipe)
    state = FitState.from_json(json.loads(json.dumps(saved.to_json())))
    assert state == saved
    resumed = run_fit(state=state, network=network, recipe=recipe)
    assert losses(resumed) == losses(undisturbed)
    assert [report.epoch for report in resumed.history] == [0, 1, 2]


def test_within_an_epoch_dropout_and_augmentation_go_on_as_if_nothing_had_happened() -> None:
    undisturbed = run_fit()
    network = small_network(dropout=0.5)
    recipe = Recipe(network, SGD, 2)
    kept: list[tuple[FitState, nn.Module, RecipeState]] = []

    def batches(epoch: int, first: int) -> list[Batch]:
        return [batch_of(5, seed=epoch), batch_of(3, seed=epoch + 50)][first:]

    def run(network: nn.Module, recipe: Recipe, state: FitState | None) -> FitState:
        return fit(
            network,
            recipe,
            batches,
            lambda: [batch_of(6, seed=7)],
            SETTINGS,
            Hooks(normalise, build_augmentation("article", seed=5), is_due=lambda: True),
            state,
            on_partial=lambda state: kept.append(copy.deepcopy((state, network, recipe.state()))),
        )

    assert losses(run(network, recipe, None)) == losses(undisturbed)
    state, network, recipe_state = kept[1]
    assert state.partial is not None
    assert (state.epoch, state.partial.batches, state.partial.totals[0][3]) == (1, 1, 5)
    state = FitState.from_json(json.loads(json.dumps(state.to_json())))
    assert state == kept[1][0]
    recipe = Recipe(network, SGD, 2)
    recipe.restore(recipe_state)
    torch.rand(3)
    assert losses(run(network, recipe, state)) == losses(undisturbed)


def test_a_state_of_two_ranks_keeps_the_totals_of_each() -> None:
    saved: list[PartialEpoch] = []
    other = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 2.0, 1.0, 2.0]], dtype=torch.float64)

    def sum_over_ranks(tensor: Tensor) -> Tensor:
        return tensor + other if tensor.shape == other.shape else tensor

    network = small_network()
    train_epoch(
        network,
        Recipe(network, SGD, 2),
        [batch_of(4), batch_of(4)],
        replace(SETTINGS, world_size=2),
        Hooks(normalise, reduce_sum=sum_over_ranks, is_due=lambda: True),
        save=saved.append,
    )
    [partial] = saved
    assert partial.totals[1] == (3.0, 2.0, 1.0, 2.0)
    assert (partial.batches, partial.totals[0][1], partial.totals[0][3]) == (1, 4.0, 4.0)


def test_a_run_that_had_stopped_does_nothing_when_resumed() -> None:
    stopped = FitState(epoch=1, best_loss=0.1, epochs_without_improvement=3)
    assert run_fit(state=stopped).history == []


def test_a_state_that_has_not_begun_goes_through_json() -> None:
    text = json.dumps(FitState().to_json(), allow_nan=False)
    assert FitState.from_json(json.loads(text)) == FitState()


def test_each_epoch_is_reported_once_with_the_state_that_follows_it() -> None:
    seen: list[tuple[int, int, int]] = []
    run_fit(
        on_epoch=lambda report, state: seen.append((report.epoch, state.epoch, len(state.history)))
    )
    assert seen == [(0, 1, 1), (1, 2, 2), (2, 3, 3)]


def test_without_validation_rows_the_training_loss_decides() -> None:
    report = run_fit(validation=lambda: []).history[0]
    assert report.validation_rows == 0
    assert report.validation_loss == report.train_loss
    assert report.improved


def test_the_report_tells_rows_speed_and_waiting() -> None:
    report = run_fit().history[0]
    assert (report.train_rows, report.validation_rows) == (8, 6)
    assert report.images_per_second == pytest.approx(8 / report.seconds)
    assert 0 <= report.wait_share <= 1


def test_a_loss_that_is_not_finite_names_epoch_batch_and_learning_rate() -> None:
    with pytest.raises(DivergenceError, match=r"epoch 0, batch 1, with learning rate 1e\+30"):
        run_fit(learning_rate=1e30)


@pytest.mark.parametrize(("architecture", "side"), [("googlenet", 32), ("inception_v3", 299)])
def test_auxiliary_heads_learn_too(architecture: str, side: int) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 3, image_side=side)
    recipe = Recipe(network, SGD, 1)
    totals = train_epoch(network, recipe, [batch_of(2, side=side)], SETTINGS, HOOKS)
    auxiliary = [
        parameter
        for name, parameter in network.named_parameters()
        if name.startswith(("aux", "AuxLogits"))
    ]
    assert auxiliary and all(parameter.grad is not None for parameter in auxiliary)
    assert totals.rows == 2

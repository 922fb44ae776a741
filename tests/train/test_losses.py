"""Losses equal torch's own where torch has them, and the formula where it has not."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from catalog_batch.errors import BadInputError
from catalog_batch.train.losses import Loss, balanced_class_weights, focal_rows

CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0])
LABELS = torch.tensor([0, 2, 1, 2])
ONES = torch.ones(4)


def logits() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(3)) * 2


def probabilities() -> Tensor:
    return torch.rand(4, 3, generator=torch.Generator().manual_seed(4)).softmax(dim=1)


def mean(loss: Loss, targets: Tensor, weights: Tensor = ONES) -> Tensor:
    return loss.total(logits(), targets, weights) / loss.mass(targets, weights)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS])
def test_the_mean_over_class_indices_is_torchs(
    smoothing: float, class_weights: Tensor | None
) -> None:
    expected = functional.cross_entropy(
        logits(), LABELS, weight=class_weights, label_smoothing=smoothing
    )
    loss = Loss(label_smoothing=smoothing, class_weights=class_weights)
    torch.testing.assert_close(mean(loss, LABELS), expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_probabilities_of_one_class_count_like_its_index(gamma: float) -> None:
    loss = Loss(gamma, 0.1, CLASS_WEIGHTS)
    one_hot = functional.one_hot(LABELS, 3).float()
    torch.testing.assert_close(mean(loss, one_hot), mean(loss, LABELS))


def test_a_row_of_several_classes_has_the_mean_of_their_weights() -> None:
    targets = torch.tensor([[0.5, 0.0, 0.5]])
    assert Loss(class_weights=CLASS_WEIGHTS).mass(targets, torch.ones(1)).item() == 1.75


def test_padding_counts_neither_in_the_total_nor_in_the_mass() -> None:
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0])
    loss = Loss(2.0, 0.1, CLASS_WEIGHTS)
    kept = loss.total(logits()[:2], LABELS[:2], ONES[:2]) / loss.mass(LABELS[:2], ONES[:2])
    torch.testing.assert_close(mean(loss, LABELS, weights), kept)


def test_focal_loss_with_gamma_0_is_cross_entropy_with_weights_and_smoothing() -> None:
    smoothed = probabilities() * 0.9 + 0.1 / 3
    expected = functional.cross_entropy(
        logits(), probabilities(), CLASS_WEIGHTS, reduction="none", label_smoothing=0.1
    )
    rows = focal_rows(logits(), smoothed * CLASS_WEIGHTS, gamma=0.0)
    torch.testing.assert_close(rows, expected)


def test_focal_loss_weighs_a_row_by_what_its_class_lacks() -> None:
    share = logits().softmax(dim=1)[range(4), LABELS]
    expected = ((1 - share) ** 2 * -share.log()).sum()
    torch.testing.assert_close(Loss(focal_gamma=2.0).total(logits(), LABELS, ONES), expected)


def test_a_certain_row_has_a_focal_gradient_of_zero_and_not_of_nan() -> None:
    certain = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    Loss(focal_gamma=0.5).total(certain, LABELS[:1], torch.ones(1)).backward()
    assert certain.grad is not None
    assert not certain.grad.any()


def test_balanced_weights_give_each_class_the_same_sum_and_a_row_the_mean_of_1() -> None:
    rows = torch.tensor([10, 30, 60])
    weights = balanced_class_weights(rows.tolist())
    torch.testing.assert_close(weights * rows, torch.full((3,), 100 / 3))
    assert (weights * rows).sum().item() == pytest.approx(100)


def test_a_class_without_rows_cannot_be_balanced() -> None:
    with pytest.raises(BadInputError, match=r"\[3, 0\].*class_weights = 'none'"):
        balanced_class_weights([3, 0])

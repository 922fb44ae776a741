from typing import Literal

import pytest
import torch
from torch import Tensor

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.mixing import Mixing

Name = Literal["mixup", "cutmix", "both"]
NAMES: tuple[Name, ...] = ("mixup", "cutmix", "both")
CLASSES = 6


def plain_images(count: int = 6, side: int = 40) -> Tensor:
    """Make one image a class, each of one value: its class index."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, side, side).clone()


LABELS = torch.arange(CLASSES)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_has_the_share_of_the_probability_that_it_has_of_the_pixels(name: Name) -> None:
    mixing = Mixing(name, CLASSES, seed=1, alpha=1.0)
    for _ in range(10):
        images, probabilities = mixing(plain_images(), LABELS)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(CLASSES))
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)), probabilities @ LABELS.float())
        assert probabilities.dtype == images.dtype == torch.float32
        assert images.shape == (6, 3, 40, 40)


def test_mixup_averages_two_pictures_and_cutmix_pastes_a_rectangle() -> None:
    averaged, _ = Mixing("mixup", CLASSES, seed=1, alpha=1.0)(plain_images(), LABELS)
    assert averaged.flatten(1).std(dim=1).max() < 1e-6
    pasted, probabilities = Mixing("cutmix", CLASSES, seed=1, alpha=1.0)(plain_images(), LABELS)
    for label, image in enumerate(pasted):
        assert set(image.unique().tolist()) == {label, (label - 1) % CLASSES}
        foreign = image[0] != label
        assert foreign.sum() == foreign.any(dim=0).sum() * foreign.any(dim=1).sum()
        assert foreign.float().mean().item() == pytest.approx(
            1 - probabilities[label, label].item(), abs=1e-6
        )


def test_both_draws_one_of_the_two_for_each_batch() -> None:
    mixing = Mixing("both", CLASSES, seed=1, alpha=1.0)
    batches = [mixing(plain_images(), LABELS)[0] for _ in range(40)]
    averaged = sum(bool(images.flatten(1).std(dim=1).max() < 1e-6) for images in batches)
    assert 10 < averaged < 30


def test_a_large_alpha_mixes_in_halves_and_a_small_one_hardly() -> None:
    def own_share(alpha: float) -> Tensor:
        mixing = Mixing("mixup", CLASSES, seed=1, alpha=alpha)
        return torch.stack([mixing(plain_images(), LABELS)[1].amax() for _ in range(50)])

    assert own_share(1000).max() < 0.6
    assert own_share(0.05).median() > 0.99


def test_none_keeps_the_images_and_gives_each_label_all() -> None:
    images = plain_images()
    same, probabilities = Mixing("none", CLASSES, seed=1)(images, LABELS)
    assert same is images
    assert torch.equal(probabilities, torch.eye(CLASSES))


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_draws_the_same_whatever_was_drawn_before(name: Name) -> None:
    undisturbed, resumed, other = (Mixing(name, CLASSES, seed, alpha=2.0) for seed in (1, 1, 2))
    undisturbed(plain_images(), LABELS)
    for mixing in (undisturbed, resumed, other):
        mixing.begin_epoch(5)
    images, probabilities = undisturbed(plain_images(), LABELS)
    again, same_probabilities = resumed(plain_images(), LABELS)
    assert torch.equal(images, again)
    assert torch.equal(probabilities, same_probabilities)
    assert not torch.equal(images, other(plain_images(), LABELS)[0])
    resumed.begin_epoch(6)
    assert not torch.equal(images, resumed(plain_images(), LABELS)[0])


@pytest.mark.parametrize("name", NAMES)
def test_mixing_leaves_batch_and_torchs_own_generator_alone(name: Name) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    images = plain_images()
    Mixing(name, CLASSES, seed=1, alpha=1.0)(images, LABELS)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(images, plain_images())


def test_an_unknown_mixing_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"'paste'.*'none', 'mixup', 'cutmix' or 'both'"):
        Mixing("paste", CLASSES, seed=1)  # type: ignore[arg-type]

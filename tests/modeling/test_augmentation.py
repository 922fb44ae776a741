from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

from catalog_batch.config import TrainSettings
from catalog_batch.errors import BadInputError
from catalog_batch.modeling.augmentation import Augmentation, build_augmentation
from catalog_batch.modeling.retouching import levels

torch.set_num_threads(1)

Name = Literal["article", "trivial", "rand", "crop"]
NAMES = get_args(Name)
MEAN = (0.5, 0.25, 0.125)


def pictures(count: int = 6, side: int = 32) -> Tensor:
    """Draw noise: no two pictures, rows or columns are the same."""
    generator = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator).to(torch.uint8)


def everything(name: Name, seed: int = 1) -> Augmentation:
    return build_augmentation(name, seed, colour_jitter=0.3, erasing=0.5)


def test_no_augmentation_returns_the_batch_itself() -> None:
    images = pictures()
    assert build_augmentation("none", seed=1)(images) is images


def test_every_name_of_the_settings_is_built() -> None:
    names = get_args(TrainSettings.model_fields["augmentation"].annotation)
    assert set(names) == {*NAMES, "none"}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_come_out_as_they_went_in_and_the_batch_is_left_as_it_was(name: Name) -> None:
    images = pictures()
    before = images.clone()
    changed = everything(name)(images)
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert changed.is_contiguous()
    assert not torch.equal(changed, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_of_a_batch_is_changed_in_its_own_way(name: Name) -> None:
    changed = build_augmentation(name, seed=1)(pictures(1).repeat(8, 1, 1, 1))
    # A few of TrivialAugment's and RandAugment's operations change nothing, or draw no strength.
    assert len({image.numpy().tobytes() for image in changed}) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_made_of_its_own_pixels_alone(name: Name) -> None:
    images = pictures()
    others_replaced = images.clone()
    others_replaced[1:] = 0
    changed, alone = everything(name)(images), everything(name)(others_replaced)
    assert torch.equal(changed[0], alone[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_and_another_differs(name: Name) -> None:
    first, again, other = (everything(name, seed)(pictures()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_draws_the_same_whatever_was_drawn_before(name: Name) -> None:
    undisturbed, resumed = everything(name), everything(name)
    undisturbed(pictures())
    for augmentation in (undisturbed, resumed):
        augmentation.begin_epoch(5)
    after_epoch_five = undisturbed(pictures())
    assert torch.equal(after_epoch_five, resumed(pictures()))
    assert not torch.equal(after_epoch_five, resumed(pictures()))
    resumed.begin_epoch(6)
    assert not torch.equal(after_epoch_five, resumed(pictures()))


@pytest.mark.parametrize("name", NAMES)
def test_drawing_leaves_torchs_own_generator_alone(name: Name) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    everything(name)(pictures())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_does_not_follow_torchs_own_generator(name: Name) -> None:
    torch.manual_seed(3)
    first = everything(name)(pictures())
    torch.manual_seed(4)
    assert torch.equal(first, everything(name)(pictures()))


@pytest.mark.parametrize("name", NAMES)
def test_lower_precision_around_it_changes_no_pixel(name: Name) -> None:
    images = pictures()
    expected = everything(name)(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(everything(name)(images), expected)


@pytest.mark.parametrize("name", ["trivial", "rand"])
def test_corners_that_a_rotation_bares_have_the_mean_colour(name: Name) -> None:
    white = torch.full((60, 32, 32, 3), 255, dtype=torch.uint8)
    corners = build_augmentation(name, seed=1, mean=MEAN)(white)[:, 0, 0]
    bared = (corners == torch.tensor(levels(MEAN))).all(dim=1)
    assert 3 <= bared.sum() <= 40


def test_colour_jitter_and_erasing_come_without_an_augmentation_too() -> None:
    black = torch.zeros(200, 16, 16, 3, dtype=torch.uint8)
    erased = build_augmentation("none", seed=1, colour_jitter=0.5, erasing=0.5, mean=MEAN)(black)
    assert erased.view(-1, 3).unique(dim=0).tolist() == [[0, 0, 0], levels(MEAN)]
    grey = torch.full((200, 16, 16, 3), 100, dtype=torch.uint8)
    brightness = build_augmentation("none", seed=1, colour_jitter=0.5)(grey).view(200, -1)
    assert torch.equal(brightness.amin(dim=1), brightness.amax(dim=1))
    assert len(brightness[:, 0].unique()) > 50


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"'heavy'.*'article', 'trivial', 'rand'"):
        build_augmentation("heavy", seed=1)  # type: ignore[arg-type]

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.retouching import ColourJitter, Erasing, levels, recolour

torch.set_num_threads(1)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, low: int = 0, high: int = 256) -> Tensor:
    values = torch.randint(low, high, (count, 20, 24, 3), generator=generator(9))
    return values.to(torch.uint8)


@pytest.mark.parametrize(
    ("place", "reference"),
    [
        (0, functional.adjust_brightness),
        (1, functional.adjust_contrast),
        (2, functional.adjust_saturation),
    ],
)
def test_each_factor_does_what_torchvisions_does(place: int, reference: object) -> None:
    images = noise(3)
    strengths = (0.6, 1.0, 1.3)
    factors = [torch.ones(3) for _ in range(3)]
    factors[place] = torch.tensor(strengths)
    changed = recolour(images, *factors)
    for picture, image, strength in zip(changed, images, strengths, strict=True):
        expected = reference(image.permute(2, 0, 1), strength)  # type: ignore[operator]
        # torchvision cuts decimals off where this rounds, of the greys too.
        torch.testing.assert_close(
            picture.permute(2, 0, 1).short(), expected.short(), rtol=0, atol=1
        )


def test_factors_together_do_what_they_do_one_after_the_other() -> None:
    images = noise(3, 100, 140)
    brightness, contrast, saturation = torch.tensor([[0.8, 1.2, 1.1], [0.7, 1.3, 1], [1.4, 0.5, 0]])
    one = torch.ones(3)
    expected = recolour(images, one, one, saturation)
    expected = recolour(expected, one, contrast, one)
    expected = recolour(expected, brightness, one, one)
    changed = recolour(images, brightness, contrast, saturation)
    torch.testing.assert_close(changed.short(), expected.short(), rtol=0, atol=2)


def test_factors_of_1_and_a_strength_of_0_keep_every_pixel() -> None:
    images = noise(4)
    assert torch.equal(recolour(images, *torch.ones(3, 4)), images)
    assert torch.equal(ColourJitter(0.0)(images, generator()), images)


def test_brightness_spreads_over_the_range_that_is_set() -> None:
    grey = torch.full((300, 4, 4, 3), 100, dtype=torch.uint8)
    changed = ColourJitter(0.3)(grey, generator())[:, 0, 0, 0]
    assert 70 <= changed.min() <= 73
    assert 127 <= changed.max() <= 130


def erased_pixels(share: float, count: int = 300, side: int = 100) -> Tensor:
    """Tell which pixels of white pictures were erased: bool [N, side, side]."""
    white = torch.full((count, side, side, 3), 255, dtype=torch.uint8)
    changed = Erasing(share)(white, generator())
    blank = (changed == torch.tensor(levels(Erasing(share).colour))).all(dim=-1)
    assert (changed[~blank] == 255).all()
    return blank


def test_the_share_of_pictures_that_is_set_loses_a_rectangle() -> None:
    losing = erased_pixels(0.25, count=600, side=40).flatten(1).any(dim=1)
    assert 0.2 < losing.float().mean() < 0.3
    assert not erased_pixels(0.0, side=40).any()
    assert erased_pixels(1.0, side=40).flatten(1).any(dim=1).all()


def test_a_blank_is_one_rectangle_of_2_to_20_percent_of_the_area() -> None:
    blank = erased_pixels(1.0)
    heights, widths = blank.any(dim=2).sum(dim=1), blank.any(dim=1).sum(dim=1)
    areas = blank.flatten(1).sum(dim=1)
    assert torch.equal(areas, heights * widths)
    # A side is off by up to a pixel, of a hundred.
    assert 0.015 < areas.min() / 10_000 < 0.03
    assert 0.18 < areas.max() / 10_000 < 0.215
    assert (heights > 1.5 * widths).any()
    assert (widths > 1.5 * heights).any()


def test_blanks_reach_all_sides_of_a_picture() -> None:
    where = erased_pixels(1.0).any(dim=0)
    assert where[0].any() and where[-1].any() and where[:, 0].any() and where[:, -1].any()


def test_the_mean_becomes_almost_0_for_the_network() -> None:
    images = Erasing(1.0)(torch.full((1, 50, 50, 3), 255, dtype=torch.uint8), generator())
    normalised = Preprocessing.for_side(50).normalise(images)
    assert 0 < normalised.abs().amin(dim=(2, 3)).max() < 0.01

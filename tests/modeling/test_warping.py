import math

import pytest
import torch
from torch import Tensor

from catalog_batch.modeling.warping import ArticleWarp, RandomCrop, warp

torch.set_num_threads(1)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(count: int, height: int, width: int) -> Tensor:
    """Draw the same picture ``count`` times: red grows with the row, green with the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    one = torch.stack([rows * (255 // height), columns * (255 // width), rows + columns], dim=-1)
    return one.to(torch.uint8).repeat(count, 1, 1, 1)


def sources(changed: Tensor, row: int, column: int) -> Tensor:
    """Tell from its colour where a pixel of each picture came from: [N, 2], row and column."""
    _, height, width, _ = changed.shape
    return changed[:, row, column, :2] / torch.tensor([255 // height, 255 // width])


def test_the_article_warp_without_ranges_keeps_a_picture_or_mirrors_it() -> None:
    images = coordinates(16, 24, 24)
    changed = ArticleWarp(rotation=0, shift=0, shear=0, zoom=0)(images, generator())
    pairs = list(zip(changed, images, strict=True))
    kept = [torch.equal(after, before) for after, before in pairs]
    mirrored = [torch.equal(after, before.flip(1)) for after, before in pairs]
    assert all(one != other for one, other in zip(kept, mirrored, strict=True))
    assert 0 < sum(kept) < 16


@pytest.mark.parametrize("step", [ArticleWarp(), RandomCrop()])
def test_what_comes_in_from_outside_repeats_the_border(step: ArticleWarp | RandomCrop) -> None:
    colours = torch.arange(1, 31, dtype=torch.uint8).view(-1, 1, 1, 1)
    plain = (colours * 8).expand(30, 20, 28, 3).contiguous()
    assert torch.equal(step(plain, generator()), plain)


def test_shifts_stay_within_their_share_of_the_side() -> None:
    changed = ArticleWarp(rotation=0, shift=0.2, shear=0, zoom=0)(
        coordinates(200, 24, 24), generator()
    )
    moved = (sources(changed, 12, 12)[:, 0] - 12).abs()
    assert 4 < moved.max() <= 0.2 * 24 + 0.1


def test_zoom_stays_within_its_share_of_the_side() -> None:
    changed = ArticleWarp(rotation=0, shift=0, shear=0, zoom=0.2)(
        coordinates(200, 50, 50), generator()
    )
    zoom = (sources(changed, 35, 25) - sources(changed, 15, 25))[:, 0] / 20
    assert 0.8 - 0.02 <= zoom.min() < 0.83
    assert 1.17 < zoom.max() <= 1.2 + 0.02


@pytest.mark.parametrize(("height", "width"), [(60, 60), (60, 120)])
def test_rotation_keeps_distances_in_pixels(height: int, width: int) -> None:
    changed = ArticleWarp(rotation=20, shift=0, shear=0, zoom=0)(
        coordinates(50, height, width), generator()
    )
    row, column = height // 2, width // 2
    along = sources(changed, row, column + 20) - sources(changed, row, column - 20)
    torch.testing.assert_close(along.norm(dim=1), torch.full((50,), 40.0), rtol=0.02, atol=0)
    turns = (along[:, 0].abs() / along[:, 1].abs()).atan()
    assert math.radians(15) < turns.max() <= math.radians(20) + 0.02


def test_a_crop_is_an_upright_part_of_the_picture_in_the_ranges_set() -> None:
    changed = RandomCrop()(coordinates(300, 63, 63), generator())
    height, width = (sources(changed, 62, 62) - sources(changed, 0, 0)).abs().unbind(1)
    area, ratio = height / 62 * width / 62, width / height
    assert 0.34 < area.min() < 0.4
    assert 0.9 < area.max() < 1.01
    assert 0.74 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.35
    same_row = sources(changed, 0, 62)[:, 0] - sources(changed, 0, 0)[:, 0]
    assert same_row.abs().max() <= 0.25


def test_crops_lie_anywhere_and_half_of_them_are_mirrored() -> None:
    changed = RandomCrop(scale=(0.5, 0.5), ratio=(1, 1))(coordinates(300, 63, 63), generator())
    left = torch.minimum(sources(changed, 0, 0)[:, 1], sources(changed, 0, 62)[:, 1])
    room = 63 * (1 - math.sqrt(0.5))
    assert left.min() < 1
    assert left.max() > room - 1
    assert abs(left.mean() - room / 2) < 1.5
    mirrored = sources(changed, 0, 0)[:, 1] > sources(changed, 0, 62)[:, 1]
    assert 120 < mirrored.sum() < 180


def test_a_map_is_of_output_to_source_points() -> None:
    images = coordinates(2, 20, 30)
    right_half = torch.tensor([[0.5, 0, 0.5], [0, 1, 0]]).expand(2, 2, 3)
    warped = warp(images, right_half)
    assert sources(warped, 0, 0)[:, 1].tolist() == pytest.approx([14.75] * 2, abs=0.1)
    assert sources(warped, 0, 29)[:, 1].tolist() == pytest.approx([29.0] * 2, abs=0.3)

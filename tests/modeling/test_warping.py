import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import horizontal_flip, resized_crop

from catalog_batch.modeling.warping import ArticleWarp, RandomCrop, box_affine, crop, warp

torch.set_num_threads(1)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coordinates(count: int, height: int, width: int) -> Tensor:
    """Draw the same picture ``count`` times: red grows with the row, green with the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    one = torch.stack([rows * (255 // height), columns * (255 // width), rows + columns], dim=-1)
    return one.to(torch.uint8).repeat(count, 1, 1, 1)


def noise(count: int, height: int, width: int) -> Tensor:
    """Draw pictures in which no two rows or columns are the same."""
    return torch.randint(0, 256, (count, height, width, 3), generator=generator()).byte()


def levels_apart(one: Tensor, other: Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def sources(changed: Tensor, row: int, column: int) -> Tensor:
    """Tell from its colour where a pixel of each picture came from: [N, 2], row and column."""
    _, height, width, _ = changed.shape
    return changed[:, row, column, :2] / torch.tensor([255 // height, 255 // width])


def test_the_default_ranges_are_the_articles() -> None:
    ranges = {"rotation": 20.0, "shift": 0.2, "shear": 0.2, "zoom": 0.2}
    assert vars(ArticleWarp()) == vars(ArticleWarp(**ranges))


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
    # Boxes of whole pixels: a side may be off by half of one.
    area, ratio = height / 62 * width / 62, width / height
    assert 0.34 < area.min() < 0.4
    assert 0.9 < area.max() < 1.01
    assert 0.73 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.37
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


def test_a_warp_is_what_torchs_own_grid_gives_whatever_the_number_of_pictures() -> None:
    images = noise(9, 20, 30)
    affine = torch.eye(2, 3) + torch.randn(9, 2, 3, generator=generator()) / 5
    grid = functional.affine_grid(affine, [9, 3, 20, 30], align_corners=False)
    channels_first = images.permute(0, 3, 1, 2).float()
    expected = functional.grid_sample(
        channels_first, grid, padding_mode="border", align_corners=False
    )
    warped = warp(images, affine)
    assert levels_apart(warped, expected.permute(0, 2, 3, 1).round()) <= 1
    alone = [warp(image[None], one[None]) for image, one in zip(images, affine, strict=True)]
    assert torch.equal(warped, torch.cat(alone))


BOXES = torch.tensor([[3, 2, 20, 12], [0, 0, 30, 20], [13, 7, 17, 13], [29, 19, 1, 1]])


def test_a_crop_is_torchvisions_and_mirrored_where_told() -> None:
    images = noise(4, 20, 30)
    changed = crop(images, BOXES, torch.tensor([1, -1, -1, 1]))
    for picture, box, after, is_mirrored in zip(
        images, BOXES.tolist(), changed, [False, True, True, False], strict=True
    ):
        left, top, width, height = box
        # In floats, which do not go through the kernel for bytes.
        whole = picture.permute(2, 0, 1).float()
        part = resized_crop(whole, top, left, height, width, [20, 30], antialias=True)
        expected = (horizontal_flip(part) if is_mirrored else part).permute(1, 2, 0)
        assert levels_apart(after, expected.round()) <= 1
    assert torch.equal(changed[1], images[1].flip(1))


def test_a_warp_of_boxes_gives_a_crops_pixels_within_the_outermost() -> None:
    images, mirror = noise(3, 20, 30), torch.tensor([1, -1, -1])
    warped = warp(images, box_affine(BOXES[:3], mirror, 20, 30))
    cropped = crop(images, BOXES[:3], mirror)
    assert levels_apart(warped[:, 1:-1, 1:-1], cropped[:, 1:-1, 1:-1]) <= 1


def test_a_crop_starts_at_any_pixel_where_it_fits_as_often_as_at_another() -> None:
    images = coordinates(1200, 6, 6)
    changed = RandomCrop(scale=(0.25, 0.25), ratio=(1, 1))(images, generator())
    top = sources(changed, 0, 0)[:, 0].round()
    left = torch.minimum(sources(changed, 0, 0)[:, 1], sources(changed, 0, 5)[:, 1]).round()
    for starts in (top, left):
        assert starts.unique().tolist() == [0, 1, 2, 3]
        assert starts.int().bincount().min() > 240


def test_a_crop_of_next_to_nothing_is_one_pixel() -> None:
    images = noise(5, 8, 8)
    changed = RandomCrop(scale=(1e-6, 1e-6))(images, generator())
    for after, before in zip(changed.view(5, -1, 3), images.view(5, -1, 3), strict=True):
        [colour] = after.unique(dim=0)
        assert (before == colour).all(dim=1).any()

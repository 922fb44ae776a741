import math

import pytest
import torch
from torch import Tensor

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.augmentation import ArticleAugmentation, build_augmentation

torch.set_num_threads(1)


def pictures(count: int = 4, height: int = 24, width: int = 24) -> Tensor:
    """Draw the same picture ``count`` times: each pixel holds its own row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    one = torch.stack([rows, columns, rows + columns]).float()
    return one.repeat(count, 1, 1, 1)


def test_no_augmentation_returns_the_batch_itself() -> None:
    images = pictures()
    assert build_augmentation("none", seed=1)(images) is images


def test_each_picture_of_a_batch_is_changed_in_its_own_way() -> None:
    changed = build_augmentation("article", seed=1)(pictures())
    assert changed.shape == (4, 3, 24, 24)
    assert len({float(image.sum()) for image in changed}) == 4


def test_a_seed_repeats_and_another_differs() -> None:
    first, again, other = (build_augmentation("article", seed)(pictures()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_draws_the_same_whatever_was_drawn_before() -> None:
    undisturbed, resumed = (build_augmentation("article", seed=1) for _ in range(2))
    undisturbed(pictures())
    for augmentation in (undisturbed, resumed):
        augmentation.begin_epoch(5)
    after_epoch_five = undisturbed(pictures())
    assert torch.equal(after_epoch_five, resumed(pictures()))
    resumed.begin_epoch(6)
    assert not torch.equal(after_epoch_five, resumed(pictures()))


def test_drawing_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_augmentation("article", seed=1)(pictures())
    assert torch.equal(torch.rand(2), expected)


def test_without_ranges_a_picture_is_kept_or_mirrored() -> None:
    unchanged = ArticleAugmentation(1, rotation=0, shift=0, shear=0, zoom=0)
    images = pictures(16)
    pairs = list(zip(unchanged(images), images, strict=True))
    kept = [torch.allclose(after, before, atol=1e-4) for after, before in pairs]
    mirrored = [torch.allclose(after, before.flip(-1), atol=1e-4) for after, before in pairs]
    assert all(one != other for one, other in zip(kept, mirrored, strict=True))
    assert 0 < sum(kept) < 16


def test_what_comes_in_from_outside_repeats_the_border() -> None:
    images = pictures()
    changed = build_augmentation("article", seed=1)(images)
    assert changed.min() >= images.min() - 1e-3
    assert changed.max() <= images.max() + 1e-3
    white = torch.ones_like(images)
    torch.testing.assert_close(build_augmentation("article", seed=1)(white), white)


def test_shifts_stay_within_their_share_of_the_side() -> None:
    only_shifts = ArticleAugmentation(1, rotation=0, shift=0.2, shear=0, zoom=0)
    centre_row = only_shifts(pictures(200))[:, 0, 12, 12]
    assert 4 < (centre_row - 12).abs().max() <= 0.2 * 24 + 1e-3


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 80)])
def test_rotation_keeps_distances_in_pixels(height: int, width: int) -> None:
    only_turns = ArticleAugmentation(1, rotation=20, shift=0, shear=0, zoom=0)
    changed = only_turns(pictures(50, height, width))
    row, column = height // 2, width // 2
    along = changed[:, :2, row, column + 1] - changed[:, :2, row, column]
    torch.testing.assert_close(along.norm(dim=1), torch.ones(50), rtol=1e-3, atol=1e-3)
    turns = (along[:, 0].abs() / along[:, 1].abs()).atan()
    assert math.radians(15) < turns.max() <= math.radians(20) + 1e-3


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(BadInputError, match="'article' or 'none'"):
        build_augmentation("heavy", seed=1)  # type: ignore[arg-type]

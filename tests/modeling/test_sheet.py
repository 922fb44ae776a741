import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from catalog_batch.modeling.augmentation import build_augmentation
from catalog_batch.modeling.mixing import Mixing
from catalog_batch.modeling.sheet import GAP, HEADER, augmentation_sheet

SIDE = 32


def pictures(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=generator).to(torch.uint8)


def tile(sheet: Image.Image, row: int, column: int) -> npt.NDArray[np.uint8]:
    left, top = GAP + column * (SIDE + GAP), HEADER + row * (SIDE + GAP)
    return np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE)))


def sheet_of(images: Tensor, title: str = "crop, seed 1") -> Image.Image:
    augment = build_augmentation("crop", seed=1)
    return augmentation_sheet(images, augment, title, versions=3, side=SIDE)


def test_originals_stand_at_the_left_and_what_training_sees_beside_them() -> None:
    images = pictures()
    sheet = sheet_of(images)
    augment = build_augmentation("crop", seed=1)
    for column, expected in enumerate([images, augment(images), augment(images), augment(images)]):
        for row in range(2):
            assert np.array_equal(tile(sheet, row, column), expected[row].numpy())


def test_tiles_are_apart_on_white_below_a_header_with_the_title() -> None:
    sheet = sheet_of(pictures())
    assert sheet.mode == "RGB"
    assert sheet.size == (GAP + 4 * (SIDE + GAP), HEADER + 2 * (SIDE + GAP))
    pixels = np.asarray(sheet)
    assert (pixels[HEADER:, SIDE + GAP : SIDE + 2 * GAP] == 255).all()
    assert (pixels[:HEADER] < 100).any()
    assert sheet.tobytes() != sheet_of(pictures(), "another title").tobytes()


def test_a_seed_repeats_the_sheet() -> None:
    assert sheet_of(pictures()).tobytes() == sheet_of(pictures()).tobytes()


def test_pictures_are_scaled_to_the_side() -> None:
    sheet = augmentation_sheet(pictures(3), build_augmentation("none", 1), "", versions=1, side=16)
    assert sheet.size == (GAP + 2 * (16 + GAP), HEADER + 3 * (16 + GAP))


def test_mixing_is_shown_on_the_right_alone() -> None:
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    images = black_and_white.expand(2, SIDE, SIDE, 3)
    halves = Mixing("mixup", num_classes=1, seed=1, alpha=1000)
    sheet = augmentation_sheet(
        images, build_augmentation("none", 1), "mixup", halves, versions=1, side=SIDE
    )
    assert (tile(sheet, 0, 0) == 0).all()
    assert (tile(sheet, 1, 0) == 255).all()
    assert abs(tile(sheet, 0, 1).mean() - 127.5) < 20
    assert tile(sheet, 0, 1).std() == 0

"""Quality: what each number says, against plain numpy and pictures whose answer is known."""

import dataclasses
import math
import subprocess
import sys

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from catalog_batch.ingest.quality import measure


def plain(colour: tuple[int, int, int], width: int = 256, height: int = 340) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def photo(seed: int, width: int = 256, height: int = 340) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def on_white(share: float, width: int = 256, height: int = 256) -> Image.Image:
    """Draw a red square on white that covers ``share`` of the picture."""
    picture = plain((255, 255, 255), width, height)
    half = math.sqrt(share) / 2
    box = [width * (0.5 - half), height * (0.5 - half), width * (0.5 + half), height * (0.5 + half)]
    ImageDraw.Draw(picture).rectangle(box, fill=(200, 20, 20))
    return picture


def bits_apart(one: Image.Image, other: Image.Image) -> int:
    hashes = [measure(picture).perceptual_hash for picture in (one, other)]
    assert hashes[0] is not None and hashes[1] is not None
    return ((hashes[0] ^ hashes[1]) & (2**64 - 1)).bit_count()


@pytest.mark.parametrize(
    ("colour", "brightness"), [((0, 0, 0), 0.0), ((255, 255, 255), 1.0), ((51, 51, 51), 0.2)]
)
def test_a_plain_surface_has_a_brightness_and_nothing_else(
    colour: tuple[int, int, int], brightness: float
) -> None:
    seen = measure(plain(colour))
    assert seen.brightness == pytest.approx(brightness)
    assert (seen.contrast, seen.sharpness, seen.entropy) == pytest.approx((0, 0, 0), abs=1e-6)
    assert (seen.perceptual_hash, seen.background_share) == (None, 1.0)


def test_faint_noise_on_a_plain_surface_is_not_hashed() -> None:
    noise = np.random.default_rng(1).integers(243, 247, (340, 256, 3)).astype(np.uint8)
    seen = measure(Image.fromarray(noise))
    assert seen.perceptual_hash is None
    assert seen.background_share == 1.0


def test_the_numbers_are_those_that_numpy_gives_for_the_luma() -> None:
    picture = photo(2)
    luma = np.asarray(picture.convert("L")).astype(float)
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    shares = np.bincount(luma.astype(int).ravel()) / luma.size
    entropy = -sum(share * math.log2(share) for share in shares if share)
    seen = measure(picture)
    assert seen.brightness == pytest.approx(luma.mean() / 255)
    assert seen.contrast == pytest.approx(luma.std() / 255)
    assert seen.sharpness == pytest.approx((around - 4 * luma[1:-1, 1:-1]).var(), rel=1e-3)
    assert seen.entropy == pytest.approx(entropy)


def test_half_black_half_white_has_the_highest_contrast_and_one_bit() -> None:
    picture = plain((0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 128, 340))
    seen = measure(picture)
    assert seen.contrast == pytest.approx(0.5)
    assert seen.entropy == pytest.approx(1.0)


def test_noise_has_almost_eight_bits() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (256, 256), dtype=np.uint8)
    assert measure(Image.fromarray(noise).convert("RGB")).entropy > 7.9


def test_a_blurred_picture_is_less_sharp() -> None:
    noise = np.random.default_rng(4).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    sharp = Image.fromarray(noise)
    soft, softer = (sharp.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 3))
    assert measure(sharp).sharpness > 10 * measure(soft).sharpness
    assert measure(soft).sharpness > 10 * measure(softer).sharpness


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
def test_the_background_is_what_an_object_leaves_free(share: float) -> None:
    assert measure(on_white(share)).background_share == pytest.approx(1 - share, abs=0.04)


def test_a_colour_of_the_same_luma_is_not_background() -> None:
    picture = plain((120, 120, 120))
    picture.paste((255, 75, 0), (64, 85, 192, 255))
    assert measure(picture).background_share == pytest.approx(0.75, abs=0.04)


def test_the_hash_is_the_phash_as_a_signed_bigint() -> None:
    for seed in range(12):
        picture = photo(seed)
        seen = measure(picture).perceptual_hash
        assert seen is not None and -(2**63) <= seen < 2**63
        # The first bit is the mean, which exceeds the median of the other frequencies.
        assert seen < 0
        assert seen & (2**64 - 1) == int(str(imagehash.phash(picture.reduce(4))), 16)


@pytest.mark.parametrize("seed", range(5))
def test_pictures_that_look_alike_have_close_hashes(seed: int) -> None:
    picture = photo(seed)
    smaller = picture.resize((192, 255), Image.Resampling.LANCZOS)
    brighter = picture.point(lambda value: min(255, value * 1.1))
    assert bits_apart(picture, smaller) <= 6
    assert bits_apart(picture, brighter) <= 8
    assert bits_apart(picture, photo(seed + 100)) > 12


def test_the_same_picture_has_the_same_measures() -> None:
    assert measure(photo(5)) == measure(photo(5).copy())


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (1, 16_384), (16_384, 1), (16, 16), (300, 2)])
def test_every_size_has_finite_measures(size: tuple[int, int]) -> None:
    seen = dataclasses.astuple(measure(photo(6, *size)))
    assert all(value is None or math.isfinite(value) for value in seen)


def test_measuring_needs_no_engine() -> None:
    script = (
        "import sys; from catalog_batch.ingest import quality; "
        "print([m for m in ('pyspark', 'scipy', 'torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"

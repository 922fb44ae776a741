import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from catalog_batch.modeling.preprocessing import ImageDecodeError, Preprocessing

torch.set_num_threads(1)

PREPROCESSING = Preprocessing(side=28, resize_side=32)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def smooth(width: int, height: int) -> Image.Image:
    """Draw a picture that is red to the right and green to the bottom."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red + 128], axis=2).astype(np.uint8))


def test_the_usual_preprocessing_cuts_224_out_of_256() -> None:
    assert Preprocessing.for_side(224).resize_side == 256
    assert Preprocessing.for_side(299).resize_side == 342


def test_preprocessing_goes_through_json() -> None:
    text = json.dumps(Preprocessing.for_side(299).to_json())
    assert Preprocessing.from_json(json.loads(text)) == Preprocessing.for_side(299)


@pytest.mark.parametrize(
    "change",
    [
        {"side": 0},
        {"side": 33},
        {"mean": [0.5]},
        {"std": [0, 1, 1]},
        {"crop": "centre"},
        {"interpolation": "lanczos"},
    ],
)
def test_preprocessing_that_cannot_be_carried_out_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Preprocessing.from_json({**PREPROCESSING.to_json(), **change})


@pytest.mark.parametrize("size", [(32, 32), (100, 40), (33, 200), (10, 10), (500, 300)])
def test_any_picture_becomes_a_square_of_bytes(size: tuple[int, int]) -> None:
    pixels = PREPROCESSING.decode(encoded(smooth(*size)))
    assert pixels.shape == (28, 28, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    image = smooth(47, 32)
    pixels = PREPROCESSING.decode(encoded(image))
    assert np.array_equal(pixels, np.array(image)[2:30, 9:37])


def test_the_centre_is_that_of_resizing_first_and_cutting_then() -> None:
    image = smooth(160, 96)
    resized = image.resize((53, 32), Image.Resampling.BILINEAR)
    expected = np.array(resized.crop((12, 2, 40, 30))).astype(int)
    assert np.abs(PREPROCESSING.decode(encoded(image)) - expected).max() <= 3


def test_bicubic_is_what_pillow_calls_so() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    steps = Preprocessing(side=32, resize_side=32, interpolation="bicubic")
    expected = np.array(image.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(steps.decode(encoded(image)), expected)
    bilinear = Preprocessing(side=32, resize_side=32).decode(encoded(image))
    assert not np.array_equal(bilinear, expected)
    assert Preprocessing.from_json(steps.to_json()) == steps


def test_a_large_jpeg_decoded_at_a_smaller_scale_shows_the_same() -> None:
    image = smooth(300, 280)
    scaled = PREPROCESSING.decode(encoded(image, "JPEG", quality=95)).astype(int)
    assert np.abs(scaled - PREPROCESSING.decode(encoded(image))).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (40, 40), 255)
    image = Image.fromarray(np.full((40, 40), 65535, np.uint16)) if mode == "I;16" else None
    content = encoded(
        image or grey.convert("RGB").convert(mode), "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    )
    assert (PREPROCESSING.decode(content) >= 250).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_become_white(mode: str) -> None:
    clear_black = Image.new(mode, (40, 40), (0,) * len(Image.new(mode, (1, 1)).getbands()))
    assert (PREPROCESSING.decode(encoded(clear_black)) == 255).all()


def test_a_palette_with_a_transparent_colour_becomes_white_there() -> None:
    content = encoded(Image.new("P", (40, 40), 0), transparency=0)
    assert (PREPROCESSING.decode(content) == 255).all()


def bad_pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg, png = (encoded(Image.fromarray(noise), format) for format in ("JPEG", "PNG"))
    huge = encoded(Image.new("1", (6000, 6000)))
    return {
        "empty": b"",
        "text": b"<html>not found</html>",
        "cut_jpeg": jpeg[: len(jpeg) // 2],
        "cut_png": png[: len(png) // 2],
        "broken_png_chunk": png[:40] + b"\xff" * 8 + png[48:],
        "claims_36_megapixels": huge,
    }


@pytest.mark.parametrize("content", bad_pictures().values(), ids=bad_pictures().keys())
def test_bytes_that_cannot_be_decoded_raise_one_error(content: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        PREPROCESSING.decode(content)


def test_want_of_memory_is_not_held_against_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(smooth(40, 40), "JPEG")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError):
        PREPROCESSING.decode(content)


def test_bytes_flipped_anywhere_raise_that_error_or_none() -> None:
    generator = np.random.default_rng(1)
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        content = bytearray(encoded(smooth(40, 40), format))
        for position in generator.integers(0, min(len(content), 400), 60):
            damaged = content.copy()
            damaged[position] ^= 0xFF
            try:
                assert PREPROCESSING.decode(bytes(damaged)).shape == (28, 28, 3)
            except ImageDecodeError as error:
                assert str(error)


def test_normalised_values_have_the_mean_and_deviation_taken_off() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    normalised = PREPROCESSING.normalise(images)
    assert (normalised.shape, normalised.dtype) == ((2, 3, 4, 5), torch.float32)
    expected = (images[1, 2, 3].double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / (
        torch.tensor([0.229, 0.224, 0.225])
    )
    torch.testing.assert_close(normalised[1, :, 2, 3].double(), expected, rtol=1e-5, atol=1e-5)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_normalising_leaves_the_pictures_as_they_were() -> None:
    images = torch.full((1, 4, 4, 3), 7, dtype=torch.uint8)
    PREPROCESSING.normalise(images)
    assert (images == 7).all()

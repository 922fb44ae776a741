"""Decoding: what is stored, what is rejected and why, and that nothing raises."""

import io
import random
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from catalog_batch.imaging import DecodePolicy, Reason, Rejection, StoredImage, decode_image

RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 180, 20), (20, 20, 220), (220, 220, 20)
CORNERS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right
POLICY = DecodePolicy()
SMALL = DecodePolicy(stored_side=32)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def corners(width: int = 96, height: int = 64) -> Image.Image:
    """Draw four quarters of different colours, wider than high."""
    quarters = np.array([[RED, GREEN], [BLUE, YELLOW]], dtype=np.uint8)
    return Image.fromarray(quarters).resize((width, height), Image.Resampling.NEAREST)


def soft_noise(width: int = 96, height: int = 80, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def stored(content: bytes, policy: DecodePolicy = POLICY) -> tuple[StoredImage, np.ndarray]:
    """Decode, and return also the pixels of the JPEG that would be stored."""
    result = decode_image(content, policy)
    assert isinstance(result, StoredImage), result
    with Image.open(io.BytesIO(result.content)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        assert picture.size == (result.width, result.height)
        return result, np.asarray(picture)


def reason_of(content: bytes, policy: DecodePolicy = POLICY) -> Reason:
    result = decode_image(content, policy)
    assert isinstance(result, Rejection)
    assert result.detail
    return result.reason


def seen_corners(pixels: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """Return the four colours of ``CORNERS`` that the corners are nearest to."""
    height, width, _ = pixels.shape
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    palette = np.array(CORNERS)
    distances = [np.abs(palette - pixels[point].astype(int)).sum(axis=1) for point in points]
    assert max(d.min() for d in distances) < 60
    return tuple(CORNERS[d.argmin()] for d in distances)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that promises any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"<!DOCTYPE html><html><body>404</body></html>", Reason.NOT_AN_IMAGE),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", Reason.NOT_AN_IMAGE),
        (b"\0" * 500, Reason.NOT_AN_IMAGE),
        (b"x", Reason.NOT_AN_IMAGE),
        (encoded(corners(), "ICO"), Reason.FORMAT_NOT_ALLOWED),
        (encoded(corners(), "JPEG2000"), Reason.FORMAT_NOT_ALLOWED),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, Reason.UNDECODABLE),
        (encoded(soft_noise(), "JPEG")[:-300], Reason.TRUNCATED),
        (encoded(soft_noise(), "PNG")[:-300], Reason.TRUNCATED),
        (png_header(5001, 5000), Reason.TOO_MANY_PIXELS),
        (png_header(16_385, 20), Reason.TOO_MANY_PIXELS),
        (png_header(60_000, 60_000), Reason.TOO_MANY_PIXELS),
        (encoded(corners(15, 64), "PNG"), Reason.TOO_SMALL),
        (encoded(corners(1, 1), "GIF"), Reason.TOO_SMALL),
    ],
    ids=lambda value: str(value) if isinstance(value, Reason) else f"{len(value)} bytes",
)
def test_a_bad_image_is_rejected_with_its_reason(content: bytes, reason: Reason) -> None:
    assert reason_of(content) == reason


def test_a_damaged_stream_is_undecodable() -> None:
    content = bytearray(encoded(soft_noise(), "PNG"))
    start = content.index(b"IDAT") + 4
    content[start : start + 40] = b"\xff" * 40
    assert reason_of(bytes(content)) in (Reason.UNDECODABLE, Reason.TRUNCATED)


def test_every_reason_has_a_sentence() -> None:
    sentences = [reason.sentence for reason in Reason]
    assert len(set(sentences)) == len(Reason)
    assert all(text.endswith(".") for text in sentences)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_allowed_format_is_stored_as_a_jpeg(kind: str) -> None:
    image, pixels = stored(encoded(corners(), kind))
    assert image.source_format == kind
    assert (image.source_width, image.source_height) == (96, 64)
    assert not image.is_animated
    assert seen_corners(pixels) == CORNERS


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, (RED, GREEN, BLUE, YELLOW)),
        (2, (GREEN, RED, YELLOW, BLUE)),
        (3, (YELLOW, BLUE, GREEN, RED)),
        (4, (BLUE, YELLOW, RED, GREEN)),
        (5, (RED, BLUE, GREEN, YELLOW)),
        (6, (BLUE, RED, YELLOW, GREEN)),
        (7, (YELLOW, GREEN, BLUE, RED)),
        (8, (GREEN, YELLOW, RED, BLUE)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_exif_orientation_is_applied(
    kind: str, orientation: int, expected: tuple[tuple[int, int, int], ...]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, pixels = stored(encoded(corners(), kind, exif=exif))
    assert seen_corners(pixels) == expected
    assert (image.width < image.height) == (orientation >= 5)
    assert (image.source_width, image.source_height) == (96, 64)


def test_nothing_that_the_source_says_besides_pixels_is_stored() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    for policy in (POLICY, SMALL):
        for kind, options in (("JPEG", {"comment": b"a secret note"}), ("PNG", {})):
            source = encoded(soft_noise(), kind, exif=exif, **options)
            content = stored(source, policy)[0].content
            assert b"secret" in source
            assert b"secret" not in content and b"Exif" not in content


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + struct.pack(">BH", marker, len(data) + 2) + data


def after_soi(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


PLAIN = encoded(soft_noise(), "JPEG", quality=95, subsampling=0)
CANARY = b"canary 7731"


@pytest.mark.parametrize(
    "content",
    [PLAIN, encoded(soft_noise(), "JPEG", restart_marker_blocks=2), PLAIN[:2] + PLAIN[20:]],
    ids=["plain", "restarts", "no JFIF"],
)
def test_a_small_plain_jpeg_is_stored_byte_for_byte(content: bytes) -> None:
    image, pixels = stored(content)
    assert image.content == content
    assert np.array_equal(np.asarray(image.picture), pixels)


@pytest.mark.parametrize(
    "content",
    [
        encoded(soft_noise(), "JPEG", progressive=True),
        encoded(soft_noise().convert("L"), "JPEG"),
        encoded(soft_noise().convert("CMYK"), "JPEG"),
        encoded(soft_noise(), "MPO", save_all=True, append_images=[soft_noise(96, 64)]),
        encoded(soft_noise(300, 290), "JPEG"),
        encoded(soft_noise(), "JPEG", icc_profile=b"a profile"),
        after_soi(PLAIN, *[segment(0xDB, PLAIN[25:90])] * 500),
        PLAIN + b"\0",
        PLAIN + PLAIN,
        PLAIN[:2] + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc") + PLAIN[20:],
    ],
    ids=[
        "progressive",
        "grey",
        "CMYK",
        "MPO",
        "large",
        "ICC",
        "padded",
        "longer",
        "twice",
        "thumbnail",
    ],
)
def test_any_other_jpeg_is_encoded_again(content: bytes) -> None:
    assert stored(content)[0].content != content


def png_with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", CANARY.decode())
    text.add_itxt("XML:com.adobe.xmp", CANARY.decode())
    return encoded(soft_noise(), "PNG", pnginfo=text)


def exif_with_text() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = CANARY.decode()
    return exif


@pytest.mark.parametrize(
    "content",
    [
        encoded(soft_noise(), "JPEG", exif=exif_with_text()),
        encoded(soft_noise(), "WEBP", exif=exif_with_text(), xmp=CANARY),
        encoded(soft_noise(), "TIFF", exif=exif_with_text()),
        encoded(soft_noise(), "GIF", comment=CANARY),
        encoded(soft_noise(), "JPEG", comment=CANARY),
        encoded(soft_noise(), "JPEG", xmp=CANARY),
        encoded(soft_noise(), "JPEG", icc_profile=CANARY),
        after_soi(PLAIN, segment(0xED, b"Photoshop 3.0\0" + CANARY)),
        PLAIN[:20] + segment(0xE0, b"JFXX\0" + CANARY) + PLAIN[20:],
        PLAIN[:-2] + segment(0xFE, CANARY) + PLAIN[-2:],
        PLAIN[:-2] + b"\xff\xd9" + CANARY + b"\xff\xd9",
        png_with_text(),
    ],
    ids=[
        "EXIF",
        "WebP",
        "TIFF",
        "GIF",
        "COM",
        "XMP",
        "ICC",
        "IPTC",
        "JFXX",
        "COM_in_scan",
        "behind",
        "PNG_text",
    ],
)
@pytest.mark.parametrize("policy", [POLICY, SMALL], ids=["as large", "shrunk"])
def test_no_text_of_the_source_is_stored(content: bytes, policy: DecodePolicy) -> None:
    assert CANARY in content
    assert CANARY not in stored(content, policy)[0].content


def test_a_turned_jpeg_is_not_stored_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(corners(), "JPEG", exif=exif)
    image, pixels = stored(content)
    assert image.content != content
    assert image.picture.size == (64, 96) == pixels.shape[1::-1]


def test_the_picture_is_what_the_stored_jpeg_shows() -> None:
    image, pixels = stored(encoded(soft_noise(900, 800), "PNG"))
    assert image.picture.mode == "RGB"
    assert np.abs(np.asarray(image.picture).astype(int) - pixels).mean() < 4


def test_the_subsampling_of_the_policy_is_used() -> None:
    sizes = [
        len(stored(encoded(soft_noise(), "PNG"), DecodePolicy(jpeg_subsampling=how))[0].content)
        for how in ("4:2:0", "4:4:4")
    ]
    assert sizes[0] < sizes[1]


def test_a_fine_pattern_turns_grey_and_does_not_alias() -> None:
    stripes = np.zeros((700, 700, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    _, pixels = stored(encoded(Image.fromarray(stripes), "PNG"))
    assert pixels.std() < 8


def test_a_foreign_file_is_named_by_its_content() -> None:
    pages = {
        b"<!DOCTYPE html><p>404": "text/html",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": "image/svg+xml",
        b"%PDF-1.7\n": "application/pdf",
        b"PK\3\4" + b"\0" * 60: "application/zip",
        b"BMW is no bitmap": "text or data",
    }
    for content, name in pages.items():
        result = decode_image(content, POLICY)
        assert isinstance(result, Rejection) and name in result.detail


def test_any_bytes_at_all_have_an_outcome() -> None:
    generator = random.Random(5)
    starts = [
        b"",
        b"\0\0\0\x18ftyp",
        b"RIFF",
        b"<?xml",
        b"PK\3\4",
        b"BM",
        b"II*\0",
        b"\xff\xd8\xff",
    ]
    for number in range(400):
        content = starts[number % len(starts)] + generator.randbytes(generator.randrange(400))
        assert isinstance(decode_image(content, POLICY), StoredImage | Rejection)


def test_a_broken_orientation_does_not_cost_the_image() -> None:
    for value in (0, 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = value
        assert seen_corners(stored(encoded(corners(), "JPEG", exif=exif))[1]) == CORNERS


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "YCbCr"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "YCbCr" else "JPEG" if mode in ("CMYK", "L") else "PNG"
    _, pixels = stored(encoded(corners().convert(mode), kind))
    if mode in ("CMYK", "P", "YCbCr"):
        assert seen_corners(pixels) == CORNERS
    else:
        assert pixels.std() > 20


def test_a_progressive_jpeg_is_decoded() -> None:
    assert seen_corners(stored(encoded(corners(), "JPEG", progressive=True))[1]) == CORNERS


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_brightness(kind: str) -> None:
    greys = np.linspace(0, 65_535, 96 * 64).reshape(64, 96).astype(np.uint16)
    _, pixels = stored(encoded(Image.fromarray(greys), kind))
    expected = np.linspace(0, 255, 96 * 64).reshape(64, 96)
    assert np.abs(pixels[..., 0] - expected).mean() < 3


def test_a_dark_16_bit_picture_stays_dark() -> None:
    greys = np.full((64, 64), 2_000, dtype=np.uint16)
    assert stored(encoded(Image.fromarray(greys), "PNG"))[1].max() < 16


def test_float_greys_are_stretched_over_the_whole_range() -> None:
    greys = np.linspace(-1, 3, 96 * 64, dtype=np.float32).reshape(64, 96)
    _, pixels = stored(encoded(Image.fromarray(greys), "TIFF"))
    assert pixels.min() < 5 and pixels.max() > 250


@pytest.mark.parametrize("value", [0.0, 0.7, float("nan"), float("inf")])
def test_a_flat_or_senseless_float_picture_is_stored_black(value: float) -> None:
    greys = np.full((64, 64), value, dtype=np.float32)
    _, pixels = stored(encoded(Image.fromarray(greys), "TIFF"))
    assert (pixels.min(), pixels.max()) == (0, 0)


def test_transparency_becomes_white() -> None:
    clear = corners().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    assert stored(encoded(clear, "PNG"))[1].min() > 250
    half = corners().convert("RGBA")
    half.putalpha(Image.new("L", half.size, 128))
    _, pixels = stored(encoded(half, "WEBP", lossless=True))
    assert np.abs(pixels[10, 10].astype(int) - (237, 137, 137)).max() < 8


def test_transparency_of_a_palette_becomes_white() -> None:
    picture = corners().quantize(4)
    content = encoded(picture, "PNG", transparency=picture.getpixel((5, 5)))
    _, pixels = stored(content)
    assert pixels[5, 5].min() > 250
    assert np.abs(pixels[-5, -5].astype(int) - YELLOW).max() < 40


def test_a_grey_picture_with_alpha_becomes_white() -> None:
    picture = Image.merge("LA", [Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 0)])
    assert stored(encoded(picture, "PNG"))[1].min() > 250


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_stored_and_flagged(kind: str) -> None:
    frames = {"save_all": True, "append_images": [corners().rotate(180), soft_noise(96, 64)]}
    image, pixels = stored(encoded(corners(), kind, **frames))
    assert image.is_animated
    assert seen_corners(pixels) == CORNERS


def test_a_picture_of_two_lenses_counts_as_a_jpeg() -> None:
    frames = {"save_all": True, "append_images": [soft_noise(96, 64)]}
    image, pixels = stored(encoded(corners(), "MPO", **frames))
    assert image.source_format == "JPEG"
    assert seen_corners(pixels) == CORNERS


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((320, 240), (43, 32)),
        ((240, 320), (32, 43)),
        ((40, 33), (39, 32)),
        ((32, 90), (32, 90)),
        ((20, 24), (20, 24)),
        ((4_000, 16), (4_000, 16)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_short_side_is_shrunk_and_never_enlarged(
    kind: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image, _ = stored(encoded(corners(*size), kind), SMALL)
    assert (image.width, image.height) == expected


def test_a_scaled_decode_is_close_to_a_full_one() -> None:
    source = soft_noise(1_600, 1_200)
    _, scaled = stored(encoded(source, "JPEG", quality=95), DecodePolicy(stored_side=120))
    _, full = stored(encoded(source, "PNG"), DecodePolicy(stored_side=120))
    assert scaled.shape == full.shape
    assert np.abs(scaled.astype(int) - full).mean() < 2


def test_the_same_bytes_give_the_same_stored_bytes() -> None:
    content = encoded(soft_noise(), "JPEG")
    assert decode_image(content, SMALL) == decode_image(content, SMALL)


def test_a_header_that_promises_gigapixels_is_refused_at_once() -> None:
    started = time.perf_counter()
    assert reason_of(png_header(65_000, 65_000)) == Reason.TOO_MANY_PIXELS
    assert time.perf_counter() - started < 0.5


def samples() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    picture = soft_noise()
    frames = {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}
    greys = np.random.default_rng(1).integers(0, 65_536, (80, 96)).astype(np.uint16)
    return {
        "jpeg": encoded(picture, "JPEG", exif=exif),
        "progressive": encoded(picture, "JPEG", progressive=True),
        "cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "png": encoded(picture, "PNG", exif=exif),
        "16 bit": encoded(Image.fromarray(greys), "PNG"),
        "gif": encoded(picture, "GIF", **frames),
        "webp": encoded(picture, "WEBP", exif=exif, **frames),
        "bmp": encoded(picture, "BMP"),
        "tiff": encoded(picture, "TIFF"),
        "lzw": encoded(picture, "TIFF", compression="tiff_lzw"),
        "mpo": encoded(picture, "MPO", **frames),
    }


SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_picture_cut_anywhere_never_raises(name: str) -> None:
    content = SAMPLES[name]
    for length in range(0, len(content), max(1, len(content) // 60)):
        result = decode_image(content[:length], SMALL)
        assert isinstance(result, StoredImage | Rejection)


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_never_raise(name: str) -> None:
    generator = random.Random(name)
    for _ in range(250):
        content = bytearray(SAMPLES[name])
        reach = generator.choice([len(content), min(400, len(content))])
        for _ in range(generator.choice([1, 1, 2, 4, 16])):
            content[generator.randrange(reach)] = generator.randrange(256)
        result = decode_image(bytes(content), SMALL)
        assert isinstance(result, StoredImage | Rejection)

"""Images that break decoders, made by code alone: the same bytes on every run.

Each has the outcomes that are allowed: ``STORED`` or the reason of a rejection.
"""

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

STORED = "stored"
DAMAGED = frozenset({STORED, "truncated", "undecodable"})
CUT = frozenset({"truncated", "undecodable"})
TOO_LARGE = frozenset({"too_many_pixels"})
FOREIGN = frozenset({"not_an_image"})
NOT_ALLOWED = frozenset({"format_not_allowed"})
# A header may say anything once a bit of it is flipped.
FLIPPED = DAMAGED | {"too_many_pixels", "too_small", "not_an_image", "format_not_allowed"}

RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 180, 20), (20, 20, 220), (220, 220, 20)
HTML = b"<!DOCTYPE html><html><script>alert(1)</script></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@dataclass(frozen=True)
class HostileImage:
    """A file as it may be delivered, and each outcome that is right for it."""

    name: str
    content: bytes
    expected: frozenset[str]


def hostile_images() -> Iterator[HostileImage]:
    """Yield every file of the corpus; those by content are large, so keep one at a time."""
    yield from not_images()
    yield from whole_images()
    yield from cut_images()
    yield from flipped_images()
    yield from bombs_by_header()
    yield from bombs_by_content()
    yield from odd_modes()
    yield from animations()
    yield from odd_metadata()
    yield from polyglots()
    yield from extreme_sizes()


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def corners(width: int = 96, height: int = 64) -> Image.Image:
    """Draw four quarters of different colours: top left, top right, bottom left, bottom right."""
    quarters = np.array([[RED, GREEN], [BLUE, YELLOW]], dtype=np.uint8)
    return Image.fromarray(quarters).resize((width, height), Image.Resampling.NEAREST)


def soft_noise(width: int = 96, height: int = 80, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def every_format() -> dict[str, bytes]:
    picture = soft_noise()
    tiffs = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    return {
        "baseline.jpg": encoded(picture, "JPEG"),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "plain.png": encoded(picture, "PNG"),
        "lossy.webp": encoded(picture, "WEBP"),
        "lossless.webp": encoded(picture, "WEBP", lossless=True),
        "plain.gif": encoded(picture, "GIF"),
        "plain.bmp": encoded(picture, "BMP"),
        **{f"{name}.tif": encoded(picture, "TIFF", compression=name) for name in tiffs},
        "group4.tif": encoded(picture.convert("1"), "TIFF", compression="group4"),
    }


def not_images() -> Iterator[HostileImage]:
    for name, content in {
        "one_byte.jpg": b"\xff",
        "page.jpg": HTML,
        "page_after_blanks.jpg": b"\xef\xbb\xbf \n" + HTML,
        "inline.png": b"<!-- a page --><html><body><svg></svg></body></html>",
        "document.png": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "archive.jpg": zipped(),
        "packed.svgz": gzip.compress(SVG, mtime=0),
        "words.bmp": b"BMW is not a bitmap, however it begins.",
        "zeros.png": b"\0" * 5_000,
        "noise.gif": np.random.default_rng(0).bytes(5_000),
    }.items():
        yield HostileImage(name, content, FOREIGN)
    yield HostileImage("zero_bytes.jpg", b"", frozenset({"empty"}))
    for name, content in {
        "drawing.svg": SVG,
        "drawing_without_prolog.jpg": SVG[SVG.index(b"<svg") :],
        "phone.jpg": heic(),
        "phone.heic": heic(),
        "icon.png": encoded(corners(), "ICO"),
        "paper.jpg": encoded(corners(), "JPEG2000"),
        "modern.jpg": encoded(corners(), "AVIF"),
    }.items():
        yield HostileImage(name, content, NOT_ALLOWED)
    yield HostileImage("jpeg_named.heic", encoded(corners(), "JPEG"), frozenset({STORED}))


def whole_images() -> Iterator[HostileImage]:
    for name, content in every_format().items():
        yield HostileImage(f"whole_{name}", content, frozenset({STORED}))
        yield HostileImage(f"wrong_name_{name}.txt", content, frozenset({STORED}))


def cut_images() -> Iterator[HostileImage]:
    for name, content in every_format().items():
        for percent in (1, 5, 20, 50, 80, 95):
            cut = content[: max(2, len(content) * percent // 100)]
            # A few bytes may be anything.
            allowed = CUT | FOREIGN if percent <= 5 else CUT
            # libtiff fills what is missing of these with grey.
            is_filled = name in ("jpeg.tif", "group4.tif")
            expected = allowed | {STORED} if is_filled else allowed
            yield HostileImage(f"cut_{percent}_{name}", cut, expected)


def flipped_images() -> Iterator[HostileImage]:
    for name, content in every_format().items():
        generator = random.Random(name)
        for number in range(12):
            flipped = bytearray(content)
            reach = len(content) if number % 2 else min(len(content), 200)
            for _ in range(1 + number % 4):
                flipped[generator.randrange(reach)] ^= 1 << generator.randrange(8)
            yield HostileImage(f"flipped_{number}_{name}", bytes(flipped), FLIPPED)


def bombs_by_header() -> Iterator[HostileImage]:
    jpeg, gif, bmp = (bytearray(encoded(soft_noise(), kind)) for kind in ("JPEG", "GIF", "BMP"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 60_000, 60_000)
    struct.pack_into("<HH", gif, 6, 60_000, 60_000)
    struct.pack_into("<ii", bmp, 18, 60_000, 60_000)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    wide = png([("IHDR", header), ("IDAT", zlib.compress(b"\0" * 1_000))])
    yield HostileImage("bomb_header.jpg", bytes(jpeg), TOO_LARGE)
    yield HostileImage("bomb_header.gif", bytes(gif), TOO_LARGE)
    yield HostileImage("bomb_header.bmp", bytes(bmp), TOO_LARGE)
    yield HostileImage("bomb_header.png", wide, TOO_LARGE)
    yield HostileImage("bomb_header.tif", tiff_with({256: 60_000, 257: 60_000}), TOO_LARGE)
    tiles = {322: 32_768, 323: 32_768, 324: 8, 325: 64}
    yield HostileImage("bomb_tile.tif", tiff_with(tiles), TOO_LARGE | CUT)
    yield from webp_bombs()


def webp_bombs() -> Iterator[HostileImage]:
    lossy, lossless = (bytearray(encoded(soft_noise(), "WEBP", lossless=x)) for x in (False, True))
    struct.pack_into("<HH", lossy, 26, 16_383, 16_383)
    struct.pack_into("<I", lossless, 21, 0x0FFFFFFF)
    frames = {"save_all": True, "append_images": [corners(96, 80)]}
    extended = bytearray(encoded(soft_noise(), "WEBP", **frames))
    extended[24:30] = b"\xff\x3f\0\xff\x3f\0"
    for name, content in (("lossy", lossy), ("lossless", lossless), ("extended", extended)):
        yield HostileImage(f"bomb_header_{name}.webp", bytes(content), TOO_LARGE)


def bombs_by_content() -> Iterator[HostileImage]:
    yield HostileImage(
        "30_megapixels.png", encoded(Image.new("L", (6_000, 5_000)), "PNG"), TOO_LARGE
    )
    for mode in ("RGBA", "I;16", "P", "1"):
        picture = Image.new(mode, (4_990, 5_000))
        yield HostileImage(
            f"24_megapixels_{mode}.png", encoded(picture, "PNG"), frozenset({STORED})
        )
    grey = Image.new("F", (4_990, 5_000))
    packed = encoded(grey, "TIFF", compression="tiff_adobe_deflate")
    yield HostileImage("24_megapixels_float.tif", packed, frozenset({STORED}))
    photo = soft_noise(4_990, 5_000)
    for name, options in {"full": {"subsampling": 0}, "progressive": {"progressive": True}}.items():
        content = encoded(photo, "JPEG", **options)
        yield HostileImage(f"24_megapixels_{name}.jpg", content, frozenset({STORED}))
    large_webp = encoded(Image.new("RGB", (4_990, 5_000), RED), "WEBP", method=0)
    yield HostileImage("24_megapixels.webp", large_webp, frozenset({STORED}))
    yield from text_bombs()


def text_bombs() -> Iterator[HostileImage]:
    zeros = zlib.compress(b"\0" * 80_000_000, 9)
    before = ("zTXt", b"note\0\0" + zeros)
    allowed = frozenset({STORED, "undecodable"})
    yield HostileImage("bomb_text.png", png_around(before), allowed)
    yield HostileImage("bomb_profile.png", png_around(("iCCP", b"icc\0\0" + zeros)), allowed)
    yield HostileImage("bomb_itxt.png", png_around(("iTXt", b"n\0\1\0\0\0" + zeros)), allowed)
    many = [("zTXt", b"n\0\0" + zlib.compress(b"\0" * 1_000_000))] * 200
    yield HostileImage("bomb_many_texts.png", png_around(*many), allowed)


def odd_modes() -> Iterator[HostileImage]:
    cmyk = encoded(corners().convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe") + 11
    greys = np.linspace(0, 65_535, 96 * 64).reshape(64, 96)
    grey = corners().convert("L")
    palette = corners().quantize(4)
    with_alpha = corners().convert("RGBA")
    with_alpha.putalpha(grey)
    for name, content in {
        "cmyk.jpg": cmyk,
        "ycck.jpg": cmyk[:adobe] + b"\x02" + cmyk[adobe + 1 :],
        "grey.jpg": encoded(grey, "JPEG"),
        "cmyk.tif": encoded(corners().convert("CMYK"), "TIFF"),
        "ycbcr.tif": encoded(corners().convert("YCbCr"), "TIFF"),
        "16_bit.png": encoded(Image.fromarray(greys.astype(np.uint16)), "PNG"),
        "16_bit.tif": encoded(Image.fromarray(greys.astype(np.uint16)), "TIFF"),
        "16_bit_big.tif": encoded(Image.fromarray(greys.astype(">u2")), "TIFF"),
        "32_bit.tif": encoded(Image.fromarray(greys.astype(np.int32)), "TIFF"),
        "float.tif": encoded(Image.fromarray(greys.astype(np.float32)), "TIFF"),
        "not_a_number.tif": encoded(
            Image.fromarray(np.full((300, 300), np.nan, np.float32)), "TIFF"
        ),
        "infinite.tif": encoded(Image.fromarray(np.full((300, 300), np.inf, np.float32)), "TIFF"),
        "la.png": encoded(Image.merge("LA", [grey, grey]), "PNG"),
        "la.tif": encoded(Image.merge("LA", [grey, grey]), "TIFF"),
        "rgba.webp": encoded(with_alpha, "WEBP"),
        "rgba.tif": encoded(with_alpha, "TIFF"),
        "palette.png": encoded(palette, "PNG", transparency=0),
        "pa.png": encoded(palette, "PNG", transparency=b"\0\x40\x80\xff"),
        "colour_key.png": encoded(corners(), "PNG", transparency=RED),
        "grey_key.png": encoded(grey, "PNG", transparency=0),
        "palette.gif": encoded(palette, "GIF", transparency=1),
    }.items():
        yield HostileImage(name, content, frozenset({STORED}))
    lab = encoded(corners().convert("RGB"), "TIFF")
    yield HostileImage("lab.tif", patched_tag(lab, 262, 8), DAMAGED)


def animations() -> Iterator[HostileImage]:
    few = {"save_all": True, "append_images": [soft_noise(96, 64, seed) for seed in (1, 2)]}
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        content = encoded(corners(), kind, **few)
        yield HostileImage(f"animated.{kind.lower()}", content, frozenset({STORED}))
    dots = [Image.new("P", (16, 16), number % 2) for number in range(4_000)]
    many = encoded(dots[0], "GIF", save_all=True, append_images=dots[1:])
    yield HostileImage("many_frames.gif", many, frozenset({STORED}))
    loop = bytearray(encoded(corners(), "TIFF"))
    (first,) = struct.unpack_from("<I", loop, 4)
    (entries,) = struct.unpack_from("<H", loop, first)
    struct.pack_into("<I", loop, first + 2 + 12 * entries, first)
    yield HostileImage("endless_pages.tif", bytes(loop), DAMAGED)


def with_orientation(kind: str, orientation: int, width: int = 96, height: int = 64) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(corners(width, height), kind, exif=exif)


def odd_metadata() -> Iterator[HostileImage]:
    stored = frozenset({STORED})
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in (*range(10), 65_535):
            content = with_orientation(kind, orientation)
            yield HostileImage(f"orientation_{orientation}.{kind.lower()}", content, stored)
    exifs = {
        "no_tiff": b"Exif\0\0nonsense",
        "cut": b"Exif\0\0II*\0\x08\0\0\0\x05\0",
        "far": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "text": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02six\0",
        "noise": b"Exif\0\0II*\0" + np.random.default_rng(1).bytes(400),
    }
    for name, exif in exifs.items():
        for kind in ("JPEG", "PNG", "WEBP"):
            content = encoded(corners(), kind, exif=exif)
            yield HostileImage(f"exif_{name}.{kind.lower()}", content, stored)
    for name, profile in {"noise": b"\1" * 999, "cut": icc_profile()[:100], "none": b""}.items():
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            content = encoded(corners(), kind, icc_profile=profile)
            yield HostileImage(f"icc_{name}.{kind.lower()}", content, stored)


def icc_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + b"\0" * 12 + profile[36:]  # Without the time at which it was made.


def polyglots() -> Iterator[HostileImage]:
    jpeg, gif, bmp = (encoded(corners(), kind) for kind in ("JPEG", "GIF", "BMP"))
    stored = frozenset({STORED})
    yield HostileImage("archive_behind.gif", gif + zipped(), stored)
    yield HostileImage("archive_behind.jpg", jpeg + zipped(), stored)
    yield HostileImage("page_behind.bmp", bmp + HTML, stored)
    yield HostileImage("page_in_comment.jpg", encoded(corners(), "JPEG", comment=HTML), stored)
    yield HostileImage("two_pictures.jpg", jpeg + encoded(soft_noise(), "PNG"), stored)
    yield HostileImage("script_in_header.gif", b"GIF89a=1;/*" + HTML + b"*/", FLIPPED)
    yield HostileImage("page_before.jpg", HTML + jpeg, FOREIGN)
    yield HostileImage("archive_before.jpg", zipped() + jpeg, FOREIGN)


def extreme_sizes() -> Iterator[HostileImage]:
    small = frozenset({"too_small"})
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF"):
        for size in ((16_384, 1), (1, 16_384), (1, 1)):
            content = encoded(Image.new("RGB", size), kind)
            yield HostileImage(f"{size[0]}x{size[1]}.{kind.lower()}", content, small)
    for size, expected in {
        (16_384, 16): frozenset({STORED}),
        (16, 16_384): frozenset({STORED}),
        (16_384, 1_500): frozenset({STORED}),
        (16_385, 16): TOO_LARGE,
    }.items():
        content = encoded(Image.new("RGB", size, RED), "PNG")
        yield HostileImage(f"{size[0]}x{size[1]}.png", content, expected)


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo("Evil.class"), b"\xca\xfe\xba\xbe" * 50)
    return target.getvalue()


def heic() -> bytes:
    return struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 200


def png(chunks: list[tuple[str, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        body = name.encode() + data
        parts.append(struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body)))
    return b"".join(parts)


def png_around(*extra: tuple[str, bytes]) -> bytes:
    """Return a grey PNG of 64 by 64 pixels with chunks of our own before its pixels."""
    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 65 * 64)
    return png([("IHDR", header), *extra, ("IDAT", pixels), ("IEND", b"")])


def tiff_with(tags: dict[int, int]) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ({256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1} | tags).items():
        directory[tag] = value
    if 322 not in tags:
        directory[273], directory[278], directory[279] = 8, 64, 64
    target = io.BytesIO(b"II*\0\x08\0\0\0")
    target.seek(8)
    directory.save(target)
    return target.getvalue()


def patched_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """Change a number of one word in the first directory of a little-endian TIFF."""
    content = bytearray(tiff)
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    for at in range(first + 2, first + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", content, at) == (tag,):
            struct.pack_into("<H", content, at + 8, value)
    return bytes(content)

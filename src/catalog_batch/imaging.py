"""Bytes to a stored JPEG, or to a named rejection; Pillow only, no engine.

The order of the checks is the policy: each is cheaper than the next, and nothing is decoded before
its header has been believed to be harmless.
"""

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import filetype
from PIL import ExifTags, Image, UnidentifiedImageError

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow raises all of these for damaged files, not OSError alone.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    struct.error,
    zlib.error,
)
# How a file of each allowed format begins. "BM" alone begins words: a size of header follows it.
_MAGIC = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
    "TIFF": re.compile(rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]"),
}
_TEXT_KINDS = {
    "image/svg+xml": re.compile(
        rb"<svg\b|<!doctype svg|<(\?xml|!--)(?!.*<html\b).*<svg\b", re.DOTALL
    ),
    "text/html": re.compile(rb"<!doctype html|<(html|head|body|script)\b"),
}
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Shrinks with antialiasing at a third of the cost of LANCZOS (docs of Image.Resampling).
_FILTER = Image.Resampling.HAMMING
# What a baseline JPEG may consist of to be stored as it is: JFIF without a thumbnail, Adobe's
# colour flag, tables, one frame header, one scan. All else could carry text.
_PLAIN_JPEG = re.compile(
    rb"\xff\xd8"
    rb"(?:\xff\xe0\x00\x10JFIF\0.{7}\0\0)?"
    rb"(?:\xff\xee\x00\x0eAdobe.{7})?",
    re.DOTALL,
)
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_DQT, _DHT, _DRI, _SOF0, _SOS = 0xDB, 0xC4, 0xDD, 0xC0, 0xDA
# More than the raw pixels take (and the usual tables) is padding: encoding again is smaller.
_MAX_BYTES_PER_PIXEL, _TABLE_BYTES = 3, 1_024
_TRUNCATION_MARKS = ("truncated", "broken data stream", "unexpected end", "not enough")


class Reason(StrEnum):
    """Why an image is not stored: the closed list behind ``rejected_images.reason``."""

    MISSING = "missing"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    FORMAT_NOT_ALLOWED = "format_not_allowed"
    TRUNCATED = "truncated"
    UNDECODABLE = "undecodable"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    OUTSIDE_ROOT = "outside_root"
    UNREADABLE = "unreadable"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    CHANGED_WHILE_READING = "changed_while_reading"
    BAD_ROW = "bad_row"

    @property
    def sentence(self) -> str:
        """What the reason means, in one sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.MISSING: "The manifest names a file that does not exist.",
    Reason.EMPTY: "The file has no bytes.",
    Reason.TOO_LARGE: "The file has more bytes than ingest.max_source_bytes.",
    Reason.NOT_AN_IMAGE: "The content is no image, whatever the file is called.",
    Reason.FORMAT_NOT_ALLOWED: f"An image, but none of {', '.join(ALLOWED_FORMATS)}.",
    Reason.TRUNCATED: "The image breaks off before its end.",
    Reason.UNDECODABLE: "The header is that of an image, but its pixels cannot be decoded.",
    Reason.TOO_MANY_PIXELS: "The header promises more than ingest.max_pixels or max_side.",
    Reason.TOO_SMALL: "A side is shorter than ingest.min_side.",
    Reason.CHECKSUM_MISMATCH: "The bytes do not have the SHA-256 that the manifest gives.",
    Reason.OUTSIDE_ROOT: "The location leaves the image root.",
    Reason.UNREADABLE: "The file is there but could not be read.",
    Reason.TIMED_OUT: "Reading or decoding the image took longer than is allowed.",
    Reason.OUT_OF_MEMORY: "Decoding the image needed more memory than is allowed.",
    Reason.CRASHED: "The process that decoded this image alone died.",
    Reason.CHANGED_WHILE_READING: "The file changed while it was read.",
    Reason.BAD_ROW: "The manifest row lacks a product or an image, or cannot be parsed.",
}


@dataclass(frozen=True)
class Rejection:
    """An image that is not stored, and why; ``detail`` says what was seen."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class DecodePolicy:
    """What is accepted (sides and pixels of the source) and how it is stored (short side, JPEG)."""

    stored_side: int = 256
    jpeg_quality: int = 90
    jpeg_subsampling: str = "4:2:0"
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    min_side: int = 16


@dataclass(frozen=True)
class StoredImage:
    """The JPEG to store (RGB, upright) with its own size and what its source was, in pixels.

    ``picture`` holds the stored pixels before they were encoded, to be measured on the same pass.
    """

    content: bytes
    width: int
    height: int
    source_format: str
    source_width: int
    source_height: int
    is_animated: bool
    picture: Image.Image = field(repr=False, compare=False)


def decode_image(content: bytes, policy: DecodePolicy) -> StoredImage | Rejection:
    """Check, decode, straighten and resize one image; a bad one is returned, not raised."""
    if not content:
        return Rejection(Reason.EMPTY, "0 bytes")
    kind = _format_by_content(content)
    if isinstance(kind, Rejection):
        return kind
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of large images; the checks below decide instead.
        warnings.simplefilter("ignore")
        return _webp_problem(content, kind, policy) or _decoded(content, kind, policy)


def _format_by_content(content: bytes) -> str | Rejection:
    """Name the allowed format that the first bytes announce, before any parser sees them."""
    for kind, magic in _MAGIC.items():
        if magic.match(content):
            return kind
    mime = _foreign_kind(content)
    if mime.startswith("image/"):
        return Rejection(Reason.FORMAT_NOT_ALLOWED, f"a {mime} file")
    return Rejection(Reason.NOT_AN_IMAGE, f"looks like {mime}")


def _foreign_kind(content: bytes) -> str:
    if (known := filetype.guess(content[:8_192])) is not None:
        # A few letters are enough for filetype, as in "BM"; the formats above ask for more.
        allowed = known.mime.removeprefix("image/").upper() in (*ALLOWED_FORMATS, "X-MS-BMP")
        return "text or data" if allowed else str(known.mime)
    text = content[:2_048].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((mime for mime, look in _TEXT_KINDS.items() if look.match(text)), "text or data")


def _decoded(content: bytes, kind: str, policy: DecodePolicy) -> StoredImage | Rejection:
    try:
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:
            return _header_problem(image, policy) or _store(image, content, policy)
    except UnidentifiedImageError:
        return Rejection(Reason.UNDECODABLE, f"the header of a damaged {kind}")
    except (*_DECODE_ERRORS, MemoryError, Image.DecompressionBombError) as error:
        return _decode_problem(error)


def _webp_problem(content: bytes, kind: str, policy: DecodePolicy) -> Rejection | None:
    """Refuse a large WebP by its first chunk: opening one already reserves its whole canvas."""
    if kind != "WEBP":
        return None
    chunk, numbers = content[12:16], content[20:30].ljust(10, b"\0")
    if chunk == b"VP8X":
        size = int.from_bytes(numbers[4:7], "little") + 1, int.from_bytes(numbers[7:], "little") + 1
    elif chunk == b"VP8L":
        bits = int.from_bytes(numbers[1:5], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = struct.unpack("<HH", numbers[6:])
        size = width & 0x3FFF, height & 0x3FFF
    return _size_problem(size, policy)


def _size_problem(size: tuple[int, int], policy: DecodePolicy) -> Rejection | None:
    if size[0] * size[1] > policy.max_pixels or max(size) > policy.max_side:
        return Rejection(Reason.TOO_MANY_PIXELS, f"{size[0]}x{size[1]} pixels")
    return None


def _header_problem(image: Image.Image, policy: DecodePolicy) -> Rejection | None:
    too_many = _size_problem(image.size, policy) or _size_problem(_tile(image), policy)
    if too_many is None and min(image.size) < policy.min_side:
        return Rejection(Reason.TOO_SMALL, f"{image.width}x{image.height} pixels")
    return too_many


def _tile(image: Image.Image) -> tuple[int, int]:
    """Return the size of a tile of a TIFF, which is decoded whole and may exceed the picture."""
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    return int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))


def _store(image: Image.Image, content: bytes, policy: DecodePolicy) -> StoredImage:
    source_format, (source_width, source_height) = image.format or "", image.size
    # Looks for a second frame, and so can fail as decoding can.
    is_animated = bool(getattr(image, "is_animated", False))
    # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; never below what is stored.
    image.draft(image.mode, (policy.stored_side, policy.stored_side))
    # One load, first: a second one after a failure returns partial pixels without an error,
    # and reading the orientation of a PNG loads it.
    image.load()
    if _may_stay_as_it_is(image, content, policy):
        picture, stored = image, content
    else:
        picture = _upright(_shrunk_to_rgb(image, policy.stored_side), _orientation(image))
        stored = _encoded(picture, policy)
    return StoredImage(
        content=stored,
        width=picture.width,
        height=picture.height,
        source_format="JPEG" if source_format == "MPO" else source_format,
        source_width=source_width,
        source_height=source_height,
        is_animated=is_animated,
        picture=picture,
    )


def _encoded(picture: Image.Image, policy: DecodePolicy) -> bytes:
    target = io.BytesIO()
    # A comment would be taken over from the source, whatever it says.
    options = {"quality": policy.jpeg_quality, "subsampling": policy.jpeg_subsampling}
    picture.save(target, "JPEG", comment=b"", **options)
    return target.getvalue()


def _may_stay_as_it_is(image: Image.Image, content: bytes, policy: DecodePolicy) -> bool:
    """Tell whether a decoded source already is what would be stored, so nothing need be lost."""
    is_small = min(image.size) <= policy.stored_side
    is_dense = len(content) <= _MAX_BYTES_PER_PIXEL * image.width * image.height + _TABLE_BYTES
    is_rgb_jpeg = image.format == "JPEG" and image.mode == "RGB"
    return is_rgb_jpeg and is_small and is_dense and _is_plain_jpeg(content)


def _is_plain_jpeg(content: bytes) -> bool:
    """Tell whether a JPEG is tables, one baseline scan and its end, with room for nothing else."""
    start = _PLAIN_JPEG.match(content)
    at = start.end() if start else len(content)
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, length = struct.unpack_from(">BH", content, at + 1)
        at += 2 + length
        if marker == _SOS:
            end = _MARKER_IN_SCAN.search(content, at)
            return end is not None and end.group() == b"\xff\xd9" and end.end() == len(content)
        if marker not in (_DQT, _DHT, _DRI, _SOF0):
            return False
    return False


def _decode_problem(error: Exception) -> Rejection:
    message = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Rejection(Reason.TOO_MANY_PIXELS, message)
    if isinstance(error, MemoryError) or "out of memory" in message:
        return Rejection(Reason.OUT_OF_MEMORY, message)
    is_truncated = any(mark in message.lower() for mark in _TRUNCATION_MARKS)
    return Rejection(Reason.TRUNCATED if is_truncated else Reason.UNDECODABLE, message)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none or it makes no sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _shrunk_to_rgb(image: Image.Image, side: int) -> Image.Image:
    """Shrink, flatten transparency on white and convert every mode to RGB, cheapest order first."""
    if image.mode.startswith(("I", "F")):
        return _scaled_to_8_bit(image, side)
    if image.has_transparency_data:
        # A colour that stands for transparency must be looked up before it is blended away.
        has_alpha = image.mode in ("RGBA", "LA")
        picture = _resized(image if has_alpha else image.convert("RGBA"), side).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if image.mode == "L":
        return _resized(image, side).convert("RGB")
    return _resized(image if image.mode == "RGB" else image.convert("RGB"), side)


def _scaled_to_8_bit(image: Image.Image, side: int) -> Image.Image:
    """Map 16-bit and float greys to 8 bits: Pillow's own conversion clips them to white."""
    low, high = 0.0, 65_535.0
    if image.mode in ("I", "F"):
        seen = cast(tuple[float, float], image.getextrema())
        low, high = seen if image.mode == "F" else (low, max(high, seen[1]))
    scale = 255 / max(high - low, 1e-12)
    grey = _resized(image, side).convert("F")
    return grey.point(lambda value: value * scale - low * scale).convert("RGB")


def _resized(picture: Image.Image, side: int) -> Image.Image:
    """Shrink the short side to ``side`` pixels; a smaller picture stays as it is."""
    scale = side / min(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, _FILTER)

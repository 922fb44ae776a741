"""Bytes to a stored JPEG, or to a named rejection; Pillow only, no engine.

The order of the checks is the policy: each is cheaper than the next, and nothing is decoded before
its header has been believed to be harmless.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from enum import StrEnum

import filetype
from PIL import Image, ImageOps, UnidentifiedImageError

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
    Reason.OUTSIDE_ROOT: "The location leaves the image root, or is no file of its kind.",
    Reason.UNREADABLE: "The file is there but could not be read.",
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
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    min_side: int = 16


@dataclass(frozen=True)
class StoredImage:
    """The JPEG to store (RGB, upright) with its own size and what its source was, in pixels."""

    content: bytes
    width: int
    height: int
    source_format: str
    source_width: int
    source_height: int
    is_animated: bool


def decode_image(content: bytes, policy: DecodePolicy) -> StoredImage | Rejection:
    """Check, decode, straighten and resize one image; a bad one is returned, not raised."""
    if not content:
        return Rejection(Reason.EMPTY, "0 bytes")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of large images; the checks below decide instead.
        warnings.simplefilter("ignore")
        opened = _open(content)
        if isinstance(opened, Rejection):
            return opened
        with opened as image:
            return _header_problem(image, policy) or _store(image, policy)


def _open(content: bytes) -> Image.Image | Rejection:
    try:
        return Image.open(io.BytesIO(content), formats=ALLOWED_FORMATS)
    except UnidentifiedImageError:
        return _unidentified(content)
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        return _decode_problem(error)


def _unidentified(content: bytes) -> Rejection:
    kind = filetype.guess(content)
    if kind is None or not kind.mime.startswith("image/"):
        return Rejection(Reason.NOT_AN_IMAGE, f"looks like {kind.mime if kind else 'text or data'}")
    known = kind.mime.removeprefix("image/").upper()
    if known in ALLOWED_FORMATS:
        return Rejection(Reason.UNDECODABLE, f"the header of a damaged {known}")
    return Rejection(Reason.FORMAT_NOT_ALLOWED, f"a {kind.mime} file")


def _header_problem(image: Image.Image, policy: DecodePolicy) -> Rejection | None:
    width, height = image.size
    seen = f"{width}x{height} pixels"
    if width * height > policy.max_pixels or max(width, height) > policy.max_side:
        return Rejection(Reason.TOO_MANY_PIXELS, seen)
    if min(width, height) < policy.min_side:
        return Rejection(Reason.TOO_SMALL, seen)
    return None


def _store(image: Image.Image, policy: DecodePolicy) -> StoredImage | Rejection:
    source_format, (source_width, source_height) = image.format or "", image.size
    try:
        # Looks for a second frame, and so can fail as decoding can.
        is_animated = bool(getattr(image, "is_animated", False))
        # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; never below what is stored.
        image.draft(image.mode, (policy.stored_side, policy.stored_side))
        # One load, first: a second one after a failure returns partial pixels without an error,
        # and reading the orientation of a PNG loads it.
        image.load()
        picture = _resized(_as_rgb(ImageOps.exif_transpose(image)), policy.stored_side)
        encoded = io.BytesIO()
        # A comment would be taken over from the source, whatever it says.
        picture.save(encoded, "JPEG", quality=policy.jpeg_quality, comment=b"")
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        return _decode_problem(error)
    return StoredImage(
        content=encoded.getvalue(),
        width=picture.width,
        height=picture.height,
        source_format="JPEG" if source_format == "MPO" else source_format,
        source_width=source_width,
        source_height=source_height,
        is_animated=is_animated,
    )


def _decode_problem(error: Exception) -> Rejection:
    message = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Rejection(Reason.TOO_MANY_PIXELS, message)
    is_truncated = any(mark in message.lower() for mark in _TRUNCATION_MARKS)
    return Rejection(Reason.TRUNCATED if is_truncated else Reason.UNDECODABLE, message)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Flatten transparency on white and convert every mode to RGB."""
    if image.mode.startswith(("I", "F")):
        return _scaled_to_8_bit(image)
    if "A" in image.getbands() or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """Map 16-bit and float greys to 8 bits: Pillow's own conversion clips them to white."""
    grey = image.convert("F")
    low, high = grey.getextrema()
    if image.mode.startswith("I"):
        low, high = 0.0, max(65_535.0, float(high))  # type: ignore[arg-type]
    span = max(float(high) - float(low), 1e-12)  # type: ignore[arg-type]
    return grey.point(lambda value: value * (255 / span) - float(low) * 255 / span).convert("RGB")  # type: ignore[arg-type]


def _resized(picture: Image.Image, side: int) -> Image.Image:
    """Shrink the short side to ``side`` pixels; a smaller picture stays as it is."""
    scale = side / min(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)

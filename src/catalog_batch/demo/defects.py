"""Images that a pipeline must reject: what a seller's feed holds besides photos."""

import io
from typing import Literal

import numpy as np
from PIL import Image

from catalog_batch.demo.encoding import encode_jpeg
from catalog_batch.demo.photos import Photo
from catalog_batch.demo.planning import Defect

Outcome = Literal[
    "accepted",
    "truncated",
    "empty",
    "not_an_image",
    "format_not_allowed",
    "too_many_pixels",
    "missing",
    "too_small",
]

EXPECTED_OUTCOMES: dict[Defect, Outcome] = {
    "truncated": "truncated",
    "empty": "empty",
    "html": "not_an_image",
    "wrong_extension": "format_not_allowed",
    "too_many_pixels": "too_many_pixels",
    "missing": "missing",
    "too_small": "too_small",
}
"""The reason that ingestion should give for each defect."""

NOT_FOUND_PAGE = """<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The image {name} is no longer on this server.</p></body></html>
"""


def encode_defect(
    defect: Defect, photo: Photo, name: str, rng: np.random.Generator
) -> bytes | None:
    """Spoil a photo.

    Args:
        defect: What to do to it.
        photo: The photo that the seller meant to send.
        name: The image's name, for the text of an error page.
        rng: Where to cut and how large to make it.

    Returns:
        The bytes of the file, or None for a file that is missing.
    """
    match defect:
        case "truncated":
            content = encode_jpeg(photo.image, photo.jpeg_quality)
            return content[: int(len(content) * rng.uniform(0.3, 0.7))]
        case "empty":
            return b""
        case "html":
            return NOT_FOUND_PAGE.format(name=name).encode()
        case "wrong_extension":
            return _icon(photo.image)
        case "too_many_pixels":
            return _huge_png(rng)
        case "too_small":
            return encode_jpeg(photo.image.resize((8, 8)), photo.jpeg_quality)
        case "missing":
            return None


def _icon(image: Image.Image) -> bytes:
    """Encode an image as a Windows icon."""
    buffer = io.BytesIO()
    image.resize((64, 64)).save(buffer, format="ICO", sizes=[(64, 64)])
    return buffer.getvalue()


def _huge_png(rng: np.random.Generator) -> bytes:
    """Encode a white sheet of over 30 megapixels; one bit a pixel makes that cheap."""
    width, height = (int(side) for side in rng.integers(5600, 6400, 2))
    buffer = io.BytesIO()
    Image.new("1", (width, height), 1).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()

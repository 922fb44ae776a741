"""Ways to encode a good photo, some of which trip naive readers."""

import io
from typing import Any

import numpy as np
from PIL import Image

from catalog_batch.demo.photos import Photo
from catalog_batch.demo.planning import Quirk

EXIF_ORIENTATION = 0x0112
STORED_AS: dict[int, Image.Transpose] = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera that writes this orientation has turned the upright picture."""


def encode_jpeg(image: Image.Image, quality: int, **options: Any) -> bytes:
    """Encode an image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, **options)
    return buffer.getvalue()


def encode_quirk(quirk: Quirk, photo: Photo, rng: np.random.Generator) -> bytes:
    """Encode a photo in an unusual but valid way."""
    match quirk:
        case "exif_rotated":
            return _rotated(photo, int(rng.choice(list(STORED_AS))))
        case "cmyk":
            return encode_jpeg(photo.image.convert("CMYK"), photo.jpeg_quality)
        case "png_alpha":
            return _encode_png(_cutout(photo))
        case "png_named_jpg":
            return _encode_png(photo.image)
        case "grayscale":
            return encode_jpeg(photo.image.convert("L"), photo.jpeg_quality)
        case "progressive":
            return encode_jpeg(photo.image, photo.jpeg_quality, progressive=True)


def encode_near_duplicate(photo: Photo, rng: np.random.Generator) -> bytes:
    """Encode a photo a little smaller and coarser, as a copy from another shop would be."""
    share = rng.uniform(0.9, 0.97)
    size = round(photo.image.width * share), round(photo.image.height * share)
    return encode_jpeg(photo.image.resize(size), photo.jpeg_quality - int(rng.integers(8, 20)))


def _rotated(photo: Photo, orientation: int) -> bytes:
    """Store the pixels turned, with the EXIF orientation that turns them back."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = photo.image.transpose(STORED_AS[orientation])
    return encode_jpeg(stored, photo.jpeg_quality, exif=exif)


def _cutout(photo: Photo) -> Image.Image:
    """Make everything around the product transparent; the colour below is black."""
    cutout = Image.new("RGBA", photo.image.size, (0, 0, 0, 0))
    opaque = photo.coverage.point([0] + [255] * 255)
    cutout.paste(photo.image, mask=opaque)
    cutout.putalpha(photo.coverage)
    return cutout


def _encode_png(image: Image.Image) -> bytes:
    """Encode an image as a PNG, fast rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()

"""Small copies of stored photos, to stand inside a page."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 160
"""Longest side of a thumbnail in pixels."""

SHEET_SIDE = 1100
"""Longest side of a sheet of pictures in pixels."""

_QUALITY = 75


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture as the address of itself."""

    address: str
    """``data:`` URI of a JPEG."""

    width: int
    height: int


def embedded(content: bytes | None, side: int = SIDE) -> EmbeddedPicture | None:
    """Shrink a picture and encode it into an address; None without one that can be read.

    Args:
        content: Bytes of a JPEG or PNG.
        side: Longest side of what is embedded, in pixels; a smaller picture keeps its size.
    """
    if content is None:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            picture = image.convert("RGB")
    except Exception:  # What Pillow raises on damaged files has no common base.
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=_QUALITY, optimize=True)
    encoded = base64.b64encode(target.getvalue()).decode()
    return EmbeddedPicture(f"data:image/jpeg;base64,{encoded}", picture.width, picture.height)

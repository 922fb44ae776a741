"""One picture that shows what augmentation makes of a few training pictures."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from catalog_batch.modeling.augmentation import Augmentation
from catalog_batch.modeling.mixing import Mixing

GAP = 4
HEADER = 40
FONT_SIZE = 13


def augmentation_sheet(
    pictures: Tensor,
    augment: Augmentation,
    title: str,
    mixing: Mixing | None = None,
    versions: int = 6,
    side: int = 112,
) -> Image.Image:
    """Draw each picture as decoded, and to its right what training would see in its place.

    Uses up draws of ``augment`` and ``mixing``: call it before ``begin_epoch``, or give it ones
    of its own.

    Args:
        pictures: uint8 [N, H, W, 3] on any device, one a row.
        augment: Called once for each version.
        title: Names the augmentation and its settings, in one line.
        mixing: Applied after ``augment``; the pictures are each other's partners.
        versions: Columns beside the first.
        side: In pixels, of each picture on the sheet.

    Returns:
        RGB, (1 + versions) columns and N rows on white; the same pixels for the same seed.
    """
    columns = [pictures, *(_version(pictures, augment, mixing) for _ in range(versions))]
    step = side + GAP
    sheet = Image.new("RGB", (GAP + len(columns) * step, HEADER + len(pictures) * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    draw.text((GAP, 3), title, "black", font)
    draw.text((GAP, 21), "as decoded", "black", font)
    draw.text((GAP + step, 21), "as trained on", "black", font)
    for column, versions_of_all in enumerate(columns):
        for row, pixels in enumerate(versions_of_all.cpu().numpy()):
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(tile, (GAP + column * step, HEADER + row * step))
    return sheet


def _version(pictures: Tensor, augment: Augmentation, mixing: Mixing | None) -> Tensor:
    pictures = augment(pictures)
    if mixing is None:
        return pictures
    no_labels = torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device)
    images, _ = mixing(pictures.permute(0, 3, 1, 2).float(), no_labels)
    return images.round().to(torch.uint8).permute(0, 2, 3, 1)

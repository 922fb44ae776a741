"""Random affine maps and cuts of pictures, each on its own, in one resampling."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from catalog_batch.modeling.draws import draw_sides

PICTURES_A_THREAD = 4
"""Pictures that a CPU warps at a time, for each of its threads."""


@dataclass(frozen=True)
class ArticleWarp:
    """Rotate, shift, shear, zoom and mirror each picture on its own, in one resampling.

    The ranges are those of the Keras ``ImageDataGenerator`` line that fine-tuning recipes of
    2016 and later share: ``rotation_range=20, width_shift_range=0.2, height_shift_range=0.2,
    shear_range=0.2, zoom_range=0.2, horizontal_flip=True``, and like there what comes in from
    outside repeats the border. Keras reads ``shear_range`` in degrees, so its 0.2 hardly shows;
    it is taken at its word, for the line to mean here what it means there.

    Each value is drawn evenly from minus to plus its range.
    """

    rotation: float = 20.0
    """Degrees."""

    shift: float = 0.2
    """Share of width and of height, drawn apart."""

    shear: float = 0.2
    """Degrees."""

    zoom: float = 0.2
    """Around 1, drawn apart for width and height."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return warped copies; uint8 [N, H, W, 3] in and out."""
        count, height, width, _ = pictures.shape
        return warp(pictures, self._draw_affine(count, height / width, generator))

    def _draw_affine(self, count: int, aspect: float, generator: torch.Generator) -> Tensor:
        """Draw [count, 2, 3] maps; as in Keras rotation times shear times zoom, then the shift."""
        turn, shear = math.radians(self.rotation), math.radians(self.shear)
        ranges = torch.tensor([turn, self.shift, self.shift, shear, self.zoom, self.zoom])
        uniform = torch.rand(count, 6, generator=generator) * 2 - 1
        turns, shift_x, shift_y, shears, zoom_x, zoom_y = (uniform * ranges).unbind(1)
        mirror = _draw_mirror(count, generator)
        cos, sin = turns.cos(), turns.sin()
        # An angle is one in pixels, which are not square in the -1 to 1 units of a wide picture.
        columns = [
            cos * (1 + zoom_x) * mirror,
            -(turns + shears).sin() * (1 + zoom_y) * aspect,
            2 * shift_x,
            sin * (1 + zoom_x) * mirror / aspect,
            (turns + shears).cos() * (1 + zoom_y),
            2 * shift_y,
        ]
        return torch.stack(columns, dim=1).view(count, 2, 3)


@dataclass(frozen=True)
class RandomCrop:
    """Cut a random part out of each picture, enlarge it to the whole, and mirror half of them.

    The part's share of the area is drawn evenly, the logarithm of its width over its height too:
    Szegedy et al., "Going Deeper with Convolutions" (2015). They start at 8 % of the area. A
    product often fills a small part of its photo, and so little of it would miss it.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    """Least and largest share of the area."""

    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width over height, in shares of the picture's; a side ends at 1."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Return enlarged parts; uint8 [N, H, W, 3] in and out."""
        count, height, width, _ = pictures.shape
        boxes = self._draw_boxes(count, height, width, generator)
        return crop(pictures, boxes, _draw_mirror(count, generator))

    def _draw_boxes(
        self, count: int, height: int, width: int, generator: torch.Generator
    ) -> Tensor:
        """Draw [count, 4] boxes of whole pixels: left, top, width, height."""
        whole = torch.tensor([width, height])
        shares = torch.stack(draw_sides(count, self.scale, self.ratio, generator), dim=1)
        sides = (shares * whole).round().clamp(min=1)
        # Each place that a box of whole pixels can have is as likely as another.
        corners = (torch.rand(count, 2, generator=generator) * (whole - sides + 1)).floor()
        return torch.cat([corners, sides], dim=1).long()


def crop(pictures: Tensor, boxes: Tensor, mirror: Tensor) -> Tensor:
    """Enlarge a box of each picture to the whole of it.

    Args:
        pictures: uint8 [N, H, W, 3].
        boxes: int64 [N, 4] on the CPU, in pixels within the picture: left, top, width, height.
        mirror: [N] on the CPU, 1 or -1, which mirrors.

    Returns:
        uint8 [N, H, W, 3] on the device of the pictures.
    """
    # Two ways to the same pictures, but for one level of rounding and for the outermost pixels,
    # where the warp looks up to half a pixel beyond the box. A CPU is several times faster in
    # bytes, for which torch has a kernel there, than in the floats of a warp. For a GPU there is
    # none, and a call for each picture would keep it waiting: there all go in one.
    if pictures.device.type == "cpu":
        return _resize_boxes(pictures, boxes, mirror)
    return warp(pictures, box_affine(boxes, mirror, *pictures.shape[1:3]))


def box_affine(boxes: Tensor, mirror: Tensor, height: int, width: int) -> Tensor:
    """Return the maps for ``warp``, float32 [N, 2, 3], that do what ``crop`` does with boxes."""
    whole = torch.tensor([width, height])
    share = boxes[:, 2:] / whole
    centre = 2 * boxes[:, :2] / whole + share - 1
    scale = torch.stack([share[:, 0] * mirror, share[:, 1]], dim=1)
    return torch.cat([scale.diag_embed(), centre.unsqueeze(2)], dim=2)


def _resize_boxes(pictures: Tensor, boxes: Tensor, mirror: Tensor) -> Tensor:
    size, whole = pictures.shape[1:3], pictures.numpy()
    images = []
    for index, (box, side) in enumerate(zip(boxes.tolist(), mirror.tolist(), strict=True)):
        left, top, width, height = box
        # A batch of one: without its dimension torch would take the slower way of planes. NumPy
        # copies it, as torch would wake all its threads for it, which the readers keep busy.
        part = whole[index : index + 1, top : top + height, left : left + width]
        image = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2)
        image = image.flip(3) if side < 0 else image
        # What is enlarged is not antialiased; the kernel for bytes asks for it nonetheless.
        images.append(functional.interpolate(image, size, mode="bilinear", antialias=True))
    return torch.cat(images).permute(0, 2, 3, 1).contiguous()


def warp(pictures: Tensor, affine: Tensor) -> Tensor:
    """Move the pixels of each picture by its affine map, in one bilinear resampling.

    What comes in from outside repeats the border. A map that shrinks a picture much leaves out
    pixels instead of averaging them: these here enlarge, or shrink by a fifth.

    Args:
        pictures: uint8 [N, H, W, 3].
        affine: float32 [N, 2, 3], from output to source points, both from -1 to 1 per axis.

    Returns:
        uint8 [N, H, W, 3] on the device of the pictures.
    """
    affine = affine.to(pictures.device, non_blocking=True)
    warped = torch.empty_like(pictures, memory_format=torch.contiguous_format)
    count = _pictures_at_once(pictures)
    pieces = (torch.split(whole, count) for whole in (pictures, affine, warped))
    for piece, maps, out in zip(*pieces, strict=True):
        images = piece.permute(0, 3, 1, 2).float()
        moved = functional.grid_sample(
            images,
            _source_points(maps, *images.shape[2:]),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        out.copy_(moved.round_().permute(0, 2, 3, 1))
    return warped


def _pictures_at_once(pictures: Tensor) -> int:
    # The floats of a few pictures stay in a CPU's cache from one step to the next, those of a
    # batch do not. Its threads share a piece by pictures.
    if pictures.device.type == "cpu":
        return PICTURES_A_THREAD * torch.get_num_threads()
    return len(pictures)


def _source_points(affine: Tensor, height: int, width: int) -> Tensor:
    """Return where each pixel comes from: float32 [N, H, W, 2], from -1 to 1 per axis."""
    # As functional.affine_grid, which multiplies matrices: as slow on a CPU as the sampling is.
    x = (2 * torch.arange(width, device=affine.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=affine.device) + 1) / height - 1
    across = affine[:, :, 0, None] * x
    down = affine[:, :, 1, None] * y + affine[:, :, 2, None]
    return (across.unsqueeze(2) + down.unsqueeze(3)).permute(0, 2, 3, 1)


def _draw_mirror(count: int, generator: torch.Generator) -> Tensor:
    """Draw [count] of 1 and of -1, which mirrors."""
    return torch.randint(0, 2, (count,), generator=generator) * 2 - 1

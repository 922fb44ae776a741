"""From a picture's bytes to what a network sees: the same steps in training and in scoring."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:  # a driver that reads a bundle's description starts seconds earlier without it
    import torch
    from torch import Tensor

Colour = tuple[float, float, float]
"""Red, green, blue, on a scale of 0 to 1."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_PIXELS = 25_000_000
"""Pictures that claim more are not decoded: a file of 8 KB can claim a gigabyte of pixels."""

Picture = npt.NDArray[np.uint8]
"""uint8 [H, W, 3]."""

Interpolation = Literal["bilinear", "bicubic"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class ImageDecodeError(ValueError):
    """Raised for bytes that are no picture, a damaged one, or one too large to decode."""


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are cut to size and scaled; part of a model bundle.

    ``decode`` gives bytes of one picture, small enough to be queued and sent to a device, and
    ``normalise`` makes numbers of a batch of them there.
    """

    side: int
    """Side in pixels of the square that the network sees."""

    resize_side: int
    """Length in pixels of the short side before the centre is cut out; at least ``side``."""

    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    """Standard deviations."""

    interpolation: Interpolation = "bilinear"
    """How pictures are resized; either looks at all pixels that become one, as Pillow does it."""

    def __post_init__(self) -> None:
        """Refuse sizes and scales that no picture can be brought to."""
        if not 1 <= self.side <= self.resize_side:
            raise ValueError(
                f"side {self.side} must lie between 1 and resize_side {self.resize_side}."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must have 3 numbers each, std above 0."
            )
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation {self.interpolation!r} is not bilinear or bicubic.")

    @classmethod
    def for_side(cls, side: int) -> "Preprocessing":
        """Return ImageNet's usual steps for a network of this side: 224 is cut out of 256."""
        return cls(side=side, resize_side=round(side * 256 / 224))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Preprocessing":
        """Rebuild what ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: When it is something else.
        """
        data = {"interpolation": "bilinear", **data}  # bundles of format version 1 do not say it
        if set(data) != set(cls.__dataclass_fields__):
            raise ValueError(f"preprocessing has the keys {sorted(data)}.")
        red, green, blue = (float(value) for value in data["mean"])
        red_std, green_std, blue_std = (float(value) for value in data["std"])
        return cls(
            side=int(data["side"]),
            resize_side=int(data["resize_side"]),
            mean=(red, green, blue),
            std=(red_std, green_std, blue_std),
            interpolation=data["interpolation"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def decode(self, content: bytes) -> Picture:
        """Decode a picture, resize its short side and cut out the centre.

        Expects an upright picture, as ingest stores them: a camera's orientation tag is not
        read. Transparent parts become white, and of an animation the first frame is taken.

        Returns:
            uint8 [side, side, 3], red, green, blue; not to be written to.

        Raises:
            ImageDecodeError: For bytes that cannot be decoded, whatever is wrong with them.
            MemoryError: For want of memory, which says nothing of the picture.
        """
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return np.asarray(self._centre(_to_rgb(self._loaded(image))))
        except (ImageDecodeError, MemoryError):
            raise
        except UnidentifiedImageError as error:
            raise ImageDecodeError(
                f"It is none of {', '.join(FORMATS)}, or its header is damaged."
            ) from error
        except Exception as error:
            # Decoders raise OSError, ValueError, SyntaxError, struct.error and more on bad bytes,
            # and one bad picture must never cost the rows beside it.
            raise ImageDecodeError(f"{type(error).__name__}: {error}") from error

    def normalise(self, images: "Tensor") -> "Tensor":
        """Scale a batch of decoded pictures to the mean and deviation the network expects.

        Args:
            images: uint8 [N, H, W, 3] on any device.

        Returns:
            float32 [N, 3, H, W] on the same device, in channels-last memory order.
        """
        pixels = images.permute(0, 3, 1, 2).float()
        scaled = _scaled_on_gpu if images.is_cuda else _scaled
        mean, std = (scaled(colour, images.device) for colour in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    def _loaded(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageDecodeError(f"{width}x{height} pixels are more than {MAX_PIXELS}.")
        if min(width, height) >= 2 * self.resize_side:
            image.draft(None, (self.resize_side, self.resize_side))
        # Once, and first: a second load after a failed one gives half a picture and no error.
        image.load()
        return image

    def _centre(self, image: Image.Image) -> Image.Image:
        """Resize and cut in one pass: pixels outside the square are never computed."""
        scale = min(image.size) / self.resize_side
        source_side = self.side * scale
        # Whole source pixels, so that a picture already of the right size is copied unblurred.
        left, top = ((length - source_side) // 2 for length in image.size)
        box = (left, top, left + source_side, top + source_side)
        filter_ = Image.Resampling[self.interpolation.upper()]
        return image.resize((self.side, self.side), filter_, box=box)


def _scaled(colour: Colour, device: "torch.device") -> "Tensor":
    """Return red, green and blue on a scale of 0 to 255, float32 [3, 1, 1]."""
    import torch

    return torch.tensor(colour, device=device).mul_(255).view(3, 1, 1)


@cache
def _scaled_on_gpu(colour: Colour, device: "torch.device") -> "Tensor":
    """Return the same, copied once: each copy waits until the GPU has done all it was given."""
    import torch

    with torch.inference_mode(False):  # else no gradient could ever pass it
        return _scaled(colour, device)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel: convert() would cut values above 255 instead of scaling them.
        scaled = np.asarray(image).clip(0, 65535) // 257
        image = Image.fromarray(scaled.astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    # Converting what is RGB already copies it.
    return image if image.mode == "RGB" else image.convert("RGB")

"""Decide what each product is and what is wrong with its images, before anything is drawn.

Every decision follows from the seed and the product's index alone, so any process can work out
any product, in any order, and a duplicate can be drawn without keeping the original.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np

from catalog_batch.demo.silhouettes import CATEGORIES

Defect = Literal[
    "truncated", "empty", "html", "wrong_extension", "too_many_pixels", "missing", "too_small"
]
Quirk = Literal["exif_rotated", "cmyk", "png_alpha", "png_named_jpg", "grayscale", "progressive"]
Copy = Literal["duplicate", "near_duplicate"]

DEFECTS: tuple[Defect, ...] = get_args(Defect)
QUIRKS: tuple[Quirk, ...] = get_args(Quirk)

IMAGES_PER_PRODUCT = (0.4, 0.45, 0.15)
"""The share of products with one, two and three images."""

MEAN_IMAGES = sum(share * count for count, share in enumerate(IMAGES_PER_PRODUCT, start=1))
PRODUCTS_PER_SHARD = 300
"""At most three images each: no folder holds more than 900."""

GOLDEN_RATIO = (1.0 + 5.0**0.5) / 2.0


class Treatment(NamedTuple):
    """What happens to an image that is not simply encoded as a JPEG; at most one is set."""

    defect: Defect | None = None
    quirk: Quirk | None = None
    copy: Copy | None = None


ORDINARY = Treatment()


class Stream(IntEnum):
    """Independent streams of random numbers for one product; photos count on from ``PHOTO``."""

    PLAN = 1
    LOOK = 2
    TEXT = 3
    TREATMENT = 4
    ORIGINAL = 5
    PHOTO = 10


@dataclass(frozen=True)
class Shares:
    """How much of a catalogue is out of the ordinary: shares of images, of products for labels."""

    defects: float = 0.06
    quirks: float = 0.12
    duplicates: float = 0.02
    near_duplicates: float = 0.02
    wrong_labels: float = 0.02


@dataclass(frozen=True)
class ImagePlan:
    """What one image is to become."""

    image_uri: str
    position: int
    treatment: Treatment = ORDINARY


@dataclass(frozen=True)
class ProductPlan:
    """What one product is to become."""

    index: int
    product_id: str
    category: str
    given_category: str
    images: tuple[ImagePlan, ...]

    @property
    def has_wrong_label(self) -> bool:
        """Whether the seller's category is not the true one."""
        return self.given_category != self.category


class Original(NamedTuple):
    """An image to copy from."""

    product: ProductPlan
    image: ImagePlan


def generator(seed: int, index: int, stream: int) -> np.random.Generator:
    """Return the random numbers of one product for one purpose."""
    return np.random.default_rng([seed, index, stream])


def plan_product(seed: int, index: int, shares: Shares) -> ProductPlan:
    """Decide what the product with this index is."""
    rng = generator(seed, index, Stream.PLAN)
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    images = int(rng.choice(3, p=IMAGES_PER_PRODUCT)) + 1
    treated = int(rng.integers(images))
    wrong = str(rng.choice([other for other in CATEGORIES if other != category]))
    is_wrong = _spread(seed, index, 2.0**0.5) < shares.wrong_labels
    product_id = f"P{index + 1:07d}"
    treatment = _treatment(seed, index, shares)
    plans = [
        _plan_image(index, product_id, position, treatment if position == treated else ORDINARY)
        for position in range(images)
    ]
    return ProductPlan(index, product_id, category, wrong if is_wrong else category, tuple(plans))


def _plan_image(index: int, product_id: str, position: int, treatment: Treatment) -> ImagePlan:
    """Name an image; PNG files are called so unless their treatment is to hide it."""
    is_png = treatment.quirk == "png_alpha" or treatment.defect == "too_many_pixels"
    shard = f"{index // PRODUCTS_PER_SHARD:03d}"
    return ImagePlan(
        f"{shard}/{product_id}_{position}.{'png' if is_png else 'jpg'}", position, treatment
    )


def find_original(seed: int, product: ProductPlan, shares: Shares) -> Original | None:
    """Find an ordinary image of an earlier product of the same category, to copy from."""
    index = product.index
    rng = generator(seed, index, Stream.ORIGINAL)
    for earlier in range(index - 1 - int(rng.integers(0, 1 + index // 2)), -1, -1):
        candidate = plan_product(seed, earlier, shares)
        if candidate.category == product.category:
            for image in candidate.images:
                if image.treatment == ORDINARY:
                    return Original(candidate, image)
    return None


def _treatment(seed: int, index: int, shares: Shares) -> Treatment:
    """Choose what happens to one of a product's images.

    The unit interval is cut into a piece for each treatment, and products are spread evenly over
    it, so every kind occurs as soon as there are enough products, whatever the seed.
    """
    point = _spread(seed, index, GOLDEN_RATIO) / MEAN_IMAGES
    for treatments, share in (
        ([Treatment(defect=defect) for defect in DEFECTS], shares.defects),
        ([Treatment(quirk=quirk) for quirk in QUIRKS], shares.quirks),
        ([Treatment(copy="duplicate")], shares.duplicates),
        ([Treatment(copy="near_duplicate")], shares.near_duplicates),
    ):
        if point < share:
            return treatments[int(point / share * len(treatments))]
        point -= share
    return ORDINARY


def _spread(seed: int, index: int, step: float) -> float:
    """Return the index's point in a sequence that fills the unit interval evenly."""
    return (_start(seed) + (index + 1) * step) % 1.0


@lru_cache(maxsize=1)
def _start(seed: int) -> float:
    """Return the point where a catalogue's sequences begin."""
    return float(np.random.default_rng([seed, 0]).random())

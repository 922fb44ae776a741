"""Draw a run of products and write their images: the work of one process."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from catalog_batch.demo.defects import EXPECTED_OUTCOMES, Outcome, encode_defect
from catalog_batch.demo.encoding import encode_jpeg, encode_near_duplicate, encode_quirk
from catalog_batch.demo.looks import choose_look
from catalog_batch.demo.photos import Photo, take_photo
from catalog_batch.demo.planning import (
    ImagePlan,
    ProductPlan,
    Shares,
    Stream,
    find_original,
    generator,
    plan_product,
)
from catalog_batch.demo.texts import ProductText, write_text


@dataclass(frozen=True)
class Chunk:
    """The products from ``start`` up to ``stop``, to be written under ``images``."""

    seed: int
    start: int
    stop: int
    shares: Shares
    images: Path


class ImageFile(NamedTuple):
    """What is written for one image."""

    content: bytes | None
    """None for an image that is listed and missing."""

    copied_from: str | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One row of the manifest, with the truth about it."""

    product: ProductPlan
    image: ImagePlan
    text: ProductText
    expected_outcome: Outcome
    copied_from: str | None


def draw_chunk(chunk: Chunk) -> list[ImageRecord]:
    """Draw the products of a chunk and write their images."""
    records = []
    for index in range(chunk.start, chunk.stop):
        product = plan_product(chunk.seed, index, chunk.shares)
        text = write_text(product.category, generator(chunk.seed, index, Stream.TEXT))
        for image in product.images:
            file = encode_image(chunk.seed, product, image, chunk.shares)
            _write(chunk.images / image.image_uri, file.content)
            defect = image.treatment.defect
            outcome = EXPECTED_OUTCOMES[defect] if defect else "accepted"
            records.append(ImageRecord(product, image, text, outcome, file.copied_from))
    return records


def photograph(seed: int, product: ProductPlan, image: ImagePlan) -> Photo:
    """Take the photo that an image shows, upright and before anything is done to it."""
    look = choose_look(product.category, generator(seed, product.index, Stream.LOOK))
    return take_photo(look, generator(seed, product.index, Stream.PHOTO + image.position))


def encode_image(seed: int, product: ProductPlan, image: ImagePlan, shares: Shares) -> ImageFile:
    """Photograph a product and do to the photo what is planned."""
    defect, quirk, copy = image.treatment
    rng = generator(seed, product.index, Stream.TREATMENT)
    if copy and (original := find_original(seed, product, shares)):
        photo = photograph(seed, *original)
        is_exact = copy == "duplicate"
        content = _ordinary(photo) if is_exact else encode_near_duplicate(photo, rng)
        return ImageFile(content, original.image.image_uri)
    photo = photograph(seed, product, image)
    if defect:
        return ImageFile(encode_defect(defect, photo, image.image_uri, rng))
    return ImageFile(encode_quirk(quirk, photo, rng) if quirk else _ordinary(photo))


def _ordinary(photo: Photo) -> bytes:
    """Encode a photo that nothing is done to."""
    return encode_jpeg(photo.image, photo.jpeg_quality)


def _write(path: Path, content: bytes | None) -> None:
    """Write an image, unless it is to be missing."""
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)

"""Generate a synthetic product catalogue: photos, a manifest, and the truth about both.

The same seed gives the same bytes, however many processes draw. Memory does not grow with the
number of products: rows are written as they come back, and nothing else is kept.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from catalog_batch.demo.chunks import Chunk
from catalog_batch.demo.parallel import draw_in_order
from catalog_batch.demo.planning import Shares
from catalog_batch.demo.rows import open_rows
from catalog_batch.demo.summary import (
    CatalogueSettings,
    CatalogueSummary,
    Tally,
    read_summary,
    write_summary,
)
from catalog_batch.errors import BadInputError

CHUNK_PRODUCTS = 50

__all__ = ["CatalogueSummary", "generate_catalogue"]


def generate_catalogue(
    folder: Path,
    products: int,
    seed: int,
    *,
    workers: int | None = None,
    defect_share: float = 0.06,
    quirk_share: float = 0.12,
    duplicate_share: float = 0.02,
    near_duplicate_share: float = 0.02,
    wrong_label_share: float = 0.02,
    on_progress: Callable[[int], None] | None = None,
) -> CatalogueSummary:
    """Generate a catalogue, or return at once if the folder holds this very catalogue.

    Args:
        folder: Where to write it; it appears when the catalogue is complete.
        products: How many products, each with one to three images.
        seed: The same seed gives the same bytes.
        workers: Processes to draw with; one for each processor unless given.
        defect_share: Share of images that ingestion must reject.
        quirk_share: Share of images that are good but unusually encoded.
        duplicate_share: Share of images that are another product's image, byte for byte.
        near_duplicate_share: Share of images that are another product's image, encoded again.
        wrong_label_share: Share of products with a wrong category in the manifest.
        on_progress: Called with the number of products that were just finished.

    Raises:
        BadInputError: The folder holds something else, or a number is out of bounds.
    """
    shares = Shares(
        defect_share, quirk_share, duplicate_share, near_duplicate_share, wrong_label_share
    )
    settings = CatalogueSettings(products, seed, shares)
    workers = (os.cpu_count() or 1) if workers is None else workers
    _check(settings, workers)
    folder = folder.resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        return _reuse(folder, settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        unfinished = Path(scratch) / "catalogue"
        summary = _write_catalogue(unfinished, settings, workers, on_progress)
        unfinished.rename(folder)
    return summary


def _check(settings: CatalogueSettings, workers: int) -> None:
    """Refuse settings that no catalogue can have."""
    numbers = (("products", settings.products, 1), ("seed", settings.seed, 0))
    for name, value, least in (*numbers, ("workers", workers, 1)):
        if value < least:
            raise BadInputError(
                f"Cannot generate a catalogue with {name}={value}. Pass {least} or more."
            )
    shares = asdict(settings.shares)
    of_images = sum(shares.values()) - settings.shares.wrong_labels
    if of_images > 0.5 or not all(0.0 <= share <= 0.5 for share in shares.values()):
        raise BadInputError(
            f"Cannot generate a catalogue with the shares {shares}. Pass shares from 0 to 0.5; "
            "those of defects, quirks, duplicates and near duplicates may add up to 0.5."
        )


def _reuse(folder: Path, settings: CatalogueSettings) -> CatalogueSummary:
    """Return the summary of a catalogue that was generated before."""
    summary = read_summary(folder, settings)
    if summary is None:
        raise BadInputError(
            f"Cannot generate a catalogue in {str(folder)!r}: it holds something other than the "
            f"catalogue with {settings}. Pass an empty or a new folder, or delete this one."
        )
    return summary


def _write_catalogue(
    folder: Path,
    settings: CatalogueSettings,
    workers: int,
    on_progress: Callable[[int], None] | None,
) -> CatalogueSummary:
    """Write a catalogue into a new folder."""
    (folder / "images").mkdir(parents=True)
    tally = Tally()
    drawn = draw_in_order(_chunks(folder / "images", settings), workers)
    with open_rows(folder) as rows, closing(drawn):
        for records in drawn:
            for record in records:
                rows.write(record)
                tally.add(record)
            if on_progress:
                on_progress(len({record.product.product_id for record in records}))
    summary = tally.summary(settings.products)
    write_summary(folder, settings, summary)
    return summary


def _chunks(images: Path, settings: CatalogueSettings) -> Iterator[Chunk]:
    """Cut a catalogue into runs of products."""
    for start in range(0, settings.products, CHUNK_PRODUCTS):
        stop = min(start + CHUNK_PRODUCTS, settings.products)
        yield Chunk(settings.seed, start, stop, settings.shares, images)

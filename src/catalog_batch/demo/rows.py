"""The tables beside the images: the manifest, the truth and the wrong labels."""

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from catalog_batch.demo.chunks import ImageRecord

MANIFEST_COLUMNS = (
    "product_id",
    "image_uri",
    "category",
    "title",
    "description",
    "position",
    "brand",
)
WRONG_LABEL_COLUMNS = ("product_id", "given_category", "true_category")


class RowWriter:
    """Writes each image's row into the tables it belongs to, as it comes."""

    def __init__(self, manifest: TextIO, truth: TextIO, wrong_labels: TextIO) -> None:
        """Write the headers."""
        self._manifest = csv.writer(manifest, lineterminator="\n")
        self._manifest.writerow(MANIFEST_COLUMNS)
        self._wrong_labels = csv.writer(wrong_labels, lineterminator="\n")
        self._wrong_labels.writerow(WRONG_LABEL_COLUMNS)
        self._truth = truth

    def write(self, record: ImageRecord) -> None:
        """Write the rows of one image."""
        product, image, text = record.product, record.image, record.text
        key = (product.product_id, image.image_uri, product.given_category)
        self._manifest.writerow((*key, text.title, text.description, image.position, text.brand))
        self._truth.write(json.dumps(_truth_of(record), ensure_ascii=False) + "\n")
        if product.has_wrong_label and image.position == 0:
            self._wrong_labels.writerow(
                (product.product_id, product.given_category, product.category)
            )


@contextmanager
def open_rows(folder: Path) -> Iterator[RowWriter]:
    """Open the tables of a new catalogue for writing."""
    names = ("manifest.csv", "truth.jsonl", "wrong_labels.csv")
    with ExitStack() as files:
        yield RowWriter(
            *(
                files.enter_context((folder / name).open("x", encoding="utf-8", newline=""))
                for name in names
            )
        )


def _truth_of(record: ImageRecord) -> dict[str, str | None]:
    """Return what is true of one image."""
    defect, quirk, copy = record.image.treatment
    return {
        "product_id": record.product.product_id,
        "image_uri": record.image.image_uri,
        "true_category": record.product.category,
        "given_category": record.product.given_category,
        "expected_outcome": record.expected_outcome,
        "defect": defect,
        "quirk": quirk,
        "duplicate_of": record.copied_from if copy == "duplicate" else None,
        "near_duplicate_of": record.copied_from if copy == "near_duplicate" else None,
    }

"""What a generated catalogue holds, and the settings it was generated with."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from catalog_batch.demo.chunks import ImageRecord
from catalog_batch.demo.planning import Shares
from catalog_batch.demo.silhouettes import CATEGORIES

FILE_NAME = "summary.json"
VERSION = 1
"""Raised whenever the same seed would give another catalogue than before."""


@dataclass(frozen=True)
class CatalogueSettings:
    """What a catalogue follows from."""

    products: int
    seed: int
    shares: Shares
    version: int = VERSION


@dataclass(frozen=True)
class CatalogueSummary:
    """What a catalogue holds, in numbers."""

    products: int
    manifest_rows: int
    images_written: int
    categories: int
    outcomes: dict[str, int]
    """Manifest rows by the outcome that ingestion should report."""

    defects: dict[str, int]
    quirks: dict[str, int]
    duplicates: int
    near_duplicates: int
    wrong_labels: int
    """Products whose category in the manifest is not the true one."""


class Tally:
    """Counts the rows of a catalogue while it is written."""

    def __init__(self) -> None:
        """Start at zero."""
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, record: ImageRecord) -> None:
        """Count one row of the manifest."""
        defect, quirk, _ = record.image.treatment
        self._counts["outcome", record.expected_outcome] += 1
        self._counts["defect", str(defect)] += defect is not None
        self._counts["quirk", str(quirk)] += quirk is not None
        if record.copied_from:
            self._counts["copy", str(record.image.treatment.copy)] += 1
        if record.image.position == 0:
            self._counts["label", "wrong"] += record.product.has_wrong_label

    def summary(self, products: int) -> CatalogueSummary:
        """Sum up what was counted."""
        outcomes = self._group("outcome")
        return CatalogueSummary(
            products=products,
            manifest_rows=sum(outcomes.values()),
            images_written=sum(outcomes.values()) - outcomes.get("missing", 0),
            categories=len(CATEGORIES),
            outcomes=outcomes,
            defects=self._group("defect"),
            quirks=self._group("quirk"),
            duplicates=self._counts["copy", "duplicate"],
            near_duplicates=self._counts["copy", "near_duplicate"],
            wrong_labels=self._counts["label", "wrong"],
        )

    def _group(self, group: str) -> dict[str, int]:
        """Return one group of counts that are not zero, sorted by name."""
        counts = sorted(self._counts.items())
        return {name: count for (kind, name), count in counts if kind == group and count}


def write_summary(folder: Path, settings: CatalogueSettings, summary: CatalogueSummary) -> None:
    """Write a catalogue's settings and numbers into its folder."""
    content = {"settings": asdict(settings), "summary": asdict(summary)}
    text = json.dumps(content, indent=2) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def read_summary(folder: Path, settings: CatalogueSettings) -> CatalogueSummary | None:
    """Read the numbers of a catalogue.

    Returns:
        The numbers, or None if the folder holds no catalogue with these settings.
    """
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    if not isinstance(content, Mapping) or content.get("settings") != asdict(settings):
        return None
    return CatalogueSummary(**content["summary"])

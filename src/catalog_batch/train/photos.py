"""Photos of a training table by their image id, for the report of a run."""

from collections.abc import Callable

import pyarrow.parquet as pq

from catalog_batch.evaluate.predictions import SPLITS
from catalog_batch.train.snapshot import resolve_snapshot

Place = tuple[str, int, int]
"""File, row group and row in it."""


def photo_source(table_uri: str, version: int) -> Callable[[str], bytes | None]:
    """Return what gives the stored JPEG of an image of the validation or test split.

    The ids of these splits are read now, and later one row group for each photo: a report shows a
    hundred of them, wherever they stand.

    Args:
        table_uri: Folder or ``file://`` URL of the Delta table ``training_examples``.
        version: Delta version the run trained on.

    Raises:
        MissingTableError: When there is no such table, or it lacks the version.
        TrainingDataError: When files of the version are gone or damaged.
    """
    snapshot = resolve_snapshot(table_uri, version)
    places = {
        image_id: place
        for split in SPLITS
        for path in snapshot.splits[split].paths
        for image_id, place in _places(str(path)).items()
    }

    def photo(image_id: str) -> bytes | None:
        """Return the bytes of a photo; None when the splits do not have it."""
        place = places.get(image_id)
        return _content(place) if place else None

    return photo


def _places(path: str) -> dict[str, Place]:
    file = pq.ParquetFile(path)
    return {
        image_id: (path, group, row)
        for group in range(file.num_row_groups)
        for row, image_id in enumerate(
            file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
        )
    }


def _content(place: Place) -> bytes:
    path, group, row = place
    column = pq.ParquetFile(path).read_row_group(group, columns=["content"])["content"]
    content: bytes = column[row].as_py()
    return content

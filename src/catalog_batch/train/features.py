"""What a fixed backbone made of pictures, kept on disk for the rest of a run."""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog_batch.errors import BadInputError

Floats = npt.NDArray[np.float32]


class FeatureFile:
    """Features by image id, float32, in a file without a name: it goes with the process."""

    def __init__(self, folder: Path, rows: int, shape: Sequence[int]) -> None:
        """Make room for features of ``shape`` of as many pictures as ``rows``."""
        self.shape = tuple(shape)
        # An empty file cannot be mapped.
        size = (max(rows, 1), *self.shape)
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk is an error here, and the end of the process once the file is mapped.
            _make_room(file.fileno(), 4 * math.prod(size), folder)
            self._values = np.memmap(file, np.float32, "r+", shape=size)
        self._places: dict[str, int] = {}

    def add(self, image_id: str, values: Floats) -> None:
        """Keep the features of a picture; those of one that is there already are replaced."""
        place = self._places.setdefault(image_id, len(self._places))
        self._values[place] = values

    def __call__(self, image_id: str) -> Floats:
        """Return the features of a picture."""
        return np.asarray(self._values[self._places[image_id]])


def _make_room(file: int, size: int, folder: Path) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise BadInputError(
            f"There is no room for {size / 2**30:.3g} GiB of features in {folder}: {error}. Free "
            "some, or begin a new run with train.features_gib = 0, which computes them each epoch."
        ) from error

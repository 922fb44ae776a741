"""What a model said of a split's rows: all that its figures are computed from."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalog_batch.errors import BadInputError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SPLITS = ("validation", "test")
"""The splits that a trained model is judged by."""


def file_name(split: str) -> str:
    """Return the name of a split's file in a run's folder."""
    return f"predictions-{split}.npz"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of N rows over C classes, with what the rows are."""

    split: str

    category_ids: tuple[str, ...]
    """[C], in the order of the network's outputs."""

    category_paths: tuple[str, ...]
    """[C], each class's place in the taxonomy."""

    image_ids: npt.NDArray[np.str_]
    """[N]."""

    product_ids: npt.NDArray[np.str_]
    """[N], the product that each image shows; rows of one product have one label."""

    labels: Labels
    """[N], true classes by index."""

    logits: Floats
    """[N, C]."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together, and logits that are not finite."""
        rows, classes = len(self.image_ids), len(self.category_ids)
        arrays = (self.image_ids, self.product_ids, self.labels, self.logits)
        shapes = tuple(array.shape for array in arrays)
        wanted = ((rows,), (rows,), (rows,), (rows, classes))
        if shapes != wanted or classes != len(self.category_paths):
            raise BadInputError(
                f"Predictions of split {self.split!r} do not fit together: image ids, product ids, "
                f"labels and logits have shapes {shapes}, with {classes} category ids and "
                f"{len(self.category_paths)} paths. Give [N], [N], [N] and [N, C]."
            )
        kinds = (self.labels.dtype, self.logits.dtype)
        if kinds != (np.dtype(np.int64), np.dtype(np.float32)):
            raise BadInputError(f"Labels and logits are {kinds}. Give int64 and float32.")
        if rows and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise BadInputError(
                f"Labels of split {self.split!r} run from {self.labels.min()} to "
                f"{self.labels.max()}. Give indices of the {classes} classes."
            )
        if not np.isfinite(self.logits).all():
            raise BadInputError(
                f"Logits of split {self.split!r} are not all finite: the weights or the pictures "
                "are damaged. Look at the training's losses."
            )

    @property
    def rows(self) -> int:
        """Count the rows."""
        return len(self.image_ids)

    @cached_property
    def predicted(self) -> Labels:
        """[N], the class with the largest logit; of equal ones the first."""
        best: Labels = self.logits.argmax(axis=1).astype(np.int64)
        return best

    @cached_property
    def correct(self) -> Flags:
        """[N], whether the predicted class is the true one."""
        agrees: Flags = self.predicted == self.labels
        return agrees

    def with_labels_of(self, other: "Predictions") -> "Predictions":
        """Return these logits with the true classes that ``other`` has for the same rows.

        Labels may have been corrected since these were made.

        Args:
            other: Of the same rows in the same order; classes are matched by id.

        Raises:
            BadInputError: When rows are of a class that is not among these.
        """
        missing = sorted(
            {other.category_ids[label] for label in np.unique(other.labels)}
            - set(self.category_ids)
        )
        if missing:
            raise BadInputError(
                f"Rows of split {self.split!r} are labelled {missing} now, classes that these "
                "predictions do not have. Predict the rows again with a model that has them."
            )
        indices = {category: index for index, category in enumerate(self.category_ids)}
        known = [indices.get(category, -1) for category in other.category_ids]
        return replace(self, labels=np.array(known, dtype=np.int64)[other.labels])

    def save(self, path: Path) -> None:
        """Write the arrays as npz, without pickle; the file appears complete or not at all."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
            partial = Path(temporary) / path.name
            np.savez(
                partial,
                split=np.array(self.split),
                category_ids=np.array(self.category_ids, dtype=np.str_),
                category_paths=np.array(self.category_paths, dtype=np.str_),
                image_ids=self.image_ids,
                product_ids=self.product_ids,
                labels=self.labels,
                logits=self.logits,
            )
            partial.replace(path)


def load_predictions(path: Path) -> Predictions:
    """Read what ``save`` wrote.

    Raises:
        BadInputError: When there is no such file, or it holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Predictions(
                split=str(stored["split"]),
                category_ids=tuple(stored["category_ids"].tolist()),
                category_paths=tuple(stored["category_paths"].tolist()),
                image_ids=stored["image_ids"],
                product_ids=stored[_product_ids_of(stored)],
                labels=stored["labels"],
                logits=stored["logits"],
            )
    except Exception as error:  # what numpy, zip and zlib raise on such bytes has no common base
        raise BadInputError(
            f"{str(path)!r} holds no predictions ({type(error).__name__}: {error}). Give the run "
            "folder of a finished training run of this release, or train again."
        ) from error


def _product_ids_of(stored: Mapping[str, object]) -> str:
    # Files of earlier releases do not tell: there each image is a product of its own.
    return "product_ids" if "product_ids" in stored else "image_ids"


def merged(shares: Sequence[Predictions]) -> Predictions:
    """Put the rows of several shares of one split together, in the order of their image ids.

    Raises:
        BadInputError: When the shares are of different splits or classes.
    """
    first = shares[0]
    kinds = {(share.split, share.category_ids, share.category_paths) for share in shares}
    if len(kinds) > 1:
        splits = sorted({share.split for share in shares})
        raise BadInputError(f"Shares of splits {splits} do not have one split and its classes.")
    image_ids = np.concatenate([share.image_ids for share in shares])
    order = image_ids.argsort(kind="stable")
    return replace(
        first,
        image_ids=image_ids[order],
        product_ids=np.concatenate([share.product_ids for share in shares])[order],
        labels=np.concatenate([share.labels for share in shares])[order],
        logits=np.concatenate([share.logits for share in shares])[order],
    )

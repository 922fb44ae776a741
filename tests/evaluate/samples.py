"""Predictions for tests: some written by hand, some simulated from a known model."""

from collections.abc import Sequence

import numpy as np

from catalog_batch.evaluate.predictions import Predictions

PATHS = ("Fruit/Apple/Gala", "Fruit/Apple/Fuji", "Fruit/Pear", "Milk")
"""Leaves at three depths."""


def predictions_of(
    labels: Sequence[int],
    logits: Sequence[Sequence[float]],
    paths: Sequence[str] = PATHS,
    split: str = "validation",
    products: Sequence[str] | None = None,
) -> Predictions:
    """Make rows of images, each of a product of its own unless ``products`` says of which."""
    image_ids = [f"{index:06d}" for index in range(len(labels))]
    return Predictions(
        split=split,
        category_ids=tuple(f"c{index}" for index in range(len(paths))),
        category_paths=tuple(paths),
        image_ids=np.array(image_ids, dtype=np.str_),
        product_ids=np.array(image_ids if products is None else products, dtype=np.str_),
        labels=np.array(labels, dtype=np.int64),
        logits=np.array(logits, dtype=np.float32).reshape(len(labels), len(paths)),
    )


def predicted_as(labels: Sequence[int], predicted: Sequence[int]) -> Predictions:
    """Give each row a logit of 2 for its predicted class and 0 for the others."""
    return predictions_of(labels, 2 * np.eye(len(PATHS))[list(predicted)])


def simulated(rows: int, classes: int = 6, scale: float = 1.0, seed: int = 0) -> Predictions:
    """Draw logits, and labels from the softmax of ``logits / scale``: the true temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2.5, (rows, classes))
    noise = generator.gumbel(size=(rows, classes))
    labels = (logits + noise).argmax(axis=1)
    paths = [f"Department {index % 2}/Class {index}" for index in range(classes)]
    return predictions_of(labels.tolist(), (scale * logits).tolist(), paths)

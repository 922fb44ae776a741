"""Bootstrap intervals of figures that depend on a row's true and predicted class alone.

Products are drawn, with all their photos: photos of one are right or wrong together more often than
by chance. Products with the same outcomes are interchangeable, so that a resample is one
multinomial draw of how often each such profile occurs, and all figures of all resamples are a few
matrix products.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from catalog_batch.evaluate.hierarchy import Integers, Tree
from catalog_batch.evaluate.predictions import Flags

RESAMPLES = 1000
CONFIDENCE = 0.95
CELLS_IN_MEMORY = 5_000_000
"""Counts of outcomes and of profiles that are held at a time."""

Doubles = npt.NDArray[np.float64]
Interval = tuple[float, float] | None
"""Lower and upper bound; None where the figure is not defined in any resample."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Rows by true class, predicted class and top k, and products by the outcomes of their rows."""

    classes: int
    true: Integers
    """[K]."""

    predicted: Integers
    """[K]."""

    in_top_k: Flags
    """[K]."""

    rows: Integers
    """[K], how many rows have this outcome; none is 0."""

    profiles: csr_array
    """[M, K], how many rows of each outcome a product of each profile has."""

    products: Integers
    """[M], how many products have this profile; none is 0."""

    @classmethod
    def of(
        cls,
        true: Integers,
        predicted: Integers,
        in_top_k: Flags,
        classes: int,
        product_ids: npt.NDArray[np.str_],
    ) -> "Outcomes":
        """Group rows given one by one: [N] each."""
        codes, place, rows = np.unique(
            (true * classes + predicted) * 2 + in_top_k, return_inverse=True, return_counts=True
        )
        cells = codes // 2
        profiles, products = _profiles(place, len(codes), product_ids)
        return cls(
            classes,
            cells // classes,
            cells % classes,
            codes % 2 == 1,
            rows.astype(np.int64),
            profiles,
            products,
        )


@dataclass(frozen=True)
class Intervals:
    """Intervals of the figures of all rows by name, and of the classes by name and index."""

    overall: dict[str, Interval]
    by_class: dict[str, list[Interval]]


def bootstrap_intervals(
    outcomes: Outcomes, tree: Tree, seed: int, resamples: int = RESAMPLES
) -> Intervals:
    """Draw resamples of the products and return the percentile intervals of ``CONFIDENCE``.

    A resample in which a class's figure is not defined is left out of its interval. Two limits: few
    rows that are all right give an interval of one point, which does not mean that the class is
    perfect; and macro averages over many classes of a few rows come out lower than the figure
    itself, since a resample has fewer distinct rows.

    Args:
        outcomes: Of one row or more.
        tree: Of the classes.
        seed: The same seed gives the same intervals.
        resamples: How many to draw.
    """
    parts = [figures_of(counts, outcomes, tree) for counts in _draws(outcomes, seed, resamples)]
    overall = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    by_class = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    return Intervals(
        {name: _interval(samples) for name, samples in overall.items()},
        {name: [_interval(column) for column in samples.T] for name, samples in by_class.items()},
    )


def figures_of(
    counts: Integers, outcomes: Outcomes, tree: Tree
) -> tuple[dict[str, Doubles], dict[str, Doubles]]:
    """Compute all figures of weighted outcomes at once.

    Args:
        counts: [B, K], how often each outcome occurs in each of B samples.
        outcomes: The K outcomes.
        tree: Of the classes.

    Returns:
        Figures of all rows, [B] by name, and of each class, [B, C] by name; NaN where a figure is
        not defined.
    """
    right = outcomes.true == outcomes.predicted
    true = counts @ _membership(outcomes.true, outcomes.classes)
    predicted = counts @ _membership(outcomes.predicted, outcomes.classes)
    hits = counts[:, right] @ _membership(outcomes.true[right], outcomes.classes)
    by_class = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, true),
        "f1": _ratio(2 * hits, true + predicted),
    }
    rows, occurs = counts.sum(axis=1), (true + predicted) > 0
    overall = {
        "accuracy": _ratio(hits.sum(axis=1), rows),
        "top5_accuracy": _ratio(counts @ outcomes.in_top_k, rows),
        "weighted_f1": _ratio((np.nan_to_num(by_class["f1"]) * true).sum(axis=1), rows),
        **{
            f"macro_{name}": _ratio(np.nan_to_num(values).sum(axis=1), occurs.sum(axis=1))
            for name, values in by_class.items()
        },
        **_tree_figures(counts, outcomes, tree),
    }
    return overall, by_class


def _tree_figures(counts: Integers, outcomes: Outcomes, tree: Tree) -> dict[str, Doubles]:
    true, predicted = outcomes.true, outcomes.predicted
    shared = counts @ tree.shared[true, predicted]
    nodes_true, nodes_predicted = counts @ tree.depth[true], counts @ tree.depth[predicted]
    figures = {
        f"accuracy_level_{level}": _ratio(
            counts @ tree.agrees(true, predicted, level), counts @ (tree.depth[true] >= level)
        )
        for level in tree.levels
    }
    return {
        **figures,
        "hierarchical_precision": _ratio(shared, nodes_predicted),
        "hierarchical_recall": _ratio(shared, nodes_true),
        "hierarchical_f1": _ratio(2 * shared, nodes_true + nodes_predicted),
        "mistake_severity": _ratio(
            counts @ tree.distance(true, predicted), counts @ (true != predicted)
        ),
    }


def _profiles(
    place: Integers, outcomes: int, product_ids: npt.NDArray[np.str_]
) -> tuple[csr_array, Integers]:
    """Group products by the outcomes of their rows.

    Args:
        place: [N], the outcome of each row.
        outcomes: How many there are.
        product_ids: [N].

    Returns:
        ``profiles`` and ``products`` of ``Outcomes``.
    """
    _, product = np.unique(product_ids, return_inverse=True)
    ones = np.ones(len(place), np.int64)
    of_product = csr_array((ones, (product, place)), shape=(int(product.max()) + 1, outcomes))
    of_product.sum_duplicates()
    bounds = of_product.indptr.tolist()
    seen = Counter(
        (tuple(of_product.indices[start:end].tolist()), tuple(of_product.data[start:end].tolist()))
        for start, end in pairwise(bounds)
    )
    found = sorted(seen)
    row = np.repeat(np.arange(len(found)), [len(indices) for indices, _ in found])
    column = np.concatenate([indices for indices, _ in found])
    counts = np.concatenate([data for _, data in found])
    profiles = csr_array((counts, (row, column)), shape=(len(found), outcomes))
    return profiles, np.array([seen[profile] for profile in found], np.int64)


def _draws(outcomes: Outcomes, seed: int, resamples: int) -> Iterator[Integers]:
    generator = np.random.default_rng(seed)
    products = int(outcomes.products.sum())
    at_a_time = max(1, CELLS_IN_MEMORY // (len(outcomes.rows) + len(outcomes.products)))
    for start in range(0, resamples, at_a_time):
        size = min(at_a_time, resamples - start)
        drawn = generator.multinomial(products, outcomes.products / products, size=size)
        yield drawn @ outcomes.profiles


def _membership(indices: Integers, classes: int) -> csr_array:
    """Return [K, C], a 1 in each row's class; sparse, as it would be large otherwise."""
    ones = np.ones(len(indices), dtype=np.int64)
    return csr_array((ones, (np.arange(len(indices)), indices)), shape=(len(indices), classes))


def _ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Doubles:
    shares: Doubles = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole != 0)
    return shares


def _interval(samples: Doubles) -> Interval:
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
    return low, high

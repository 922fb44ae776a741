"""Figures that know the category tree: a wrong apple is a smaller mistake than a wrong carton.

Paths need not have the same depth. Two classes share a level when their paths agree up to it, so
``Juice/Apple`` and ``Fruit/Apple`` share none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.taxonomy import ancestors

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tree:
    """The classes as leaves of a tree whose departments hang on one root."""

    nodes: tuple[tuple[str, ...], ...]
    """[C], the prefixes of each class's path, department first."""

    depth: Integers
    """[C], levels of each path."""

    shared: Integers
    """[C, C], levels that two paths share."""

    @classmethod
    def of(cls, paths: Sequence[str]) -> "Tree":
        """Build it from the classes' normalised paths."""
        nodes = tuple(tuple(ancestors(path)) for path in paths)
        depth = np.array([len(prefixes) for prefixes in nodes], dtype=np.int64)
        shared = np.zeros((len(nodes), len(nodes)), dtype=np.int64)
        for level in range(depth.max(initial=0)):
            names = [prefixes[level] if level < len(prefixes) else "" for prefixes in nodes]
            _, codes = np.unique(np.array(names), return_inverse=True)
            is_deep = depth > level
            same = codes[:, None] == codes[None, :]
            shared += same & is_deep[:, None] & is_deep[None, :]
        return cls(nodes, depth, shared)

    @property
    def levels(self) -> range:
        """The levels that any path has, from 1."""
        return range(1, int(self.depth.max(initial=0)) + 1)

    def distance(self, true: Integers, predicted: Integers) -> Integers:
        """Return the edges between the leaves of each pair; 2 for siblings, 0 for the same."""
        shared: Integers = self.shared[true, predicted]
        edges: Integers = self.depth[true] + self.depth[predicted] - 2 * shared
        return edges

    def agrees(self, true: Integers, predicted: Integers, level: int) -> npt.NDArray[np.bool_]:
        """Return whether each pair's paths agree up to a level; not when one ends above it."""
        agreement: npt.NDArray[np.bool_] = self.shared[true, predicted] >= level
        return agreement


def hierarchical_scores(predictions: Predictions, tree: Tree) -> dict[str, float]:
    """Return hierarchical precision, recall and F1, micro averaged, of one row or more.

    Each row counts as the set of its class and all ancestors: Silla and Freitas, A survey of
    hierarchical classification across different application domains, 2011.
    """
    # Imported here, since it imports Ray where that is installed, before settings Ray reads then.
    from hiclass.metrics import f1, precision, recall

    # Prefixes and not names: a name that two branches have is not the same node.
    true = [tree.nodes[index] for index in predictions.labels.tolist()]
    predicted = [tree.nodes[index] for index in predictions.predicted.tolist()]
    return {
        "hierarchical_precision": float(precision(true, predicted)),
        "hierarchical_recall": float(recall(true, predicted)),
        "hierarchical_f1": float(f1(true, predicted, zero_division=0.0)),
    }

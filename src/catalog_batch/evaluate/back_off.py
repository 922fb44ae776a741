"""The nearest category above the best class that is sure enough, when the class itself is not.

"Apple" may be certain where "Granny Smith" is a guess. An inner node of the tree has the sum of the
confidences of the classes below it, and a threshold of its own, fitted as those of classes are
(``thresholds``), level by level from the leaves: on the rows that nothing further down accepted,
since those alone come so far up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog_batch.evaluate.hierarchy import Integers, Tree
from catalog_batch.evaluate.predictions import Flags, Floats, Predictions
from catalog_batch.evaluate.thresholds import Acceptance, lowest_showing, reaching, threshold_of
from catalog_batch.modeling.confidence import confidences, sums_over
from catalog_batch.taxonomy import category_id

NOWHERE = 0
"""Level of a row that is withheld; the level of a class's own path is its depth."""


@dataclass(frozen=True)
class Decided:
    """Where rows ended up."""

    level: Integers
    """[N], of the category that was given, 1 for a department; ``NOWHERE`` for none."""

    is_class: Flags
    """[N], whether it is the best class itself."""

    right: Flags
    """[N], whether the true class is that category or below it; False where none was given."""

    @property
    def backed_off(self) -> Acceptance:
        """Count rows that no class was given for; of these, what a node above was, rightly."""
        is_given = ~self.is_class & (self.level != NOWHERE)
        return Acceptance(
            int((~self.is_class).sum()), int(is_given.sum()), int((is_given & self.right).sum())
        )


def fit_node_thresholds(
    validation: Predictions,
    thresholds: Mapping[str, float],
    target_precision: float,
    temperature: float = 1.0,
) -> dict[str, float]:
    """Find, for each inner node, the least sum at which its precision reaches the target.

    Args:
        validation: Rows that the model was not trained on.
        thresholds: Of the classes; without any there are none of nodes either.
        target_precision: 0 to 1, neither included; of the rows that end at a node.
        temperature: That confidences are computed with.

    Returns:
        Thresholds by the node's category id, of all inner nodes.
    """
    if not thresholds:
        return {}
    tree = Tree.of(validation.category_paths)
    shares = confidences(validation.logits, temperature)
    pending = ~reaching(validation, thresholds, temperature)
    found: dict[str, float] = {}
    for level in reversed(range(1, int(tree.depth.max(initial=1)))):
        sums, names = _sums(validation, tree, shares, level)
        right = tree.agrees(validation.labels, validation.predicted, level)
        at_level = pending & (names != "")
        pooled = lowest_showing(sums[at_level], right[at_level], target_precision)
        for name in sorted({nodes[level - 1] for nodes in tree.nodes if len(nodes) > level}):
            rows = at_level & (names == name)
            least = threshold_of(sums[rows], right[rows], pooled, target_precision)
            found[category_id(name)] = least
            pending &= ~(rows & (sums >= np.float32(least)))
    return found


def decide(
    predictions: Predictions,
    thresholds: Mapping[str, float],
    node_thresholds: Mapping[str, float],
    temperature: float = 1.0,
    withheld: Flags | None = None,
) -> Decided:
    """Give each row its best class, or the nearest node above it that is sure enough, or nothing.

    Args:
        predictions: Of a split.
        thresholds: Least confidence by class; of one without a threshold it is 0.
        node_thresholds: Least sum by inner node; one without a threshold is never given.
        temperature: As they were fitted with.
        withheld: [N], rows that get nothing for another reason; None for none.
    """
    tree = Tree.of(predictions.category_paths)
    shares = confidences(predictions.logits, temperature)
    may_have = np.ones(predictions.rows, bool) if withheld is None else ~withheld
    is_class = may_have & reaching(predictions, thresholds, temperature)
    depth = tree.depth[predictions.predicted]
    given = np.where(is_class, depth, NOWHERE)
    right = is_class & predictions.correct
    for level in reversed(range(1, int(tree.depth.max(initial=1)))):
        sums, names = _sums(predictions, tree, shares, level)
        least = np.array(
            [node_thresholds.get(category_id(name), np.inf) if name else np.inf for name in names],
            dtype=np.float32,
        )
        is_given = may_have & (given == NOWHERE) & (sums >= least)
        given[is_given] = level
        right |= is_given & tree.agrees(predictions.labels, predictions.predicted, level)
    return Decided(given, is_class, right)


def _sums(
    predictions: Predictions, tree: Tree, shares: Floats, level: int
) -> tuple[Floats, npt.NDArray[np.str_]]:
    """Return each row's node above its best class at a level, "" for none, and the sum below it."""
    above = np.array([nodes[level - 1] if len(nodes) > level else "" for nodes in tree.nodes])
    names = above[predictions.predicted]
    # A class whose own path ends at the node belongs to it, too.
    below = np.array([nodes[level - 1] if len(nodes) >= level else "" for nodes in tree.nodes])
    sums = np.zeros(predictions.rows, dtype=np.float32)
    for name in set(names.tolist()) - {""}:
        rows = names == name
        sums[rows] = sums_over(shares[rows], np.flatnonzero(below == name))
    return sums, names

"""Categories as a tree, made from paths such as ``Fruit/Apple/Granny-Smith``."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SEPARATOR = "/"


@dataclass(frozen=True, order=True)
class Category:
    """A node of the tree: ``level`` 1 is a department, whose ``parent_id`` is None."""

    path: str
    category_id: str
    parent_id: str | None
    name: str
    level: int


def normalise_path(path: str | None) -> str | None:
    """Trim every part of a path and drop empty ones; None when nothing is left."""
    parts = [part.strip() for part in (path or "").split(SEPARATOR)]
    return SEPARATOR.join(part for part in parts if part) or None


def category_id(path: str) -> str:
    """Return the identifier of a normalised path: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(path.encode()).hexdigest()[:16]


def ancestors(path: str) -> list[str]:
    """Return the path's own prefixes, department first, the path itself last."""
    parts = path.split(SEPARATOR)
    return [SEPARATOR.join(parts[: depth + 1]) for depth in range(len(parts))]


def inner_nodes(paths: Sequence[str]) -> dict[str, list[int]]:
    """Return the nodes above any of the paths, and the places of the paths at or below each.

    Args:
        paths: Normalised; one may lie above another.
    """
    above = sorted({prefix for path in paths for prefix in ancestors(path)[:-1]})
    places: dict[str, list[int]] = {node: [] for node in above}
    for place, path in enumerate(paths):
        for node in ancestors(path):
            if node in places:
                places[node].append(place)
    return places


def build_tree(paths: Iterable[str]) -> list[Category]:
    """Return every category the normalised paths name or imply, ordered by path."""
    every_path = {prefix for path in paths for prefix in ancestors(path)}
    return sorted(_node(path) for path in every_path)


def _node(path: str) -> Category:
    parent, _, name = path.rpartition(SEPARATOR)
    return Category(
        path=path,
        category_id=category_id(path),
        parent_id=category_id(parent) if parent else None,
        name=name,
        level=path.count(SEPARATOR) + 1,
    )

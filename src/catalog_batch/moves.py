"""Categories that were renamed, moved or merged, wherever an old one still stands.

Labels, models and published predictions keep the category they were given or made with; what
reads them asks here where it is now. A path means one thing for ever, so asking twice does no harm.
Read without Spark, for ``promote`` asks too; for rows of tables there is ``moved_rows.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from catalog_batch import ledger
from catalog_batch.taxonomy import ancestors, category_id

TABLE = "taxonomy_changes"


@dataclass(frozen=True)
class Moves:
    """Where the categories of all earlier trees are now."""

    version: int = 0
    """Of the newest tree that categories moved to; 0 when none ever did."""

    new_paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By old path: what it became; several after a split, none when withdrawn."""

    changes: Mapping[str, str] = field(default_factory=dict)
    """By old path: the kind of change, as the table names it."""

    @cached_property
    def destinations(self) -> dict[str, tuple[str, str] | None]:
        """By old category id: the new id and path, or None when nobody can say which."""
        return {
            category_id(old): (category_id(new[0]), new[0]) if len(new) == 1 else None
            for old, new in self.new_paths.items()
        }

    @cached_property
    def ids_now(self) -> dict[str, str]:
        """By old category id: the new one, where there is one."""
        return {old: new[0] for old, new in self.destinations.items() if new}

    def now(self, category: str) -> str:
        """Return the id that a category has now; its own after a split or withdrawal."""
        return self.ids_now.get(category, category)

    def place(self, path: str) -> str | None:
        """Return where a category is now, or a new one would be: below a moved one it follows.

        None when it, or the nearest of those above it that are gone, was split or withdrawn.
        """
        for above in reversed(ancestors(path)):
            if above in self.new_paths:
                new, rest = self.new_paths[above], path.removeprefix(above)
                if len(new) != 1:
                    return None
                return self.place(new[0] + rest) if rest else new[0]
        return path

    def classes_now(self, paths: Mapping[str, str]) -> dict[str, str]:
        """Return the paths of categories, given by id, as they are now, by the ids of now."""
        moved = {category: self.destinations.get(category) for category in paths}
        return {
            (to[0] if to else category): (to[1] if to else paths[category])
            for category, to in moved.items()
        }


def read_moves(root: str, before: int | None = None) -> Moves:
    """Read the newest moves.

    Args:
        root: Of the warehouse, which need not have the table.
        before: Only those to trees of an earlier version than this.
    """
    columns = ("taxonomy_version", "old_path", "new_paths", "change")
    rows = [
        row
        for row in ledger.find_rows(root, TABLE, columns, {})
        if before is None or row["taxonomy_version"] < before
    ]
    newest = max((row["taxonomy_version"] for row in rows), default=0)
    known = {row["old_path"]: row for row in rows if row["taxonomy_version"] == newest}
    return Moves(
        newest,
        {old: tuple(row["new_paths"]) for old, row in known.items()},
        {old: row["change"] for old, row in known.items()},
    )

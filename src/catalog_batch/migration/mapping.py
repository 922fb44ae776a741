"""What a mapping from old to new paths makes of a tree."""

import csv
import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from catalog_batch.errors import BadInputError
from catalog_batch.taxonomy import SEPARATOR, ancestors, inner_nodes, normalise_path

COLUMNS = ("old_path", "new_path")

Paths = tuple[str, ...]


class Change(StrEnum):
    """What happened to a category."""

    RENAMED = "renamed"
    """It stays under its parent."""

    MOVED = "moved"
    """It, or a category above it, is elsewhere."""

    MERGED = "merged"
    """It is one with others now."""

    SPLIT = "split"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Migration:
    """A new tree, and where each category that is not in it is now."""

    tree: frozenset[str]
    """All paths, those of parents among them."""

    moves: Mapping[str, Paths]
    """By old path of this or an earlier tree: what it became, sorted."""

    changes: Mapping[str, Change]
    """The same paths."""


def read_mapping(path: Path) -> dict[str, Paths]:
    """Read a CSV file of ``old_path`` and ``new_path``; other columns are for people.

    Several rows with one old path are a split, an empty new path withdraws it.

    Raises:
        BadInputError: When it cannot be read, lacks a column or an old path, says nothing, or has a
            line of more or fewer cells than the first, as where a path with a comma has no quotes.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise BadInputError(
                    f"The mapping {str(path)!r} has the columns {list(reader.fieldnames or [])}, "
                    f"and not {missing}. Its first line must name old_path and new_path."
                )
            found: dict[str, set[str]] = {}
            for row in reader:
                if None in row or None in row.values():
                    raise BadInputError(
                        f"Line {reader.line_num} of the mapping {str(path)!r} has another number "
                        "of cells than its first line. Put a path with a comma in quotes, and "
                        "leave the cell of a withdrawn category empty."
                    )
                old, new = (normalise_path(row[name]) for name in COLUMNS)
                if old is None:
                    raise BadInputError(
                        f"Line {reader.line_num} of the mapping {str(path)!r} has no old_path."
                    )
                found.setdefault(old, set()).update([new] if new else [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"The mapping {str(path)!r} cannot be read: {error}.") from error
    if not found:
        raise BadInputError(f"The mapping {str(path)!r} has no row: nothing would move.")
    return {old: tuple(sorted(new)) for old, new in found.items()}


def is_applied(
    mapping: Mapping[str, Paths], tree: Collection[str], moves: Mapping[str, Paths]
) -> bool:
    """Return whether a tree, and the moves to it, are as a mapping wants them.

    A later mapping may have moved on what this one led to.
    """
    return all(
        old in tree or old in moves
        if new == (old,)
        else old not in tree and _is_the_same(moves.get(old), _onward(new, moves), tree)
        for old, new in mapping.items()
    )


def plan_migration(
    tree: Collection[str],
    earlier: Mapping[str, Paths],
    mapping: Mapping[str, Paths],
    kinds: Mapping[str, Change] = MappingProxyType({}),
) -> Migration:
    """Apply a mapping to a tree.

    A category below a mapped one moves with it, unless it has a row of its own; below a split one
    it is withdrawn, for nobody says under which part it belongs. A parent whose children have all
    gone is withdrawn as well. What was split before stays so when a part of it is withdrawn: not
    all of it belongs to what is left.

    Args:
        tree: All paths of the newest tree.
        earlier: Moves that led to it.
        mapping: Old path to new paths.
        kinds: Of the earlier moves.

    Raises:
        BadInputError: For an old path that is not in the tree, or a path that would mean something
            else than before.
    """
    _require_known(mapping, tree, earlier)
    parents = inner_nodes(sorted(tree))
    named = [path for path in tree if path not in parents or path in mapping]
    grown = {node for path in named for new in _targets(path, mapping) for node in ancestors(new)}
    now = {old: _within(grown, _targets(old, mapping)) for old in tree}
    moves = {old: new for old, new in now.items() if new != (old,)}
    for old, stops in earlier.items():
        onward = _onward(stops, now)
        if onward != (old,):
            moves[old] = onward
    _require_one_meaning(grown, moves)
    shared = Counter(new[0] for new in now.values() if len(new) == 1)
    changes = {old: _change(old, new, shared) for old, new in moves.items()}
    for old, kind in kinds.items():
        new = moves.get(old, ())
        if new == earlier[old] or (kind is Change.MERGED and len(new) == 1):
            changes[old] = kind
    return Migration(frozenset(grown), moves, changes)


def without_killed_run(
    trees: Mapping[int, Collection[str]],
    earlier: Mapping[str, Paths],
    mapping: Mapping[str, Paths],
) -> set[str] | None:
    """Return the newest tree as it would be, had no run of a mapping been killed in the middle.

    Such a run has written its tree, and not yet what moved to it. Later trees have grown from that.

    Args:
        trees: All paths by version, from the last on to which anything moved.
        earlier: Moves that led to that one.
        mapping: Old path to new paths.

    Returns:
        None when no tree is of such a run.
    """
    for version, before in sorted(trees.items()):
        made = set(trees.get(version + 1, ()))
        if mapping.keys() <= set(before) and plan_migration(before, earlier, mapping).tree == made:
            return {*before, *(set(trees[max(trees)]) - made)}
    return None


def _targets(path: str, mapping: Mapping[str, Paths]) -> Paths:
    for above in reversed(ancestors(path)):
        if above == path and above in mapping:
            return mapping[above]
        if above in mapping:
            rest = path.removeprefix(above)
            return (mapping[above][0] + rest,) if len(mapping[above]) == 1 else ()
    return (path,)


def _onward(stops: Paths, moves: Mapping[str, Paths]) -> Paths:
    """Return what several paths are now; of the parts of a split, those withdrawn keep their name.

    So it stays a split of which nobody knows what belongs where, whatever is left.
    """
    parts = {stop: moves.get(stop, (stop,)) for stop in stops}
    named = {stop: new or (stop,) for stop, new in parts.items()} if len(stops) > 1 else parts
    return tuple(sorted({final for new in named.values() for final in new}))


def _is_the_same(became: Paths | None, wanted: Paths, tree: Collection[str]) -> bool:
    """Return whether both are one path, or splits of the same parts, as far as these are left."""
    if became is None or len(became) < 2 or len(wanted) < 2:
        return became == wanted
    return _within(tree, became) == _within(tree, wanted)


def _within(tree: Collection[str], paths: Iterable[str]) -> Paths:
    return tuple(sorted(path for path in paths if path in tree))


def _change(old: str, new: Paths, shared: Mapping[str, int]) -> Change:
    if len(new) != 1:
        return Change.SPLIT if new else Change.WITHDRAWN
    if shared[new[0]] > 1:
        return Change.MERGED
    same_parent = old.rpartition(SEPARATOR)[0] == new[0].rpartition(SEPARATOR)[0]
    return Change.RENAMED if same_parent else Change.MOVED


def _require_known(
    mapping: Mapping[str, Paths], tree: Collection[str], earlier: Mapping[str, Paths]
) -> None:
    for old in mapping:
        if old not in tree:
            nearest = difflib.get_close_matches(old, tree, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            if old in earlier:
                hint = f" An earlier mapping made it {_became(earlier[old])}."
            raise BadInputError(
                f"{old!r} is not a category of the newest tree.{hint} Look at what there is: "
                "catalog-batch sql 'SELECT path FROM categories WHERE taxonomy_version = "
                "(SELECT max(taxonomy_version) FROM categories) ORDER BY 1'."
            )


def _require_one_meaning(tree: Collection[str], moves: Mapping[str, Paths]) -> None:
    for old, new in sorted(moves.items()):
        if old in tree:
            raise BadInputError(
                f"{old!r} became {_became(new)}, and the new tree has a category of that name as "
                "well. Labels and models of before could not be told from those of now: give the "
                "new category another name."
            )


def _became(new: Paths) -> str:
    return " and ".join(map(repr, new)) or "nothing"

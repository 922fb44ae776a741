"""Drift: the columns of one manifest compared with those of the one before."""

from collections.abc import Mapping
from difflib import get_close_matches

from catalog_batch.errors import ManifestError

REQUIRED_COLUMNS = ("product_id", "image_uri")
OPTIONAL_COLUMNS = ("category", "title", "description", "position", "split", "sha256")
KNOWN_COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
CONTENT_COLUMN = "content"

# CSV and JSON Lines know text alone, so a change to or from text may be one of format only; a
# column of nothing but nulls ("void") has no type of its own.
_TEXT_TYPES = ("string", "char", "varchar", "void")
_NOT_SCALAR = ("binary", "array", "struct", "map", "variant")


def is_scalar(kind: str) -> bool:
    """Tell whether a Spark type holds one readable value: no bytes, nothing nested."""
    return not kind.startswith(_NOT_SCALAR)


def check_drift(previous: Mapping[str, str] | None, now: Mapping[str, str]) -> None:
    """Refuse a manifest that lost or retyped a known column.

    Args:
        previous: Columns of the last manifest with their Spark types; None for the first manifest.
        now: Columns of this one.

    Raises:
        ManifestError: With one line for each such column.
    """
    if previous is None:
        return
    lost = [_lost(name, previous, now) for name in _known(previous, now) if name not in now]
    retyped = [
        f"{name} was {previous[name]} and is {now[name]}"
        for name in _known(previous, now)
        if name in now and not _is_same_kind(previous[name], now[name])
    ]
    if lost or retyped:
        problems = "".join(f"\n  {line}" for line in lost + retyped)
        raise ManifestError(
            f"The columns are not those of the last manifest:{problems}\n"
            "Mend the manifest, or pass --accept-columns if this is meant."
        )


def describe_changes(previous: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """Return a line for each column that came, went or changed its type, for the log."""
    if previous is None:
        return []
    added = [f"+ {name} {now[name]}{_fate(name, now)}" for name in now if name not in previous]
    dropped = [f"- {name}" for name in previous if name not in now]
    retyped = [
        f"~ {name} {previous[name]} -> {now[name]}"
        for name in previous
        if name in now and previous[name] != now[name]
    ]
    return added + dropped + retyped


def _known(previous: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the columns of ``previous`` that mean something to ingest."""
    is_inline = "binary" in (previous.get(CONTENT_COLUMN), now.get(CONTENT_COLUMN))
    known = (*KNOWN_COLUMNS, CONTENT_COLUMN) if is_inline else KNOWN_COLUMNS
    return [name for name in known if name in previous]


def _lost(name: str, previous: Mapping[str, str], now: Mapping[str, str]) -> str:
    new = {other.lower(): other for other in now if other not in (*previous, *KNOWN_COLUMNS)}
    similar = get_close_matches(name, list(new), n=1)
    guess = f"; was it renamed to {new[similar[0]]!r}?" if similar else ""
    return f"{name} is gone{guess}"


def _is_same_kind(before: str, after: str) -> bool:
    is_text = before.startswith(_TEXT_TYPES) or after.startswith(_TEXT_TYPES)
    return before == after or (is_text and is_scalar(before) and is_scalar(after))


def _fate(name: str, now: Mapping[str, str]) -> str:
    if name in KNOWN_COLUMNS or (name == CONTENT_COLUMN and now[name] == "binary"):
        return ""
    return " (left out: bytes)" if now[name] == "binary" else " (kept as an attribute)"

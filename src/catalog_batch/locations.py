"""Folders as settings name them: by a path, or by a ``file:`` URL."""

from urllib.parse import unquote, urlsplit


def plain_path(location: str) -> str:
    """Return the path of a ``file:`` URL; what is none stays as it is.

    In a URL ``%20`` is a space, as delta-rs and ``Path.as_uri`` have it; in a path it is itself.
    """
    parts = urlsplit(location)
    return unquote(parts.path) if parts.scheme == "file" else location

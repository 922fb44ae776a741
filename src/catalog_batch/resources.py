"""Where the files that are not code live: ``schemas/`` and ``conf/``."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parents[1]


def resource_folder(name: str) -> Path:
    """Return the folder ``name``: inside the package in a wheel, at the top level in a checkout."""
    packaged = _PACKAGE / name
    return packaged if packaged.is_dir() else _CHECKOUT / name

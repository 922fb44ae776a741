"""A folder's list of checksums, and the refusal of a folder that differs from its list."""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from catalog_batch.errors import ModelRefusedError

MANIFEST = "MANIFEST.sha256"
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
SPEC, GOLDEN = "model.json", "golden.npz"
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)")
_MAX_BYTES = 10_000


def refusal(folder: Path, what: str, remedy: str = "") -> ModelRefusedError:
    """Return the error that says which bundle is refused, why, and what to do."""
    remedy = remedy or "Copy it again from where it was written, or train a new one."
    return ModelRefusedError(f"Model bundle {str(folder)!r} is refused: {what}. {remedy}")


def write_manifest(folder: Path) -> str:
    """List the checksums of the folder's files, as ``sha256sum`` does.

    Returns:
        SHA-256 of the list itself, which names the whole folder's content.
    """
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{_file_digest(folder / name)}  {name}\n" for name in names]
    (folder / MANIFEST).write_text("".join(lines), encoding="ascii", newline="\n")
    return _file_digest(folder / MANIFEST)


def verify_bundle(folder: Path) -> str:
    """Check the files of a bundle, as ``verify_manifest`` does; return its digest.

    Raises:
        ModelRefusedError: For a folder, file or line that is missing, unknown or altered.
    """
    weights = GRAPH if (folder / GRAPH).exists() else WEIGHTS
    return verify_manifest(folder, (weights, SPEC, GOLDEN))


def verify_manifest(folder: Path, names: Collection[str]) -> str:
    """Check that the folder holds exactly ``names`` and that each has its listed checksum.

    Nothing but the list and ``names`` is opened, whatever the list says.

    Returns:
        SHA-256 of the list.

    Raises:
        ModelRefusedError: For a folder, file or line that is missing, unknown or altered.
    """
    if not folder.is_dir():
        raise refusal(folder, "there is no such folder", "Name the folder of a written bundle.")
    found = {path.name for path in folder.iterdir()}
    if found != {*names, MANIFEST}:
        raise refusal(folder, _difference(found, {*names, MANIFEST}))
    if (folder / MANIFEST).stat().st_size > _MAX_BYTES:
        raise refusal(folder, f"{MANIFEST} has more than {_MAX_BYTES} bytes")
    listed = _listed_digests(folder)
    if set(listed) != set(names):
        raise refusal(folder, f"in {MANIFEST}, {_difference(set(listed), set(names))}")
    for name in names:
        if not (folder / name).is_file():
            raise refusal(folder, f"{name} is not a regular file")
        digest = _file_digest(folder / name)
        if digest != listed[name]:
            raise refusal(folder, f"{name} has SHA-256 {digest}, not the listed {listed[name]}")
    return _file_digest(folder / MANIFEST)


def _listed_digests(folder: Path) -> dict[str, str]:
    content = (folder / MANIFEST).read_bytes().decode("ascii", errors="replace")
    listed = {}
    for line in content.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise refusal(
                folder, f"{MANIFEST} has the line {line[:100]!r}, not a digest and a name"
            )
        listed[match["name"]] = match["digest"]
    return listed


def _difference(found: set[str], expected: set[str]) -> str:
    missing, extra = sorted(expected - found), sorted(found - expected)
    parts = [f"{missing} are missing"] * bool(missing) + [f"{extra[:5]} are extra"] * bool(extra)
    return " and ".join(parts)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Make a manifest from a folder of images, in one of the two layouts that ImageFolder knows."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from catalog_batch.errors import ManifestError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
_FIRST_COLUMNS = ("product_id", "image_uri", "category")


def write_manifest(folder: Path, target: Path) -> int:
    """Write a CSV manifest of a folder; return its rows.

    With ``metadata.csv`` or ``metadata.jsonl`` in the folder, its rows become the manifest:
    ``file_name`` is the image, ``label`` the category if there is no ``category``. Without one,
    the folders are the categories: ``Fruit/Apple/1.jpg`` has the category ``Fruit/Apple``. The
    product is the row's ``product_id``, or else the file's path.

    Raises:
        ManifestError: When the folder is missing, holds no image, or its metadata is unusable.
    """
    if not folder.is_dir():
        raise ManifestError(f"{str(folder)!r} is not a folder.")
    metadata = [folder / name for name in _METADATA_NAMES if (folder / name).is_file()]
    if len(metadata) > 1:
        raise ManifestError(f"{str(folder)!r} has both {' and '.join(_METADATA_NAMES)}. Keep one.")
    rows = list(_rows_of_metadata(metadata[0]) if metadata else _rows_of_folders(folder))
    if not rows:
        raise ManifestError(
            f"{str(folder)!r} holds no image ({', '.join(IMAGE_SUFFIXES)}) in a category folder, "
            f"and no {' or '.join(_METADATA_NAMES)}."
        )
    others = sorted({name for row in rows for name in row} - set(_FIRST_COLUMNS))
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*_FIRST_COLUMNS, *others])
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(target)
    except UnicodeEncodeError as error:
        name = ascii(error.object[:200])
        raise ManifestError(f"The file name {name} is not UTF-8. Rename the file.") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(rows)


def _rows_of_folders(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_image = path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        if is_image and len(relative.parts) > 1:
            yield {
                "product_id": relative.as_posix(),
                "image_uri": relative.as_posix(),
                "category": relative.parent.as_posix(),
            }


def _rows_of_metadata(path: Path) -> Iterator[dict[str, str]]:
    for number, row in enumerate(_read_metadata(path), start=1):
        name = row.pop("file_name", None)
        if not name:
            raise ManifestError(f"Row {number} of {str(path)!r} has no 'file_name': {row}.")
        category = row.pop("category", None) or row.pop("label", None) or ""
        product = row.pop("product_id", None) or name
        yield {**row, "product_id": product, "image_uri": name, "category": category}


def _read_metadata(path: Path) -> Iterator[dict[str, str]]:
    try:
        yield from _parse_metadata(path)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{str(path)!r} is not UTF-8: {error}. Convert it first.") from error


def _parse_metadata(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            for row in csv.DictReader(file):
                yield {key: value for key, value in row.items() if key and value is not None}
            return
        for number, line in enumerate(file, start=1):
            try:
                parsed = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError as error:
                raise ManifestError(
                    f"Line {number} of {str(path)!r} is no JSON: {error}"
                ) from error
            if not isinstance(parsed, dict):
                raise ManifestError(f"Line {number} of {str(path)!r} is no JSON object: {line!r}")
            if parsed:
                yield {key: str(value) for key, value in parsed.items() if value is not None}

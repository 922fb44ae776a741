"""Make a manifest from a folder of images, in a layout that ImageFolder or WebDataset knows."""

import csv
import json
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from catalog_batch.errors import ManifestError
from catalog_batch.imaging import Rejection
from catalog_batch.ingest.tar_shards import SUFFIX, LocalContainer, TarShard

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
_FIRST_COLUMNS = ("product_id", "image_uri", "category")
_MAX_LABEL_BYTES = 1_000_000
_MAX_CELL = 131_072


def write_manifest(folder: Path, target: Path) -> int:
    """Write a CSV manifest of a folder; return its rows.

    With ``metadata.csv`` or ``metadata.jsonl`` in the folder, its rows become the manifest:
    ``file_name`` is the image, ``label`` the category if there is no ``category``. Without one,
    the folders are the categories: ``Fruit/Apple/1.jpg`` has the category ``Fruit/Apple``. The
    product is the row's ``product_id``, or else the file's path.

    Tar shards are read in the manner of WebDataset: members whose paths agree up to the first dot
    of the name are one sample, and its images are one product, named by that path. Its category is
    the text of ``.cls``, or else ``category`` or ``label`` in ``.json``, which may also give
    ``title`` and ``description``. Samples of one name in two shards are rows of one product.

    Raises:
        ManifestError: When the folder is missing, holds no image, or its metadata is unusable.
    """
    if not folder.is_dir():
        raise ManifestError(f"{str(folder)!r} is not a folder.")
    metadata = [folder / name for name in _METADATA_NAMES if (folder / name).is_file()]
    if len(metadata) > 1:
        raise ManifestError(f"{str(folder)!r} has both {' and '.join(_METADATA_NAMES)}. Keep one.")
    rows = list(_rows_of_metadata(metadata[0]) if metadata else _rows_of_files(folder))
    if not rows:
        raise ManifestError(
            f"{str(folder)!r} holds no image ({', '.join(IMAGE_SUFFIXES)}) in a category folder "
            f"or tar shard, and no {' or '.join(_METADATA_NAMES)}."
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


def _rows_of_files(folder: Path) -> Iterator[dict[str, str]]:
    yield from _rows_of_folders(folder)
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        if path.is_file():
            yield from _rows_of_shard(path, path.relative_to(folder).as_posix())


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


def _rows_of_shard(path: Path, uri: str) -> Iterator[dict[str, str]]:
    try:
        shard = TarShard(LocalContainer(os.path.realpath(path)))
    except OSError as error:
        raise ManifestError(f"The shard {str(path)!r} cannot be read: {error.strerror}.") from error
    if shard.is_damaged:
        raise ManifestError(f"The shard {str(path)!r} is damaged, or no plain tar file. Renew it.")
    names = dict.fromkeys(shard.names())
    for name in names:
        key, extension = _sample(name)
        if f".{extension}".endswith(IMAGE_SUFFIXES):
            yield {
                "product_id": key,
                "image_uri": f"{uri}/{name}",
                **_labels_of_sample(shard, key, names, path),
            }


def _sample(name: str) -> tuple[str, str]:
    """Split a member's path at the first dot of its last part: ``a/b.left.jpg`` is ``a/b``."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _labels_of_sample(
    shard: TarShard, key: str, names: Container[str], path: Path
) -> dict[str, str]:
    found: dict[str, Any] = {}
    if (name := f"{key}.json") in names:
        try:
            found = json.loads(_text_of_member(shard, name, path))
        except json.JSONDecodeError as error:
            raise ManifestError(f"{name!r} in {str(path)!r} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ManifestError(f"{name!r} in {str(path)!r} is no JSON object.")
    category = found.get("category")
    if category is None:
        category = found.get("label")
    if (name := f"{key}.cls") in names:
        category = _text_of_member(shard, name, path).strip()
    texts = {name: found[name] for name in ("title", "description") if found.get(name) is not None}
    texts["category"] = "" if category is None else category
    return {name: str(value) for name, value in texts.items()}


def _text_of_member(shard: TarShard, name: str, path: Path) -> str:
    content = shard.read(name, _MAX_LABEL_BYTES)
    if isinstance(content, Rejection):
        raise ManifestError(f"{name!r} in {str(path)!r} cannot be read: {content.detail}.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{name!r} in {str(path)!r} is not UTF-8: {error}.") from error


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


def _parse_csv(path: Path, reader: "csv.DictReader[str]") -> Iterator[dict[str, str]]:
    # Of the whole process: reading a manifest raises it.
    csv.field_size_limit(_MAX_CELL)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ManifestError(
                    f"Line {reader.line_num} of {str(path)!r} has another number of cells than the "
                    f"{len(reader.fieldnames or [])} of its first line. Put text with a comma in "
                    "quotes."
                )
            yield {key: value for key, value in row.items() if key}
    except csv.Error as error:
        raise ManifestError(
            f"{str(path)!r} cannot be read up to line {reader.line_num}: {error}. Look for a quote "
            "that is not closed."
        ) from error


def _parse_metadata(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            yield from _parse_csv(path, csv.DictReader(file, strict=True))
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

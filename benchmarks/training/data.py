"""Stored photos, as training reads them: in a table, and as files in folders.

    python -m benchmarks.training.data --count 4000 --data build/bench-data

The photos are those of the ingest benchmarks, decoded and encoded again by the function that
ingest stores images with: JPEGs of 256 px. The table is laid out as ``build-training-set`` lays it
out: partitioned by split, in row groups of the size that is the default, all photos in ``train``.
The files have the same bytes, one folder a class.
"""

import argparse
import csv
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.ingest.photos import DATA, SMALL, Dataset, make_photos
from deltalake import DeltaTable, WriterProperties, write_deltalake

from catalog_batch.config import TrainingSetSettings
from catalog_batch.imaging import DecodePolicy, StoredImage, decode_image
from catalog_batch.taxonomy import category_id

ONE_FILE = 2**34
"""Bytes of a data file: more than there are."""

SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("image_id", "product_id")],
        ("content", pa.binary()),
        *[(name, pa.string()) for name in ("title", "description")],
        *[(name, pa.string()) for name in ("category_id", "category_path", "group_id")],
        ("taxonomy_version", pa.int32()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class TrainingData:
    """A folder with ``count`` stored photos, as a Delta table and as files."""

    folder: Path
    count: int

    @property
    def table(self) -> Path:
        return self.folder / "training_examples"

    @property
    def files(self) -> Path:
        return self.folder / "files"


def make_training_data(count: int, data: Path) -> TrainingData:
    """Return ``count`` stored photos, which are made when the cache lacks them."""
    made = TrainingData(data / f"training-{count}", count)
    if not made.folder.is_dir():
        photos = make_photos(SMALL, count, data)
        print(f"storing {count:,} photos for training", flush=True)
        # The folder gets its name when it is whole, so a stopped run leaves no half.
        partial = data / f"training-{count}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        store_photos(photos, partial)
        partial.rename(made.folder)
    return made


def store_photos(photos: Dataset, folder: Path) -> TrainingData:
    """Store photos as ingest does, and write the table and the files into a new folder."""
    stored = TrainingData(folder, photos.count)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(_stored_row, _named_files(photos)))
    _write_table(pa.Table.from_pylist(rows, SCHEMA), stored.table)
    _write_files(rows, stored.files)
    return stored


def make_large_file(stored: TrainingData, count: int, data: Path) -> TrainingData:
    """Return a table of one file of ``count`` rows: the stored photos again and again."""
    made = TrainingData(data / f"training-{count}-in-one-file", count)
    if not made.folder.is_dir():
        print(f"writing one file of {count:,} rows", flush=True)
        partial = data / f"{made.folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        rows = pa.concat_tables([_read_table(stored.table)] * -(-count // stored.count))
        _write_table(rows.slice(0, count), TrainingData(partial, count).table)
        partial.rename(made.folder)
    return made


def _named_files(photos: Dataset) -> Iterator[tuple[int, Path, str]]:
    with photos.manifest.open(encoding="utf-8", newline="") as file:
        for index, row in enumerate(csv.DictReader(file)):
            yield index, photos.images / row["image_uri"], row["category"]


def _stored_row(named: tuple[int, Path, str]) -> dict[str, Any]:
    index, path, category = named
    image = decode_image(path.read_bytes(), DecodePolicy())
    if not isinstance(image, StoredImage):
        raise ValueError(f"{path} is rejected: {image}. The benchmark's photos are all good.")
    return {
        "image_id": f"{index:06d}",
        "product_id": f"P{index:06d}",
        "content": image.content,
        "title": path.stem,
        "description": "",
        "category_id": category_id(category),
        "category_path": category,
        "group_id": f"P{index:06d}",
        "taxonomy_version": 1,
        "split": "train",
    }


def _read_table(table: Path) -> pa.Table:
    # deltalake's own way to Arrow fails on a partitioned table with pyarrow 14.
    paths = [uri.removeprefix("file://") for uri in DeltaTable(str(table)).file_uris()]
    rows = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    splits = pa.array(["train"] * len(rows), pa.string())
    return rows.append_column("split", splits).select(SCHEMA.names).cast(SCHEMA)


def _write_table(rows: pa.Table, table: Path) -> None:
    kib = TrainingSetSettings().row_group_kib
    bytes_per_row = pc.sum(pc.binary_length(rows["content"])).as_py() / len(rows)
    write_deltalake(
        str(table),
        rows,
        partition_by=["split"],
        target_file_size=ONE_FILE,
        writer_properties=WriterProperties(
            compression="SNAPPY", max_row_group_size=max(1, round(kib * 1024 / bytes_per_row))
        ),
    )


def _write_files(rows: list[dict[str, Any]], folder: Path) -> None:
    for row in rows:
        path = folder / row["category_id"] / f"{row['image_id']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["content"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Store photos for the training benchmarks.")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    print(f"{given.count:,} photos in {make_training_data(given.count, given.data).folder}")


if __name__ == "__main__":
    main()

"""Draw the photos that the benchmarks read, once, into a cache folder.

    python -m benchmarks.ingest.photos small --count 5000 --data build/bench-data

Sixty photos come from the project's own generator. Each file then blends two of them, cropped,
turned, lit and with sensor noise of its own: no two files have the same bytes, and few look alike.
Those of the kind ``shown`` are each a photo of the generator, of the category that the manifest
says, which a model can learn.
A stopped run goes on where it was; a larger count keeps the files of a smaller one.
"""

import argparse
import csv
import io
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from catalog_batch.demo.looks import choose_look
from catalog_batch.demo.photos import take_photo
from catalog_batch.demo.silhouettes import CATEGORIES

DATA = Path("build/bench-data")
BASES = 60
FILES_PER_FOLDER = 100
NOISE_SIDE = 3000


@dataclass(frozen=True)
class PhotoKind:
    """Square photos of one kind: their side in pixels, their format, how grainy they are."""

    name: str
    side: int
    suffix: str = "jpg"
    noise: float = 3.0
    shows_category: bool = False
    """Whether each is one photo of the generator, and not a blend of two."""

    def file_name(self, index: int) -> str:
        return f"{index // FILES_PER_FOLDER:04d}/{index:06d}.{self.suffix}"


BIG = PhotoKind("big", 1600, noise=6.0)
SMALL = PhotoKind("small", 348, noise=5.0)
TWENTY_MB = PhotoKind("twenty_mb", 2600, suffix="tif")
SHOWN = PhotoKind("shown", 348, noise=5.0, shows_category=True)
KINDS = {kind.name: kind for kind in (BIG, SMALL, TWENTY_MB, SHOWN)}


@dataclass(frozen=True)
class Dataset:
    """A folder with ``count`` photos in ``images/`` and the manifest that names them."""

    folder: Path
    count: int

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    def files(self) -> list[Path]:
        with self.manifest.open(encoding="utf-8", newline="") as file:
            return [self.images / row["image_uri"] for row in csv.DictReader(file)]

    def source_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())


def make_photos(kind: PhotoKind, count: int, data: Path) -> Dataset:
    """Return ``count`` photos of a kind, drawing those that the cache lacks."""
    pool = data / f"{kind.name}-pool"
    folders = range(-(-count // FILES_PER_FOLDER))
    missing = [number for number in folders if not (pool / f"{number:04d}").is_dir()]
    if missing:
        print(f"drawing {len(missing) * FILES_PER_FOLDER:,} photos: {kind.name}", flush=True)
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            workers.map(partial(_draw_folder, kind, pool), missing, chunksize=1)
    folder = data / f"{kind.name}-{count}"
    if not (folder / "manifest.csv").is_file():
        _link(kind, count, pool, folder)
    return Dataset(folder, count)


def copy_of(dataset: Dataset, kind: PhotoKind, folder: Path) -> Dataset:
    """Return the same files again, hard-linked, in a folder whose files may be replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    _link(kind, dataset.count, dataset.images, folder)
    return Dataset(folder, dataset.count)


def replace_photo(path: Path, kind: PhotoKind, index: int) -> None:
    """Put new pixels in a file's place; what else is linked to the old file keeps it."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(encode_photo(kind, index, revision=1))
    os.replace(temporary, path)


def encode_photo(kind: PhotoKind, index: int, revision: int = 0) -> bytes:
    """Return a photo as a file: a JPEG of quality 90, or an uncompressed TIFF."""
    rng = np.random.default_rng([kind.side, index, revision])
    subject = _shown(kind, index, rng) if kind.shows_category else _blended(kind, rng)
    photo = ImageChops.add(subject, _noise_window(kind, rng), 1, -128)
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG" if kind.suffix == "jpg" else "TIFF", quality=90)
    return encoded.getvalue()


def _shown(kind: PhotoKind, index: int, rng: np.random.Generator) -> Image.Image:
    taken = take_photo(choose_look(category_of(index), rng), rng).image
    return taken.resize((kind.side, kind.side), Image.Resampling.BICUBIC)


def _blended(kind: PhotoKind, rng: np.random.Generator) -> Image.Image:
    views = [_view(base, kind.side, rng) for base in _two_bases(rng)]
    blended = Image.blend(*views, float(rng.uniform(0.3, 0.7)))
    brightness = float(rng.uniform(0.75, 1.2))
    return blended.point([min(255, int(level * brightness)) for level in range(256)] * 3)


def category_of(index: int) -> str:
    """Return the category that the manifest gives a photo."""
    return CATEGORIES[index % len(CATEGORIES)]


def _draw_folder(kind: PhotoKind, pool: Path, number: int) -> None:
    # The folder gets its name when all its files are there, so a stopped run leaves no half.
    partial_folder = pool / f"{number:04d}.partial"
    partial_folder.mkdir(parents=True, exist_ok=True)
    for index in range(number * FILES_PER_FOLDER, (number + 1) * FILES_PER_FOLDER):
        path = partial_folder / Path(kind.file_name(index)).name
        path.write_bytes(encode_photo(kind, index))
    partial_folder.rename(pool / f"{number:04d}")


def _link(kind: PhotoKind, count: int, source: Path, folder: Path) -> None:
    names = [kind.file_name(index) for index in range(count)]
    for parent in {Path(name).parent for name in names}:
        (folder / "images" / parent).mkdir(parents=True, exist_ok=True)
    for name in names:
        target = folder / "images" / name
        target.unlink(missing_ok=True)  # Of a run that was stopped.
        os.link(source / name, target)
    _write_manifest(names, folder / "manifest.csv")


def _write_manifest(names: list[str], path: Path) -> None:
    temporary = path.with_suffix(".partial")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["product_id", "image_uri", "category", "title"])
        for index, name in enumerate(names):
            category = category_of(index)
            writer.writerow([f"P{index:06d}", name, category, f"{category} no. {index}"])
    temporary.rename(path)


@lru_cache(maxsize=1)
def _bases() -> list[Image.Image]:
    """Draw the sixty photos with the generator of ``catalog-batch generate``."""
    photos = []
    for number in range(BASES):
        rng = np.random.default_rng([7, number])
        photos.append(take_photo(choose_look(category_of(number), rng), rng).image)
    return photos


def _two_bases(rng: np.random.Generator) -> list[Image.Image]:
    return [_bases()[number] for number in rng.choice(BASES, 2, replace=False)]


def _view(base: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Cut a random square out of a photo, turn or mirror it, and enlarge it."""
    cut = int(min(base.size) * rng.uniform(0.6, 1.0))
    left = int(rng.integers(0, base.width - cut + 1))
    top = int(rng.integers(0, base.height - cut + 1))
    square = base.crop((left, top, left + cut, top + cut))
    turned = square.transpose(Image.Transpose(int(rng.integers(7))))
    return turned.resize((side, side), Image.Resampling.BICUBIC)


@lru_cache(maxsize=2)
def _noise(sigma: float) -> Image.Image:
    """Make the grain that every photo takes a window of: zero is 128."""
    grain = np.random.default_rng(0).normal(128, sigma, (NOISE_SIDE, NOISE_SIDE, 3))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def _noise_window(kind: PhotoKind, rng: np.random.Generator) -> Image.Image:
    left, top = (int(offset) for offset in rng.integers(0, NOISE_SIDE - kind.side, 2))
    return _noise(kind.noise).crop((left, top, left + kind.side, top + kind.side))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw photos into the benchmarks' cache.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    dataset = make_photos(KINDS[arguments.kind], arguments.count, arguments.data)
    print(f"{dataset.count:,} photos, {dataset.source_bytes():,} bytes in {dataset.folder}")


if __name__ == "__main__":
    main()

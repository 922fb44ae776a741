import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from catalog_batch.demo.catalogue import generate_catalogue
from catalog_batch.demo.chunks import photograph
from catalog_batch.demo.planning import DEFECTS, QUIRKS, Shares, plan_product
from catalog_batch.demo.silhouettes import CATEGORIES
from catalog_batch.demo.summary import CatalogueSummary
from catalog_batch.errors import BadInputError

PRODUCTS, SEED = 200, 11
FEW = 5
TWO_CHUNKS = 60
MAX_PIXELS = 25_000_000

Truth = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "catalogue"
    generate_catalogue(folder, PRODUCTS, SEED, workers=1)
    return folder


@pytest.fixture(scope="module")
def summary(folder: Path) -> CatalogueSummary:
    return generate_catalogue(folder, PRODUCTS, SEED)


@pytest.fixture(scope="module")
def truth(folder: Path) -> list[Truth]:
    lines = (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def images_of(folder: Path, rows: list[Truth], field: str, kind: str) -> Iterator[bytes]:
    found = [row["image_uri"] for row in rows if row[field] == kind]
    assert found, f"no image has the {field} {kind}"
    for image_uri in found:
        yield (folder / "images" / image_uri).read_bytes()


def pixels(content: bytes, mode: str = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode), dtype=np.float32)


def test_the_same_seed_gives_the_same_bytes_with_one_process_and_with_two(tmp_path: Path) -> None:
    for workers in (1, 2):
        generate_catalogue(tmp_path / str(workers), TWO_CHUNKS, SEED, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_another_seed_gives_another_catalogue(tmp_path: Path) -> None:
    for seed in (1, 2):
        generate_catalogue(tmp_path / str(seed), 1, seed, workers=1)
    assert contents(tmp_path / "1") != contents(tmp_path / "2")


def test_a_larger_catalogue_begins_with_the_smaller_one(tmp_path: Path) -> None:
    for products in (5, 10):
        generate_catalogue(tmp_path / str(products), products, SEED, workers=1)
    small, large = (tmp_path / str(products) / "manifest.csv" for products in (5, 10))
    assert large.read_text("utf-8").startswith(small.read_text("utf-8"))


def test_every_manifest_row_has_one_truth_row(
    manifest: list[dict[str, str]], truth: list[Truth]
) -> None:
    listed = [(row["product_id"], row["image_uri"], row["category"]) for row in manifest]
    known = [(row["product_id"], row["image_uri"], row["given_category"]) for row in truth]
    assert listed == known
    assert len({image_uri for _, image_uri, _ in listed}) == len(listed)


def test_the_summary_adds_up(folder: Path, truth: list[Truth], summary: CatalogueSummary) -> None:
    assert summary.products == len({row["product_id"] for row in truth}) == PRODUCTS
    assert summary.manifest_rows == len(truth) == sum(summary.outcomes.values())
    assert summary.outcomes == Counter(row["expected_outcome"] for row in truth)
    assert summary.defects == Counter(row["defect"] for row in truth if row["defect"])
    assert summary.quirks == Counter(row["quirk"] for row in truth if row["quirk"])
    assert summary.duplicates == sum(row["duplicate_of"] is not None for row in truth)
    assert summary.near_duplicates == sum(row["near_duplicate_of"] is not None for row in truth)
    images = [path for path in (folder / "images").rglob("*") if path.is_file()]
    assert summary.images_written == len(images)


def test_every_category_defect_and_quirk_occurs(
    truth: list[Truth], summary: CatalogueSummary
) -> None:
    assert {row["true_category"] for row in truth} == set(CATEGORIES)
    assert set(summary.defects) == set(DEFECTS)
    assert set(summary.quirks) == set(QUIRKS)
    assert summary.duplicates and summary.near_duplicates and summary.wrong_labels


@pytest.mark.parametrize("seed", [0, 1, 99, 2**32])
def test_every_defect_occurs_whatever_the_seed(seed: int) -> None:
    plans = (plan_product(seed, index, Shares()) for index in range(PRODUCTS))
    found = {image.treatment.defect for plan in plans for image in plan.images}
    assert found == {None, *DEFECTS}


def test_ordinary_images_are_rgb_jpegs_of_varied_size(folder: Path, truth: list[Truth]) -> None:
    sizes = set()
    for row in truth:
        if row["expected_outcome"] == "accepted" and row["quirk"] is None:
            with Image.open(folder / "images" / row["image_uri"]) as image:
                assert (image.format, image.mode) == ("JPEG", "RGB")
                sizes.add(image.size)
    assert len(sizes) > 50


def test_truncated_images_start_as_jpegs_and_do_not_load(folder: Path, truth: list[Truth]) -> None:
    for content in images_of(folder, truth, "defect", "truncated"):
        with Image.open(io.BytesIO(content)) as image, pytest.raises(OSError, match="truncated"):
            image.load()


def test_empty_images_have_no_bytes(folder: Path, truth: list[Truth]) -> None:
    assert set(images_of(folder, truth, "defect", "empty")) == {b""}


def test_error_pages_are_not_images(folder: Path, truth: list[Truth]) -> None:
    for content in images_of(folder, truth, "defect", "html"):
        assert content.startswith(b"<!DOCTYPE html>")
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(content))


def test_images_of_a_wrong_extension_are_icons(folder: Path, truth: list[Truth]) -> None:
    for content in images_of(folder, truth, "defect", "wrong_extension"):
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "ICO"


def test_huge_images_have_too_many_pixels_in_few_bytes(folder: Path, truth: list[Truth]) -> None:
    for content in images_of(folder, truth, "defect", "too_many_pixels"):
        with Image.open(io.BytesIO(content)) as image:
            assert image.width * image.height > MAX_PIXELS
        assert len(content) < 100_000


def test_missing_images_are_listed_and_not_there(folder: Path, truth: list[Truth]) -> None:
    missing = [row["image_uri"] for row in truth if row["defect"] == "missing"]
    assert missing
    assert not any((folder / "images" / image_uri).exists() for image_uri in missing)


def test_small_images_are_eight_pixels_wide(folder: Path, truth: list[Truth]) -> None:
    for content in images_of(folder, truth, "defect", "too_small"):
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.size) == ("JPEG", (8, 8))


@pytest.mark.parametrize(
    ("quirk", "expected"),
    [
        ("cmyk", ("JPEG", "CMYK")),
        ("png_alpha", ("PNG", "RGBA")),
        ("png_named_jpg", ("PNG", "RGB")),
        ("grayscale", ("JPEG", "L")),
        ("exif_rotated", ("JPEG", "RGB")),
        ("progressive", ("JPEG", "RGB")),
    ],
)
def test_unusual_images_are_what_they_are_called(
    folder: Path, truth: list[Truth], quirk: str, expected: tuple[str, str]
) -> None:
    for content in images_of(folder, truth, "quirk", quirk):
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode) == expected
            assert ("progressive" in image.info) == (quirk == "progressive")


@pytest.mark.parametrize("quirk", ["exif_rotated", "cmyk", "progressive", "png_named_jpg"])
def test_an_unusual_image_decodes_to_the_upright_photo(
    folder: Path, truth: list[Truth], quirk: str
) -> None:
    for row in truth:
        if row["quirk"] == quirk:
            plan = plan_product(SEED, int(row["product_id"][1:]) - 1, Shares())
            [image] = [image for image in plan.images if image.image_uri == row["image_uri"]]
            upright = np.asarray(photograph(SEED, plan, image).image, dtype=np.float32)
            decoded = pixels((folder / "images" / image.image_uri).read_bytes())
            assert decoded.shape == upright.shape
            assert np.abs(decoded - upright).mean() < 6.0


def test_transparent_images_are_clear_around_a_solid_product(
    folder: Path, truth: list[Truth]
) -> None:
    for content in images_of(folder, truth, "quirk", "png_alpha"):
        alpha = pixels(content, "RGBA")[..., 3]
        assert alpha.min() == 0.0
        assert (alpha == 255.0).mean() > 0.03


def test_duplicates_are_byte_for_byte_from_a_product_of_the_same_category(
    folder: Path, truth: list[Truth]
) -> None:
    by_uri = {row["image_uri"]: row for row in truth}
    for row in truth:
        if original := by_uri.get(row["duplicate_of"]):
            first, second = (folder / "images" / item["image_uri"] for item in (original, row))
            assert first.read_bytes() == second.read_bytes()
            assert original["product_id"] != row["product_id"]
            assert original["true_category"] == row["true_category"]


def test_near_duplicates_look_the_same_and_have_other_bytes(
    folder: Path, truth: list[Truth]
) -> None:
    for row in truth:
        if row["near_duplicate_of"]:
            uris = (row["image_uri"], row["near_duplicate_of"])
            copy, original = ((folder / "images" / uri).read_bytes() for uri in uris)
            assert copy != original
            small = [
                Image.fromarray(pixels(content).astype(np.uint8)) for content in (copy, original)
            ]
            first, second = (np.asarray(image.resize((16, 16)), np.float32) for image in small)
            assert np.abs(first - second).mean() < 4.0


def test_wrong_labels_are_those_where_the_truth_differs(
    folder: Path, truth: list[Truth], summary: CatalogueSummary
) -> None:
    with (folder / "wrong_labels.csv").open(encoding="utf-8", newline="") as rows:
        listed = {tuple(row.values()) for row in csv.DictReader(rows)}
    columns = ("product_id", "given_category", "true_category")
    wrong = [row for row in truth if row["given_category"] != row["true_category"]]
    assert listed == {tuple(row[column] for column in columns) for row in wrong}
    assert len(listed) == summary.wrong_labels == pytest.approx(0.02 * PRODUCTS, abs=1)


def test_a_catalogue_without_defects_is_all_accepted(tmp_path: Path) -> None:
    summary = generate_catalogue(
        tmp_path / "clean", 20, SEED, workers=1, defect_share=0.0, wrong_label_share=0.0
    )
    assert set(summary.outcomes) == {"accepted"}
    assert summary.wrong_labels == 0


def test_generating_again_returns_at_once_and_changes_nothing(tmp_path: Path) -> None:
    folder, calls = tmp_path / "catalogue", list[int]()
    first = generate_catalogue(folder, FEW, SEED, workers=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = generate_catalogue(folder, FEW, SEED, workers=1, on_progress=calls.append)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert calls == []


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"Pass an empty or a new folder"):
        generate_catalogue(tmp_path, 1, SEED, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_catalogue_with_other_settings_is_refused(tmp_path: Path) -> None:
    generate_catalogue(tmp_path / "catalogue", 1, SEED, workers=1)
    with pytest.raises(BadInputError, match=r"products=2"):
        generate_catalogue(tmp_path / "catalogue", 2, SEED, workers=1)


@pytest.mark.parametrize(("workers", "products"), [(1, FEW), (2, TWO_CHUNKS)])
def test_an_interrupted_run_leaves_nothing_behind(
    tmp_path: Path, workers: int, products: int
) -> None:
    def interrupt(finished: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_catalogue(
            tmp_path / "catalogue", products, SEED, workers=workers, on_progress=interrupt
        )
    assert list(tmp_path.iterdir()) == []


def test_progress_adds_up_to_the_number_of_products(tmp_path: Path) -> None:
    finished = list[int]()
    generate_catalogue(tmp_path / "new", FEW, SEED, workers=1, on_progress=finished.append)
    assert sum(finished) == FEW


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"products": 0}, "products=0. Pass 1 or more"),
        ({"seed": -1}, "seed=-1. Pass 0 or more"),
        ({"workers": 0}, "workers=0. Pass 1 or more"),
        ({"defect_share": 0.7}, "Pass shares from 0 to 0.5"),
        ({"wrong_label_share": -0.1}, "Pass shares from 0 to 0.5"),
    ],
)
def test_settings_out_of_bounds_are_refused(
    tmp_path: Path, settings: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BadInputError, match=advice):
        generate_catalogue(tmp_path / "new", **{"products": 1, "seed": 1, **settings})

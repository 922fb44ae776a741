"""Manifests made from folders."""

import csv
import json
from pathlib import Path

import pytest

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.manifest_files import write_manifest

Row = dict[str, str]


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def made(folder: Path) -> list[Row]:
    target = folder.parent / "manifest.csv"
    count = write_manifest(folder, target)
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_folders_become_categories_and_files_products(folder: Path) -> None:
    put(folder, "Fruit/Apple/1.jpg", "Fruit/Apple/2.PNG", "Tools/saw.webp")
    assert made(folder) == [
        {"product_id": uri, "image_uri": uri, "category": category}
        for uri, category in [
            ("Fruit/Apple/1.jpg", "Fruit/Apple"),
            ("Fruit/Apple/2.PNG", "Fruit/Apple"),
            ("Tools/saw.webp", "Tools"),
        ]
    ]


def test_files_of_other_kinds_and_outside_category_folders_are_left_out(folder: Path) -> None:
    put(folder, "Tools/saw.jpg", "Tools/readme.txt", "loose.jpg", "Tools/x.jpg/inside.txt")
    assert [row["image_uri"] for row in made(folder)] == ["Tools/saw.jpg"]


def test_metadata_in_csv_becomes_the_manifest(folder: Path) -> None:
    text = '\ufefffile_name,label,colour\na.jpg,Fruit,"red, ""dark"""\nb.jpg,,\n'
    (folder / "metadata.csv").write_text(text, encoding="utf-8")
    assert made(folder) == [
        {
            "product_id": "a.jpg",
            "image_uri": "a.jpg",
            "category": "Fruit",
            "colour": 'red, "dark"',
        },
        {"product_id": "b.jpg", "image_uri": "b.jpg", "category": "", "colour": ""},
    ]


def test_metadata_in_json_lines_becomes_the_manifest(folder: Path) -> None:
    lines = [
        {"file_name": "a.jpg", "category": "Fruit", "label": 3, "product_id": "p1"},
        {"file_name": "b.jpg", "split": None, "title": "Pear\nTree"},
    ]
    text = "\n\n".join(json.dumps(line) for line in lines) + "\n"
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    first, second = made(folder)
    assert first == {
        "product_id": "p1",
        "image_uri": "a.jpg",
        "category": "Fruit",
        "label": "3",
        "title": "",
    }
    assert (second["product_id"], second["title"]) == ("b.jpg", "Pear\nTree")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no image"),
        ({"metadata.csv": "", "metadata.jsonl": ""}, r"has both .* Keep one"),
        ({"metadata.csv": "name,label\na.jpg,x\n"}, "Row 1 .* has no 'file_name'"),
        ({"metadata.jsonl": '{"file_name": "a.jpg"}\n{"file_'}, "Line 2 .* is no JSON"),
        ({"metadata.jsonl": '["a.jpg"]\n'}, "Line 1 .* is no JSON object"),
        ({"metadata.jsonl": "3\n"}, "Line 1 .* is no JSON object"),
    ],
)
def test_a_folder_that_makes_no_manifest_is_refused(
    folder: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        made(folder)


def test_metadata_that_is_not_utf_8_is_refused(folder: Path) -> None:
    (folder / "metadata.csv").write_bytes("file_name,label\na.jpg,Crème\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        made(folder)


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere"):
        write_manifest(tmp_path / "nowhere", tmp_path / "manifest.csv")

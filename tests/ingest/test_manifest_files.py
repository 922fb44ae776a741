"""Manifests made from folders."""

import csv
import io
import json
import tarfile
from pathlib import Path

import pytest

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.manifest_files import write_manifest
from catalog_batch.ingest.sources import ImageRoot, SourceFile

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
        ({"metadata.csv": "file_name,label\na.jpg,x,y\n"}, "Line 2 .* another number of cells"),
        ({"metadata.csv": "file_name,label\na.jpg\n"}, "Line 2 .* another number of cells"),
        ({"metadata.csv": 'file_name,label\na.jpg,"x\nb.jpg,y\n'}, "quote that is not closed"),
        ({"metadata.csv": f"file_name,label\na.jpg,{'x' * 140_000}\n"}, "field larger than"),
        ({"metadata.jsonl": '{"file_name": "a.jpg"}\n{"file_'}, "Line 2 .* is no JSON"),
        ({"metadata.jsonl": '["a.jpg"]\n'}, "Line 1 .* is no JSON object"),
        ({"metadata.jsonl": "3\n"}, "Line 1 .* is no JSON object"),
    ],
)
def test_a_folder_that_makes_no_manifest_is_refused(
    folder: Path, files: dict[str, str], message: str
) -> None:
    csv.field_size_limit(10**6)  # as reading a manifest leaves it
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


def put_shard(path: Path, members: dict[str, str | bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, text in members.items():
            content = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_samples_of_a_shard_become_products(folder: Path) -> None:
    put_shard(
        folder / "shards" / "0.tar",
        {
            "./a/1.jpg": b"",
            "./a/1.cls": "Fruit\n",
            "2.front.JPG": b"",
            "2.back.png": b"",
            "2.json": '{"label": 0, "title": "Saw", "description": "Cuts, \\"well\\"", "id": 7}',
            "3.txt": "no image",
        },
    )
    front = {"product_id": "2", "category": "0", "title": "Saw", "description": 'Cuts, "well"'}
    assert made(folder) == [
        {
            "product_id": "a/1",
            "image_uri": "shards/0.tar/a/1.jpg",
            "category": "Fruit",
            "title": "",
            "description": "",
        },
        {**front, "image_uri": "shards/0.tar/2.front.JPG"},
        {**front, "image_uri": "shards/0.tar/2.back.png"},
    ]


def test_a_class_file_counts_more_than_the_json_beside_it(folder: Path) -> None:
    put_shard(folder / "0.tar", {"1.jpg": b"", "1.cls": "Fruit", "1.json": '{"category": "Tool"}'})
    assert [row["category"] for row in made(folder)] == ["Fruit"]


def test_samples_of_one_name_in_two_shards_are_rows_of_one_product(folder: Path) -> None:
    for shard in ("0.tar", "1.tar"):
        put_shard(folder / shard, {"1.jpg": b""})
    rows = [(row["product_id"], row["image_uri"]) for row in made(folder)]
    assert rows == [("1", "0.tar/1.jpg"), ("1", "1.tar/1.jpg")]


def test_what_the_manifest_names_in_a_shard_is_found(folder: Path) -> None:
    put_shard(folder / "0.tar", {"./a/1.jpg": b"bytes", "b//2.jpg": b"bytes"})
    root = ImageRoot(str(folder))
    for row in made(folder):
        file = root.find(row["image_uri"])
        assert isinstance(file, SourceFile) and root.read(file, 10) == b"bytes"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": b"", "1.json": "{"}, r"'1\.json' in .*0\.tar' is no JSON"),
        ({"1.jpg": b"", "1.json": "[]"}, r"'1\.json' in .*0\.tar' is no JSON object"),
        ({"1.jpg": b"", "1.cls": b"\xff\xfe"}, r"'1\.cls' in .* is not UTF-8"),
        ({"1.jpg": b"", "1.cls": b" " * 1_000_001}, r"'1\.cls' in .* cannot be read: 1000001"),
    ],
)
def test_a_sample_whose_labels_cannot_be_read_is_refused(
    folder: Path, members: dict[str, str | bytes], message: str
) -> None:
    put_shard(folder / "0.tar", members)
    with pytest.raises(ManifestError, match=message):
        made(folder)


def test_a_damaged_shard_makes_no_short_manifest(folder: Path) -> None:
    put_shard(folder / "0.tar", {"1.jpg": b"1", "2.jpg": b"2"})
    content = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(content[:1100])
    with pytest.raises(ManifestError, match=r"0\.tar' is damaged"):
        made(folder)

"""Reading manifests of three kinds, and refusing what cannot be read in full."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.manifests import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    check_splits,
    read_manifest,
    with_given_split,
)

KNOWN = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
Read = Callable[..., DataFrame]


@pytest.fixture
def read(spark: SparkSession, tmp_path: Path) -> Read:
    """Return what writes a text or bytes to a file of some name and reads it as a manifest."""

    def write_and_read(content: str | bytes, name: str = "manifest.csv") -> DataFrame:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_manifest(spark, str(path))

    return write_and_read


def rows(manifest: DataFrame) -> list[dict[str, Any]]:
    """Collect rows without the columns that are null."""
    return [
        {name: value for name, value in row.asDict().items() if value not in (None, {})}
        for row in manifest.collect()
    ]


def test_every_known_column_is_there_in_order_and_a_string(read: Read) -> None:
    manifest = read("image_uri,product_id,position\na.jpg,1,2\n")
    assert manifest.columns == [*KNOWN, "attributes"]
    assert {kind for name, kind in manifest.dtypes if name != "attributes"} == {"string"}
    assert rows(manifest) == [{"product_id": "1", "image_uri": "a.jpg", "position": "2"}]


def test_csv_cells_hold_quotes_commas_and_line_breaks(read: Read) -> None:
    text = 'product_id,image_uri,title\np1,a.jpg,"A ""fine"", red\napple"\np2,b.jpg,C:\\pear\n'
    assert rows(read(text)) == [
        {"product_id": "p1", "image_uri": "a.jpg", "title": 'A "fine", red\napple'},
        {"product_id": "p2", "image_uri": "b.jpg", "title": "C:\\pear"},
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_taken_off(read: Read, end: str) -> None:
    text = f"\ufeffproduct_id,image_uri{end}p1,a.jpg{end}"
    assert rows(read(text)) == [{"product_id": "p1", "image_uri": "a.jpg"}]


def test_unknown_columns_become_attributes_where_they_have_a_value(read: Read) -> None:
    text = "product_id,image_uri,brand,net weight.g,a`b\np1,a.jpg,Acme,10,x\np2,b.jpg,,,\n"
    attributes = [row["attributes"] for row in read(text).collect()]
    assert attributes == [{"brand": "Acme", "net weight.g": "10", "a`b": "x"}, {}]


def test_json_lines_are_read_as_strings(read: Read) -> None:
    text = (
        '{"product_id": 7, "image_uri": "a.jpg", "position": 1, "price": 1.5, "tags": ["x"]}\n'
        '{"product_id": "p2", "image_uri": "b.jpg", "title": "A\\nB"}\n'
    )
    first, second = rows(read(text, "manifest.jsonl"))
    assert first == {
        "product_id": "7",
        "image_uri": "a.jpg",
        "position": "1",
        "attributes": {"price": "1.5", "tags": "[x]"},
    }
    assert second == {"product_id": "p2", "image_uri": "b.jpg", "title": "A\nB"}


def test_a_json_line_that_does_not_parse_stays_a_row(read: Read) -> None:
    text = '{"product_id": "p1", "image_uri": "a.jpg"}\n{"product_id": "p2", "ima\n'
    first, second = rows(read(text, "manifest.jsonl"))
    assert first == {"product_id": "p1", "image_uri": "a.jpg"}
    assert second == {"attributes": {"_corrupt_record": '{"product_id": "p2", "ima'}}


def test_parquet_is_read_with_any_types(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    table = pa.table({"product_id": [7], "image_uri": ["a.jpg"], "position": [1], "kg": [0.5]})
    pq.write_table(table, path)
    assert rows(read_manifest(spark, str(path))) == [
        {
            "product_id": "7",
            "image_uri": "a.jpg",
            "position": "1",
            "attributes": {"kg": "0.5"},
        }
    ]


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("m.csv", "product,image_uri\np1,a.jpg\n", r"\['product_id'\]"),
        ("m.csv", "a\nb\n", r"\['product_id', 'image_uri'\]"),
        ("m.csv", "product_id,image_uri,image_uri\np1,a,b\n", r"\['image_uri'\]"),
        ("m.jsonl", '{"product_id": "p1"}\n', r"\['image_uri'\]"),
        ("m.csv", "product_id;image_uri\np1;a.jpg\n", r"\['product_id', 'image_uri'\]"),
    ],
)
def test_a_missing_column_is_refused_by_name(
    read: Read, name: str, content: str, missing: str
) -> None:
    with pytest.raises(ManifestError, match=f"lacks the required columns {missing}"):
        read(content, name)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_an_empty_file_is_refused(read: Read, name: str) -> None:
    with pytest.raises(ManifestError, match=rf"{name}' is empty"):
        read("", name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.parquet", b""),
        ("m.parquet", b"PAR1 not really"),
        ("m.xlsx", b"PK"),
        ("m.csv.gz", b"\x1f\x8b"),
        ("manifest", b"product_id,image_uri\n"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(read: Read, name: str, content: bytes) -> None:
    with pytest.raises(ManifestError, match=name):
        read(content, name)


@pytest.mark.parametrize("name", ["nowhere.csv", "nowhere.jsonl", "nowhere.parquet"])
def test_a_missing_file_is_refused_by_name(spark: SparkSession, tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=name):
        read_manifest(spark, str(tmp_path / name))


def test_split_names_of_several_habits_are_understood(spark: SparkSession) -> None:
    names = ["train", " Training ", "val", "VALID", "validation", "test", "", None]
    manifest = spark.createDataFrame([(name,) for name in names], "split string")
    check_splits(manifest)
    given = ["train", "train", "validation", "validation", "validation", "test", None, None]
    assertDataFrameEqual(
        manifest.transform(with_given_split),
        spark.createDataFrame([(name,) for name in given], "given_split string"),
    )


def test_unknown_split_names_are_refused(spark: SparkSession) -> None:
    manifest = spark.createDataFrame([("train",), ("holdout",), ("dev",)], "split string")
    with pytest.raises(ManifestError, match=r"\['dev', 'holdout'\]"):
        check_splits(manifest)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"p1,1.png,a,b\n", "has 4 cells, the header 3"),
        (b'p1,1.png,"6 inch pan\np2,2.png,b\n', "is no CSV"),
        (b"p1,1.png\n", "has 2 cells"),
        ("p\u00f1,1.png,a\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_csv_that_would_lose_or_shift_cells_is_refused(
    spark: SparkSession, tmp_path: Path, body: bytes, problem: str
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_bytes(b"product_id,image_uri,title\n" + body)
    with pytest.raises(ManifestError, match=problem):
        read_manifest(spark, str(manifest))

"""Opening manifests of four kinds, and refusing what cannot be read in full."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.drift import KNOWN_COLUMNS
from catalog_batch.ingest.manifests import Manifest, check_splits, open_manifest, with_given_split

Read = Callable[..., DataFrame]
Open = Callable[..., Manifest]


@pytest.fixture
def opened(spark: SparkSession, tmp_path: Path) -> Open:
    """Return what opens a file or folder under the test's own."""

    def open_under(name: str) -> Manifest:
        return open_manifest(spark, str(tmp_path / name), str(tmp_path / "staging"))

    return open_under


@pytest.fixture
def read(opened: Open, tmp_path: Path) -> Read:
    """Return what writes a text or bytes to a file of some name and reads it as a manifest."""

    def write_and_read(content: str | bytes, name: str = "manifest.csv") -> DataFrame:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return opened(name).frame

    return write_and_read


@pytest.fixture
def read_table(opened: Open, tmp_path: Path) -> Open:
    """Return what writes columns to a Parquet file and opens it."""

    def write_and_open(**columns: Any) -> Manifest:
        pq.write_table(pa.table({"product_id": ["p1"], **columns}), tmp_path / "m.parquet")
        return opened("m.parquet")

    return write_and_open


def rows(manifest: DataFrame) -> list[dict[str, Any]]:
    """Collect rows without the columns that are null."""
    return [
        {name: value for name, value in row.asDict().items() if value not in (None, {})}
        for row in manifest.collect()
    ]


def test_every_known_column_is_there_in_order_and_a_string(read: Read) -> None:
    manifest = read("image_uri,product_id,position\na.jpg,1,2\n")
    ours = ("attributes", "defect", "content_file", "content_row")
    assert manifest.columns == [*KNOWN_COLUMNS, *ours]
    assert {kind for name, kind in manifest.dtypes if name in KNOWN_COLUMNS} == {"string"}
    assert dict(manifest.dtypes)["content_row"] == "bigint"
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
        "attributes": {"price": "1.5", "tags": '["x"]'},
    }
    assert second == {"product_id": "p2", "image_uri": "b.jpg", "title": "A\nB"}


def test_a_json_line_that_does_not_parse_stays_a_row(read: Read) -> None:
    text = '{"product_id": "p1", "image_uri": "a.jpg"}\n{"product_id": "p2", "ima\n'
    first, second = rows(read(text, "manifest.jsonl"))
    assert first == {"product_id": "p1", "image_uri": "a.jpg"}
    assert list(second) == ["defect"]
    assert second["defect"].startswith("line 2 is no JSON object")


def test_parquet_is_read_with_any_types(read_table: Open) -> None:
    manifest = read_table(product_id=[7], image_uri=["a.jpg"], position=[1], kg=[0.5], tags=[["x"]])
    assert rows(manifest.frame) == [
        {
            "product_id": "7",
            "image_uri": "a.jpg",
            "position": "1",
            "attributes": {"kg": "0.5", "tags": "[x]"},
        }
    ]
    assert manifest.columns == {
        "product_id": "bigint",
        "image_uri": "string",
        "position": "bigint",
        "kg": "double",
        "tags": "array<string>",
    }


def test_what_a_manifest_says_nothing_about_is_absent(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("product_id,image_uri,title,split\n")
    (tmp_path / "more.csv").write_text("product_id,image_uri,title,content\n")
    some, more = opened("some.csv"), opened("more.csv")
    assert some.absent == ["category", "description", "position", "sha256", "attributes"]
    assert more.absent == ["category", "description", "position", "split", "sha256"]
    assert more.columns["content"] == "string"


@pytest.mark.parametrize("value", [["x"], {"a": 1}, b"x"])
def test_a_known_column_of_bytes_or_nested_values_is_refused(read_table: Open, value: Any) -> None:
    with pytest.raises(ManifestError, match=r"has bytes or nested values in \{'title': '"):
        read_table(image_uri=["a.jpg"], title=[value])


def test_columns_of_all_files_of_a_parquet_folder_are_read(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "m.parquet"
    folder.mkdir()
    pq.write_table(pa.table({"product_id": ["p1"], "image_uri": ["a"]}), folder / "0.parquet")
    late = pa.table({"product_id": ["p2"], "image_uri": ["b"], "title": ["B"]})
    pq.write_table(late, folder / "1.parquet")
    found = sorted(rows(opened("m.parquet").frame), key=lambda row: row["product_id"])
    assert found[1] == {"product_id": "p2", "image_uri": "b", "title": "B"}


def inline_rows(number: int, count: int) -> pa.Table:
    names = [f"{number}-{row}" for row in range(count)]
    contents = [name.encode() for name in names]
    return pa.table({"product_id": names, "image_uri": names, "content": contents})


def contents_found(manifest: DataFrame) -> dict[str, bytes]:
    """Read each row's content from where the manifest says it lies."""
    return {
        row["product_id"]: pq.read_table(row["content_file"])["content"][row["content_row"]].as_py()
        for row in manifest.collect()
    }


def test_images_in_parquet_are_found_by_file_and_row(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "a b+c%20é" / "m.parquet"
    folder.mkdir(parents=True)
    for number in range(2):
        table = inline_rows(number, 7)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=3)
    manifest = opened("a b+c%20é/m.parquet")
    assert manifest.columns["content"] == "binary"
    assert "attributes" in manifest.absent
    found = contents_found(manifest.frame)
    assert len(found) == 14
    assert all(content.decode() == name for name, content in found.items())


def test_other_columns_of_bytes_are_left_out(read_table: Open) -> None:
    manifest = read_table(image_uri=["a.jpg"], thumb=[b"\xff"], _metadata=["mine"], content=[b"x"])
    [row] = manifest.frame.collect()
    assert (row["attributes"], row["content_row"]) == ({"_metadata": "mine"}, 0)


def write_delta(spark: SparkSession, path: Path, *clauses: str) -> str:
    """Write ten rows with images as a Delta table, named so that it is no matter of suffix."""
    spark.sql(
        f"CREATE TABLE delta.`{path}` USING DELTA {' '.join(clauses)} AS SELECT "
        "/*+ REPARTITION(2) */ CAST(id AS STRING) product_id, CAST(id AS STRING) image_uri, "
        "CAST(CAST(id AS STRING) AS BINARY) content FROM range(10)"
    )
    return f"delta.`{path}`"


def test_a_delta_table_is_read_as_it_is_now(
    spark: SparkSession, opened: Open, tmp_path: Path
) -> None:
    table = write_delta(spark, tmp_path / "a b+c")
    spark.sql(f"DELETE FROM {table} WHERE product_id > '6'")
    found = contents_found(opened("a b+c").frame)
    assert found == {str(number): str(number).encode() for number in range(7)}


def test_a_delta_table_without_images_may_have_partitions(
    spark: SparkSession, opened: Open, tmp_path: Path
) -> None:
    frame = spark.createDataFrame(
        [("p1", "a.jpg", "red")], "product_id string, image_uri string, colour string"
    )
    frame.write.format("delta").partitionBy("colour").save(str(tmp_path / "m"))
    [row] = rows(opened("m").frame)
    assert row == {"product_id": "p1", "image_uri": "a.jpg", "attributes": {"colour": "red"}}


def test_an_emptied_delta_table_with_images_has_no_rows(
    spark: SparkSession, opened: Open, tmp_path: Path
) -> None:
    spark.sql(f"DELETE FROM {write_delta(spark, tmp_path / 'm')}")
    assert opened("m").frame.collect() == []


@pytest.mark.parametrize(
    ("clause", "problem"),
    [
        ("TBLPROPERTIES ('delta.columnMapping.mode' = 'name')", "column mapping or partitions"),
        ("PARTITIONED BY (product_id)", "column mapping or partitions"),
        ("TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')", "REORG TABLE"),
    ],
)
def test_a_delta_table_whose_files_do_not_say_all_is_refused(
    spark: SparkSession, opened: Open, tmp_path: Path, clause: str, problem: str
) -> None:
    table = write_delta(spark, tmp_path / "m", clause)
    spark.sql(f"DELETE FROM {table} WHERE image_uri IN ('3', '4')")
    with pytest.raises(ManifestError, match=problem):
        opened("m")


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("m.csv", "product,image_uri\np1,a.jpg\n", r"\['product_id'\]"),
        ("m.csv", "a\nb\n", r"\['product_id', 'image_uri'\]"),
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
def test_a_missing_file_is_refused_by_name(opened: Open, name: str) -> None:
    with pytest.raises(ManifestError, match=name):
        opened(name)


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


def test_the_splits_of_rows_with_a_defect_are_not_asked(spark: SparkSession) -> None:
    check_splits(
        spark.createDataFrame(
            [("train", None), ("x.jpg", "line 2 is long")], "split string, defect string"
        )
    )


def test_json_columns_that_come_late_are_null_before(read: Read) -> None:
    many = '{"product_id": "p1", "image_uri": "a.jpg"}\n' * 50_001
    manifest = read(many + '{"product_id": "p2", "image_uri": "b", "title": "B"}\n', "m.jsonl")
    assert (manifest.count(), manifest.where("title IS NOT NULL").count()) == (50_002, 1)


def test_a_csv_row_that_lost_cells_stays_with_its_defect(read: Read) -> None:
    assert rows(read("product_id,image_uri,title\np1,a.jpg\n")) == [
        {
            "product_id": "p1",
            "image_uri": "a.jpg",
            "defect": "line 2 has 2 cells, the header has 3",
        }
    ]


def test_a_title_in_two_cases_is_a_title_and_an_attribute(read: Read) -> None:
    assert rows(read("product_id,image_uri,title,Title\np1,a.jpg,x,y\n")) == [
        {"product_id": "p1", "image_uri": "a.jpg", "title": "x", "attributes": {"Title": "y"}}
    ]

"""The narrow steps of ingest, each with a few rows."""

from datetime import UTC, datetime

import pytest
from pyspark.sql import SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.ingest import transforms
from catalog_batch.ingest.decoding import REJECTED, STORED, UNCHANGED
from catalog_batch.taxonomy import category_id, normalise_path

NOW = datetime(2026, 1, 1)
LINK_DDL = (
    "product_id string, source_uri string, image_id string, source_bytes bigint, "
    "source_modified_at timestamp"
)
REJECTION_DDL = (
    "product_id string, source_uri string, reason string, attempts int, source_bytes bigint, "
    "source_modified_at timestamp"
)
KNOWN_DDL = (
    "product_id string, source_uri string, known_image_id string, known_reason string, "
    "known_attempts int, known_bytes bigint, known_modified_at timestamp"
)
KEY_DDL = "product_id string, source_uri string"


def test_a_row_without_product_or_image_gets_a_defect(spark: SparkSession) -> None:
    rows = [("p1", "a.jpg"), (None, "b.jpg"), ("  ", "c.jpg")]
    manifest = spark.createDataFrame(rows, "product_id string, image_uri string")
    expected = [
        ("p1", "a.jpg", None),
        ("", "b.jpg", "the row has no product_id"),
        ("", "c.jpg", "the row has no product_id"),
    ]
    assertDataFrameEqual(
        manifest.transform(transforms.with_key),
        spark.createDataFrame(expected, f"{KEY_DDL}, defect string"),
    )


def test_rows_without_an_image_get_a_location_made_from_their_content(spark: SparkSession) -> None:
    rows = [("p1", None, "A"), ("p1", " ", "B"), ("p1", None, "A")]
    manifest = spark.createDataFrame(rows, "product_id string, image_uri string, title string")
    found = manifest.transform(transforms.with_key).collect()
    assert [row["defect"] for row in found] == ["the row has no image_uri"] * 3
    locations = [row["source_uri"] for row in found]
    assert all(location.startswith("row:") for location in locations)
    assert locations[0] == locations[2] != locations[1]


def test_rows_that_differ_in_other_columns_alone_are_told_apart(spark: SparkSession) -> None:
    rows = [(None, None, {"_corrupt_record": "{1"}), (None, None, {"_corrupt_record": "{2"})]
    ddl = "product_id string, image_uri string, attributes map<string,string>"
    found = spark.createDataFrame(rows, ddl).transform(transforms.with_key).collect()
    assert len({row["source_uri"] for row in found}) == 2


def test_a_position_that_is_no_number_is_0(spark: SparkSession) -> None:
    texts = ["0", "7", " 2 ", "1.0", "-3", "first", "", None, "NaN", "99999999999"]
    manifest = spark.createDataFrame([(text,) for text in texts], "position string")
    found = [row["position"] for row in manifest.transform(transforms.with_position).collect()]
    assert found == [0, 7, 2, 1, 0, 0, 0, 0, 0, 0]


def test_a_category_is_normalised_as_the_taxonomy_does_it(spark: SparkSession) -> None:
    texts = [
        "Fruit/Apple",
        " Fruit / Apple /",
        "//Fruit",
        "\tFruit\u00a0/\u2003Apple\n",
        "0 Things/1-person tents/2 seats",
        "Été/Crème brûlée",
        " / ",
        "",
        None,
    ]
    frame = spark.createDataFrame([(text,) for text in texts], "category string")
    paths = [normalise_path(text) for text in texts]
    expected = [(path, category_id(path) if path else None) for path in paths]
    assertDataFrameEqual(
        frame.transform(transforms.with_category),
        spark.createDataFrame(expected, "category_path string, category_id string"),
    )


def test_of_repeated_rows_the_lowest_position_stays(spark: SparkSession) -> None:
    ddl = "product_id string, source_uri string, position int, title string"
    rows = [("p1", "a", 2, "x"), ("p1", "a", 1, "z"), ("p1", "a", 1, "y"), ("p2", "a", 5, "w")]
    expected = [("p1", "a", 1, "y"), ("p2", "a", 5, "w")]
    assertDataFrameEqual(
        spark.createDataFrame(rows, ddl).transform(transforms.drop_repeated_rows),
        spark.createDataFrame(expected, ddl),
    )


def test_a_row_learns_what_earlier_runs_found(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("p1", "a"), ("p1", "b"), ("p2", "a")], KEY_DDL)
    links = spark.createDataFrame([("p1", "a", "id", 10, NOW)], LINK_DDL)
    rejected = spark.createDataFrame([("p1", "b", "truncated", 2, 5, NOW)], REJECTION_DDL)
    expected = [
        ("p1", "a", "id", None, 0, 10, NOW),
        ("p1", "b", None, "truncated", 2, 5, NOW),
        ("p2", "a", None, None, None, None, None),
    ]
    assertDataFrameEqual(
        rows.transform(transforms.with_known_state, links, rejected),
        spark.createDataFrame(expected, KNOWN_DDL),
    )


def test_a_key_in_both_tables_stays_one_row(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("p1", "a")], KEY_DDL)
    links = spark.createDataFrame([("p1", "a", "id", 10, NOW)], LINK_DDL)
    rejected = spark.createDataFrame([("p1", "a", "truncated", 2, 5, NOW)], REJECTION_DDL)
    assertDataFrameEqual(
        rows.transform(transforms.with_known_state, links, rejected),
        spark.createDataFrame([("p1", "a", "id", None, 0, 10, NOW)], KNOWN_DDL),
    )


def test_new_images_are_those_stored_and_not_known_each_once(spark: SparkSession) -> None:
    staged = spark.createDataFrame(
        [
            ("p2", "b", STORED, "new"),
            ("p1", "a", STORED, "new"),
            ("p1", "c", STORED, "old"),
            ("p1", "d", UNCHANGED, "other"),
            ("p1", "e", REJECTED, None),
        ],
        f"{KEY_DDL}, outcome string, image_id string",
    )
    images = spark.createDataFrame([("old",)], "image_id string")
    assertDataFrameEqual(
        staged.transform(transforms.select_new_images, images),
        spark.createDataFrame([("new", "p1", "a")], f"image_id string, {KEY_DDL}"),
    )


def test_remembered_rejections_are_not_written_again(spark: SparkSession) -> None:
    ddl = f"{KEY_DDL}, outcome string, attempts int, reason string, content binary"
    staged = spark.createDataFrame(
        [
            ("p1", "a", REJECTED, 1, "empty", None),
            ("p1", "b", REJECTED, None, "empty", None),
            ("p1", "c", STORED, None, None, b"x"),
        ],
        ddl,
    )
    found = staged.transform(transforms.select_rejections, NOW, "run").collect()
    assert [row["source_uri"] for row in found] == ["a"]
    assert (found[0]["first_seen_at"], found[0]["last_seen_at"], found[0]["run_id"]) == (
        NOW,
        NOW,
        "run",
    )
    assert "content" not in found[0]


def test_a_product_takes_its_row_of_lowest_position(spark: SparkSession) -> None:
    ddl = f"{KEY_DDL}, position int, title string"
    rows = [("p1", "b", 1, "second"), ("p1", "a", 0, "first"), ("", "c", 0, "nobody's")]
    found = spark.createDataFrame(rows, ddl).transform(transforms.select_products, NOW, "run")
    assert [(row["product_id"], row["title"]) for row in found.collect()] == [("p1", "first")]


def test_a_seller_labels_only_products_with_a_category(spark: SparkSession) -> None:
    products = spark.createDataFrame(
        [("p1", "c1"), ("p2", None)], "product_id string, category_id string"
    )
    expected = [("p1", "c1", "seller", NOW, "run")]
    assertDataFrameEqual(
        products.transform(transforms.select_seller_labels, NOW, "run"),
        spark.createDataFrame(
            expected,
            "product_id string, category_id string, source string, labelled_at timestamp, "
            "run_id string",
        ),
    )


@pytest.mark.parametrize("moment", [NOW, NOW.replace(tzinfo=UTC)])
def test_a_stamp_says_when_and_by_which_run(spark: SparkSession, moment: datetime) -> None:
    frame = spark.createDataFrame([("p1",)], "product_id string")
    row = frame.transform(transforms.with_stamp, "updated_at", moment, "run").collect()[0]
    assert (row["updated_at"], row["run_id"]) == (NOW, "run")


def test_category_rows_are_the_whole_tree_of_one_version() -> None:
    assert transforms.category_rows(["Fruit/Apple"], 3) == [
        (3, category_id("Fruit"), None, "Fruit", "Fruit", 1),
        (3, category_id("Fruit/Apple"), category_id("Fruit"), "Apple", "Fruit/Apple", 2),
    ]

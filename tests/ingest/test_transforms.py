"""The narrow steps of ingest, each with a few rows."""

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from catalog_batch.ingest import transforms
from catalog_batch.ingest.policy import INGESTED, REJECTED, TO_DO, UNCHANGED
from catalog_batch.taxonomy import category_id, normalise_path

NOW = datetime(2026, 1, 1)
LINK_DDL = (
    "product_id string, source_uri string, image_id string, source_bytes bigint, "
    "source_modified_at timestamp, updated_at timestamp"
)
REJECTION_DDL = (
    "product_id string, source_uri string, reason string, attempts int, source_bytes bigint, "
    "source_modified_at timestamp, expected_sha256 string, last_seen_at timestamp"
)
KNOWN_DDL = (
    "product_id string, source_uri string, known_image_id string, known_bytes bigint, "
    "known_modified_at timestamp, known_reason string, known_attempts int, known_sha256 string, "
    "refused_bytes bigint, refused_modified_at timestamp"
)
KEY_DDL = "product_id string, source_uri string"
MANIFEST_DDL = "product_id string, image_uri string, defect string"


def test_a_row_without_product_or_image_gets_a_defect(spark: SparkSession) -> None:
    rows = [("p1", "a.jpg", None), (None, "b.jpg", None), ("  ", "c.jpg", None)]
    manifest = spark.createDataFrame(rows, MANIFEST_DDL)
    expected = [
        ("p1", "a.jpg", None, False),
        ("", "b.jpg", "the row has no product_id", False),
        ("", "c.jpg", "the row has no product_id", False),
    ]
    assertDataFrameEqual(
        manifest.transform(transforms.with_key),
        spark.createDataFrame(expected, f"{KEY_DDL}, defect string, is_garbled boolean"),
    )


def test_rows_without_an_image_get_a_location_made_from_their_content(spark: SparkSession) -> None:
    rows = [("p1", None, None, "A"), ("p1", " ", None, "B"), ("p1", None, None, "A")]
    manifest = spark.createDataFrame(rows, f"{MANIFEST_DDL}, title string")
    found = manifest.transform(transforms.with_key).collect()
    assert [row["defect"] for row in found] == ["the row has no image_uri"] * 3
    locations = [row["source_uri"] for row in found]
    assert all(location.startswith("row:") for location in locations)
    assert locations[0] == locations[2] != locations[1]


def test_rows_that_differ_in_other_columns_alone_are_told_apart(spark: SparkSession) -> None:
    rows = [(None, None, None, {"text": "{1"}), (None, None, None, {"text": "{2"})]
    ddl = f"{MANIFEST_DDL}, attributes map<string,string>"
    found = spark.createDataFrame(rows, ddl).transform(transforms.with_key).collect()
    assert len({row["source_uri"] for row in found}) == 2


def test_a_row_that_could_not_be_parsed_has_a_location_that_no_line_number_moves(
    spark: SparkSession,
) -> None:
    rows = [("p1", "a.jpg", "line 3 is ragged"), ("p1", "a.jpg", "line 4 is ragged")]
    found = spark.createDataFrame(rows, MANIFEST_DDL).transform(transforms.with_key).collect()
    assert all(row["is_garbled"] and row["source_uri"].startswith("row:") for row in found)
    assert found[0]["source_uri"] == found[1]["source_uri"]


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
    expected = [("p1", "a", 1, "y", 3), ("p2", "a", 5, "w", 1)]
    assertDataFrameEqual(
        spark.createDataFrame(rows, ddl).transform(transforms.drop_repeated_rows),
        spark.createDataFrame(expected, f"{ddl}, copies bigint"),
    )


def test_a_row_learns_what_earlier_runs_found(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("p1", "a"), ("p1", "b"), ("p2", "a")], KEY_DDL)
    links = spark.createDataFrame([("p1", "a", "id", 10, NOW, NOW)], LINK_DDL)
    rejection = ("p1", "b", "truncated", 2, 5, NOW, "aa", NOW)
    rejected = spark.createDataFrame([rejection], REJECTION_DDL)
    nothing = (None,) * 5
    expected = [
        ("p1", "a", "id", 10, NOW, *nothing),
        ("p1", "b", None, None, None, "truncated", 2, "aa", 5, NOW),
        ("p2", "a", None, None, None, *nothing),
    ]
    assertDataFrameEqual(
        rows.transform(transforms.with_known_state, links, rejected),
        spark.createDataFrame(expected, KNOWN_DDL),
    )


def test_of_a_key_in_both_tables_the_later_finding_counts(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("p1", "a"), ("p2", "a")], KEY_DDL)
    links = [("p1", "a", "id", 10, NOW, NOW), ("p2", "a", "id", 10, NOW, NOW)]
    rejections = [
        ("p1", "a", "crashed", 2, 5, NOW, "aa", NOW + timedelta(days=1)),
        # Ingested since: the run was killed before it removed this.
        ("p2", "a", "crashed", 2, 5, NOW, "aa", NOW - timedelta(days=1)),
    ]
    found = rows.transform(
        transforms.with_known_state,
        spark.createDataFrame(links, LINK_DDL),
        spark.createDataFrame(rejections, REJECTION_DDL),
    )
    expected = [
        ("p1", "a", "id", 10, NOW, "crashed", 2, "aa", 5, NOW),
        ("p2", "a", "id", 10, NOW, None, 2, "aa", 5, NOW),
    ]
    assertDataFrameEqual(found, spark.createDataFrame(expected, KNOWN_DDL))


def test_new_images_are_those_stored_and_not_known_each_once(spark: SparkSession) -> None:
    staged = spark.createDataFrame(
        [
            ("p2", "b", INGESTED, "new"),
            ("p1", "a", INGESTED, "new"),
            ("p1", "c", INGESTED, "old"),
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


def test_redundant_rows_are_those_whose_image_comes_from_elsewhere(spark: SparkSession) -> None:
    outcomes = spark.createDataFrame(
        [("p1", "a", INGESTED), ("p2", "b", INGESTED), ("p3", "c", REJECTED)],
        f"{KEY_DDL}, outcome string",
    )
    new = spark.createDataFrame([("p1", "a")], KEY_DDL)
    assertDataFrameEqual(
        outcomes.transform(transforms.select_redundant, new),
        spark.createDataFrame([("p2", "b")], KEY_DDL),
    )


def test_every_row_of_a_plan_has_one_outcome(spark: SparkSession) -> None:
    ddl = f"{KEY_DDL}, outcome string"
    plan = spark.createDataFrame(
        [("p1", "a", TO_DO), ("p1", "b", UNCHANGED), ("p1", "c", REJECTED)], ddl
    )
    decoded = spark.createDataFrame([("p1", "a", INGESTED)], ddl)
    found = plan.transform(transforms.select_outcomes, decoded).collect()
    assert sorted((row["source_uri"], row["outcome"]) for row in found) == [
        ("a", INGESTED),
        ("b", UNCHANGED),
        ("c", REJECTED),
    ]


def test_rows_of_one_shard_are_dealt_to_one_task_in_order(spark: SparkSession) -> None:
    ddl = f"{KEY_DDL}, path string, member string, content_file string, content_row bigint"
    members = [(f"p{n}", f"s.tar/{n}", "/s.tar", f"{n:02}", None, None) for n in range(40)]
    files = [(f"q{n}", f"{n}", f"/{n}", None, None, None) for n in range(40)]
    dealt = spark.createDataFrame([*reversed(members), *files], ddl).transform(
        transforms.deal_out, 4, 100
    )
    parts = dealt.rdd.glom().collect()
    holding = [[row["member"] for row in part if row["member"]] for part in parts]
    assert [held for held in holding if held] == [[f"{n:02}" for n in range(40)]]
    assert sum(map(len, parts)) == 80
    assert sum(1 for part in parts if part) > 1


def test_a_late_manifest_keeps_position_and_listing_of_known_links(spark: SparkSession) -> None:
    ddl = f"{KEY_DDL}, position int, delisted_at timestamp"
    links = spark.createDataFrame([("p1", "a", 5, None), ("p1", "b", 6, None)], ddl)
    stored = spark.createDataFrame([("p1", "a", 0, None)], ddl)
    found = links.transform(transforms.with_listing_kept, stored, F.lit(NOW)).select(
        *transforms.KEY, "position", "delisted_at"
    )
    assertDataFrameEqual(
        found, spark.createDataFrame([("p1", "a", 0, None), ("p1", "b", 6, NOW)], ddl)
    )


def test_vanished_rows_are_the_listed_ones_that_nobody_names(spark: SparkSession) -> None:
    ddl = "product_id string, delisted_at timestamp"
    stored = spark.createDataFrame([("p1", None), ("p2", None), ("p3", NOW)], ddl)
    named = spark.createDataFrame([("p1",), ("p1",)], "product_id string")
    assertDataFrameEqual(
        stored.transform(transforms.select_vanished, named, ["product_id"]),
        spark.createDataFrame([("p2", None)], ddl),
    )


def test_remembered_rejections_are_not_written_again(spark: SparkSession) -> None:
    staged = spark.createDataFrame(
        [
            ("p1", "a", REJECTED, 1, "empty"),
            ("p1", "b", REJECTED, None, "empty"),
            ("p1", "c", INGESTED, None, None),
        ],
        f"{KEY_DDL}, outcome string, attempts int, reason string",
    )
    rows = spark.createDataFrame(
        [("p1", "a", "ff"), ("p1", "b", None), ("p1", "c", None)], f"{KEY_DDL}, sha256 string"
    )
    found = staged.transform(transforms.select_rejections, rows, NOW, "run").collect()
    assert [row["source_uri"] for row in found] == ["a"]
    assert (found[0]["first_seen_at"], found[0]["last_seen_at"], found[0]["run_id"]) == (
        NOW,
        NOW,
        "run",
    )
    assert found[0]["expected_sha256"] == "ff"


def test_a_product_takes_its_row_of_lowest_position(spark: SparkSession) -> None:
    ddl = f"{KEY_DDL}, position int, title string, is_garbled boolean"
    rows = [
        ("p1", "b", 1, "second", False),
        ("p1", "a", 0, "first", False),
        ("p1", "row:1", 0, "shifted cells", True),
        ("", "c", 0, "nobody's", False),
    ]
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

"""The steps from labels to training examples, each with a few rows."""

from collections import Counter

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.training_set import transforms

LABEL_DDL = "product_id string, source string, category_id string"
PRODUCT_DDL = "product_id string, title string, description string, given_split string"
TREE_DDL = "taxonomy_version int, category_id string, path string"


@pytest.fixture(scope="module")
def catalogue(spark: SparkSession) -> DataFrame:
    """Return 4,000 products of two images each, without a given split."""
    rows = [(f"p{n // 2}", f"i{n}", None) for n in range(8_000)]
    return spark.createDataFrame(rows, "product_id string, image_id string, given_split string")


def splits(frame: DataFrame) -> dict[str, str]:
    """Return the split of each product, making sure that it is one."""
    pairs = {(row["product_id"], row["split"]) for row in frame.collect()}
    assert len({product for product, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_a_reviewer_is_trusted_more_than_a_rule_and_that_more_than_a_seller(
    spark: SparkSession,
) -> None:
    labels = [
        ("p1", "seller", "a"),
        ("p1", "reviewer", "b"),
        ("p1", "rule", "c"),
        ("p2", "rule", "c"),
        ("p2", "seller", "a"),
        ("p3", "seller", "a"),
    ]
    expected = [("p1", "reviewer", "b"), ("p2", "rule", "c"), ("p3", "seller", "a")]
    assertDataFrameEqual(
        spark.createDataFrame(labels, LABEL_DDL).transform(transforms.keep_most_trusted),
        spark.createDataFrame(expected, LABEL_DDL),
    )


def test_an_image_of_two_products_stays_with_the_first(spark: SparkSession) -> None:
    ddl = "image_id string, product_id string"
    rows = spark.createDataFrame([("i1", "p2"), ("i1", "p1"), ("i2", "p2")], ddl)
    assertDataFrameEqual(
        rows.transform(transforms.keep_first_product_of_image),
        spark.createDataFrame([("i1", "p1"), ("i2", "p2")], ddl),
    )


def test_of_images_that_look_alike_one_split_keeps_its_own(spark: SparkSession) -> None:
    train, test, validation = transforms.TRAIN, transforms.TEST, transforms.VALIDATION
    rows = [
        # Image, its group, category, split, whether that was given, and whether it stays.
        ("train", "one", "a", train, None, True),
        ("test like it", "one", "a", test, None, False),
        ("validation like it", "one", "a", validation, None, False),
        ("of another category", "one", "b", test, None, True),
        ("test", "two", "a", test, None, True),
        ("test too", "two", "a", test, None, True),
        ("validation like those", "two", "a", validation, None, False),
        ("given test", "three", "a", test, test, True),
        ("train like a given one", "three", "a", train, None, False),
        ("given train", "four", "a", train, train, True),
        ("given test like it", "four", "a", test, test, True),
        ("not grouped", None, "a", validation, None, True),
        ("not grouped either", None, "a", test, None, True),
    ]
    examples = spark.createDataFrame(
        [(image, *of_image) for image, _, *of_image, _ in rows],
        "image_id string, category_id string, split string, given_split string",
    )
    duplicates = spark.createDataFrame(
        [(image, group) for image, group, *_ in rows if group],
        "image_id string, duplicate_group string",
    )
    kept = examples.transform(transforms.without_near_duplicates, duplicates)
    assert kept.columns == examples.columns
    assert {row["image_id"] for row in kept.collect()} == {row[0] for row in rows if row[-1]}


def test_a_given_split_wins(spark: SparkSession) -> None:
    rows = [(f"p{n}", split) for n in range(20) for split in ["test" if n % 2 else "train"]]
    frame = spark.createDataFrame(rows, "product_id string, given_split string")
    assert splits(frame.transform(transforms.with_split, 0.5, 0.4, 1)) == dict(rows)


def test_a_product_is_in_one_split_and_is_its_own_group(catalogue: DataFrame) -> None:
    frame = catalogue.transform(transforms.with_split, 0.2, 0.3, 17)
    assert len(splits(frame)) == 4_000
    assert frame.where("group_id <> product_id").isEmpty()


def test_splits_have_about_the_shares_asked_for(catalogue: DataFrame) -> None:
    drawn = splits(catalogue.transform(transforms.with_split, 0.2, 0.3, 17))
    shares = {name: count / len(drawn) for name, count in Counter(drawn.values()).items()}
    assert shares == pytest.approx({"test": 0.2, "validation": 0.3, "train": 0.5}, abs=0.03)


def test_shares_of_nothing_leave_all_to_training(catalogue: DataFrame) -> None:
    drawn = splits(catalogue.transform(transforms.with_split, 0.0, 0.0, 17))
    assert set(drawn.values()) == {"train"}


def test_a_product_stays_in_its_split_when_the_catalogue_grows(catalogue: DataFrame) -> None:
    few = splits(catalogue.limit(100).transform(transforms.with_split, 0.2, 0.3, 17))
    every = splits(catalogue.transform(transforms.with_split, 0.2, 0.3, 17))
    assert few.items() <= every.items()


def test_another_seed_draws_other_splits_and_another_order(catalogue: DataFrame) -> None:
    first, second = (
        splits(catalogue.transform(transforms.with_split, 0.2, 0.3, seed)) for seed in (1, 2)
    )
    assert first != second
    orders = [
        [
            row["image_id"]
            for row in catalogue.limit(200)
            .transform(transforms.with_order, seed)
            .orderBy("_order")
            .collect()
        ]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_examples_join_labels_products_images_and_the_newest_tree(spark: SparkSession) -> None:
    labels = [("p1", "seller", "a"), ("p2", "seller", "b"), ("p3", "seller", "a"), ("p4", "x", "a")]
    products = [("p1", "One", None, "test"), ("p2", "Two", "2", None), ("p3", None, None, None)]
    links = [("p1", "i1"), ("p1", "i1"), ("p2", "i2"), ("p2", "i3"), ("p9", "i9")]
    tree = [(1, "a", "old"), (1, "b", "b"), (2, "a", "new"), (2, "b", "b")]
    found = transforms.select_examples(
        spark.createDataFrame(labels, LABEL_DDL),
        spark.createDataFrame(products, PRODUCT_DDL),
        spark.createDataFrame(links, "product_id string, image_id string"),
        spark.createDataFrame(tree, TREE_DDL),
    )
    expected = spark.createDataFrame(
        [
            ("p1", "a", "new", 2, "One", None, "test", "i1"),
            ("p2", "b", "b", 2, "Two", "2", None, "i2"),
            ("p2", "b", "b", 2, "Two", "2", None, "i3"),
        ],
        "product_id string, category_id string, category_path string, taxonomy_version int, "
        "title string, description string, given_split string, image_id string",
    )
    assertDataFrameEqual(found.select(expected.columns), expected)

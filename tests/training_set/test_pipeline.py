"""One warehouse through several builds; each test looks at what one of them left behind."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from catalog_batch import tables
from catalog_batch.config import TrainingSetSettings
from catalog_batch.errors import MissingTableError, TrainingDataError
from catalog_batch.runs import Run, Status
from catalog_batch.tables import Table
from catalog_batch.training_set.pipeline import TrainingSetSummary, build_training_set
from catalog_batch.warehouse import Warehouse

NOW = datetime(2026, 1, 1)
PRODUCTS = 60
SETTINGS = TrainingSetSettings(row_group_kib=16, rows_per_file=50, seed=3)
LABEL_DDL = "product_id string, source string, category_id string, run_id string"
PATHS = {"c0": "Fruit", "c1": "Tools"}


def content_of(number: int) -> bytes:
    """Return 2 KiB that no codec makes smaller."""
    return np.random.default_rng(number).bytes(2_048)


def image_id(number: int) -> str:
    return sha256(content_of(number)).hexdigest()


@dataclass
class Build:
    """What a build reported, and the rows in the order of the files."""

    run: Run
    summary: TrainingSetSummary
    rows: list[dict[str, Any]]
    row_groups: list[int]

    @property
    def order(self) -> list[str]:
        return [row["image_id"] for row in self.rows]


@dataclass
class Shop:
    """Tables as ingest leaves them: two images a product, the last one shared by all."""

    warehouse: Warehouse
    make_run: Callable[[str], Run]

    def fill(self, table: Table, columns: str, rows: list[tuple[Any, ...]]) -> None:
        frame = self.warehouse.spark.createDataFrame(rows, columns)
        stamped = frame.selectExpr("*", f"'{NOW}' AS {_time(table)}")
        # The columns that nothing here is about are null.
        unsaid = [f"NULL AS {name}" for name in table.columns if name not in stamped.columns]
        self.warehouse.overwrite(stamped.selectExpr("*", *unsaid), table)

    def label(self, categories: dict[str, str]) -> None:
        rows = [(product, "seller", category, "r") for product, category in categories.items()]
        self.fill(tables.LABELS, LABEL_DDL, rows)

    def build(self, settings: TrainingSetSettings = SETTINGS) -> Build:
        run = self.make_run("build-training-set")
        summary = build_training_set(self.warehouse, settings, run)
        table = DeltaTable(self.warehouse.path(tables.TRAINING_EXAMPLES))
        rows, row_groups = [], []
        for uri in sorted(table.file_uris()):
            file = pq.ParquetFile(uri)
            groups = file.metadata.num_row_groups
            row_groups += [file.metadata.row_group(group).num_rows for group in range(groups)]
            split = Path(uri).parent.name.removeprefix("split=")
            rows += [row | {"split": split} for row in file.read().to_pylist()]
        return Build(run, summary, rows, row_groups)


def _time(table: Table) -> str:
    return next((name for name in table.stamps if name.endswith("_at")), "never")


SELLERS = {f"p{n:02}": f"c{n % 2}" for n in range(PRODUCTS)}
GIVEN = {"p00": "train", "p01": "train", "p02": "test", "p03": "validation"}


@pytest.fixture(scope="module")
def shop(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[[str], Run],
) -> Shop:
    warehouse = Warehouse(spark, str(tmp_path_factory.mktemp("shop")))
    shop = Shop(warehouse, make_run)
    warehouse.create(
        tables.PRODUCTS, tables.PRODUCT_IMAGES, tables.IMAGES, tables.CATEGORIES, tables.LABELS
    )
    shop.fill(
        tables.PRODUCTS,
        "product_id string, title string, description string, category_id string, "
        "category_path string, given_split string, attributes map<string,string>, run_id string",
        [
            (name, f"Title of {name}", None, None, None, GIVEN.get(name), {}, "r")
            for name in [*SELLERS, "p98", "p99"]
        ],
    )
    # Of each product its own image under two names, and image 0 for all: a logo, say.
    links = [
        (f"p{n:02}", uri, position, image_id(number), 2_048, NOW, "r")
        for n in [*range(PRODUCTS), 99]
        for position, (uri, number) in enumerate([("a", n + 1), ("b", n + 1), ("c", 0)])
    ]
    shop.fill(
        tables.PRODUCT_IMAGES,
        "product_id string, source_uri string, position int, image_id string, "
        "source_bytes bigint, source_modified_at timestamp, run_id string",
        links,
    )
    shop.fill(
        tables.IMAGES,
        "image_id string, content binary, width int, height int, source_format string, "
        "source_width int, source_height int, source_bytes bigint, is_animated boolean, "
        "run_id string",
        [
            (image_id(n), content_of(n), 32, 32, "JPEG", 32, 32, 2_048, False, "r")
            for n in [*range(PRODUCTS + 1), 100]
        ],
    )
    shop.fill(
        tables.CATEGORIES,
        "taxonomy_version int, category_id string, parent_id string, name string, path string, "
        "level int",
        [(4, category, None, path, path, 1) for category, path in PATHS.items()],
    )
    shop.label(SELLERS)
    return shop


@pytest.fixture(scope="module")
def first(shop: Shop) -> Build:
    return shop.build()


@pytest.fixture(scope="module")
def again(shop: Shop, first: Build) -> Build:
    return shop.build()


@pytest.fixture(scope="module")
def reseeded(shop: Shop, again: Build) -> Build:
    return shop.build(SETTINGS.model_copy(update={"seed": 4}))


@pytest.fixture(scope="module")
def restored(shop: Shop, reseeded: Build) -> Build:
    return shop.build()


@pytest.fixture(scope="module")
def reviewed(shop: Shop, restored: Build) -> Build:
    """Let a reviewer say that p10 is of the other category, and p98, without image, too."""
    reviewer = [("p10", "reviewer", "c1", "r"), ("p98", "reviewer", "c1", "r")]
    sellers = [(name, "seller", category, "r") for name, category in SELLERS.items()]
    shop.fill(tables.LABELS, LABEL_DDL, [*sellers, *reviewer])
    return shop.build()


def test_every_labelled_image_appears_once_with_its_bytes(first: Build) -> None:
    expected = {image_id(n): content_of(n) for n in range(PRODUCTS + 1)}
    assert len(first.rows) == len(expected)
    assert {row["image_id"]: row["content"] for row in first.rows} == expected


def test_an_image_that_many_products_show_is_under_the_first(first: Build) -> None:
    shared = [row for row in first.rows if row["image_id"] == image_id(0)]
    assert [row["product_id"] for row in shared] == ["p00"]


def test_a_row_carries_label_path_title_and_tree(first: Build) -> None:
    row = next(row for row in first.rows if row["image_id"] == image_id(3))
    assert row == {
        "content": content_of(3),
        "image_id": image_id(3),
        "product_id": "p02",
        "title": "Title of p02",
        "description": None,
        "category_id": "c0",
        "category_path": "Fruit",
        "taxonomy_version": 4,
        "group_id": "p02",
        "split": "test",
    }


def test_given_splits_win_and_a_product_is_in_one_split(first: Build) -> None:
    splits = {(row["product_id"], row["split"]) for row in first.rows}
    assert len(splits) == PRODUCTS
    assert set(GIVEN.items()) <= splits


def test_the_run_reports_rows_by_split_classes_and_versions(first: Build) -> None:
    counts = {
        split: sum(row["split"] == split for row in first.rows)
        for split in ("test", "train", "validation")
    }
    assert first.summary == TrainingSetSummary(version=1, rows=counts, classes=2)
    assert first.run.status == Status.PUBLISHED
    assert first.run.counts == {**counts, "classes": 2, "near_duplicates_left_out": 0}
    assert first.run.rows_out == PRODUCTS + 1
    assert first.run.table_versions == {
        "labels": 1,
        "products": 1,
        "product_images": 1,
        "images": 1,
        "training_examples": 1,
    }


def test_row_groups_are_small(first: Build) -> None:
    assert len(first.row_groups) >= 6
    assert max(first.row_groups) <= 16


def test_the_session_writes_other_tables_with_its_own_row_groups(shop: Shop, first: Build) -> None:
    assert shop.warehouse.spark.conf.get("parquet.block.size", None) is None


def test_a_second_build_finds_nothing_to_do(first: Build, again: Build) -> None:
    assert again.run.status == Status.NOTHING_TO_DO
    assert again.summary == first.summary


def test_another_seed_gives_the_same_rows_in_another_order(first: Build, reseeded: Build) -> None:
    assert reseeded.run.status == Status.PUBLISHED
    assert reseeded.summary.version == first.summary.version + 1
    assert sorted(reseeded.order) == sorted(first.order)
    assert reseeded.order != first.order
    products = [row["product_id"] for row in first.rows if row["split"] == "train"]
    assert products != sorted(products)


def test_the_same_seed_gives_the_same_rows_in_the_same_order(first: Build, restored: Build) -> None:
    assert restored.summary.version == 3
    for split in ("train", "validation", "test"):
        before, after = (
            [row for row in build.rows if row["split"] == split] for build in (first, restored)
        )
        assert [row["image_id"][:8] for row in before] == [row["image_id"][:8] for row in after]
        assert before == after


def test_older_versions_can_still_be_read(shop: Shop, first: Build, restored: Build) -> None:
    rows = shop.warehouse.read(tables.TRAINING_EXAMPLES, first.summary.version)
    assert rows.count() == len(first.rows)


def test_a_reviewers_label_beats_the_sellers(first: Build, reviewed: Build) -> None:
    before, after = (
        {row["product_id"]: row["category_path"] for row in build.rows}
        for build in (first, reviewed)
    )
    assert (before["p10"], after["p10"]) == ("Fruit", "Tools")
    assert before | {"p10": "Tools"} == after
    assert reviewed.run.status == Status.PUBLISHED


def test_a_single_category_is_refused_and_nothing_is_written(shop: Shop, reviewed: Build) -> None:
    shop.label(dict.fromkeys(SELLERS, "c0"))
    with pytest.raises(TrainingDataError, match="1 categories have an image in the train split"):
        shop.build()
    version = shop.warehouse.version(tables.TRAINING_EXAMPLES)
    assert version == reviewed.summary.version


def test_before_any_ingest_the_missing_table_is_named(
    warehouse: Warehouse, make_run: Callable[[str], Run]
) -> None:
    with pytest.raises(MissingTableError, match="'labels'"):
        build_training_set(warehouse, SETTINGS, make_run("build-training-set"))
    assert not Path(warehouse.root).exists()

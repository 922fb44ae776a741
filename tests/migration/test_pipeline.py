"""A small warehouse moves to a new tree: what is published, what is learned, what is left."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from catalog_batch import ledger, tables
from catalog_batch.errors import BadInputError, ConcurrentWriteError, LockHeldError
from catalog_batch.ingest.publication import publish_labels
from catalog_batch.ingest.transforms import category_rows
from catalog_batch.migration.mapping import Paths, read_mapping
from catalog_batch.migration.pipeline import migrate_taxonomy
from catalog_batch.moved_rows import with_current_label
from catalog_batch.moves import read_moves
from catalog_batch.runs import Run, Status
from catalog_batch.taxonomy import category_id
from catalog_batch.warehouse import Warehouse

NOW = datetime(2026, 1, 1)
PATHS = ("Fruit/Apple", "Fruit/Pear", "Milk/Oat")
MAPPING = (
    "old_path,new_path\nFruit/Apple,Fruit/Pome\nMilk,Drinks/Milk\nFruit/Pear,A\nFruit/Pear,B\n"
)
MakeRun = Callable[[str], Run]


def prediction(product: str, path: str) -> tuple[Any, ...]:
    own = category_id(path)
    guess = [(own, 0.75)]
    lineage = ("catalogue", 1, 1, 5, NOW, "old")
    return (product, own, path, 0.75, 0.5, guess, "accepted", None, own, 1, *lineage)


@pytest.fixture(scope="module")
def stocked(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fill a warehouse with one product of each category, to be copied."""
    folder = tmp_path_factory.mktemp("stocked")
    warehouse = Warehouse(spark, str(folder))
    warehouse.create(*tables.ALL_TABLES)
    products = [
        (f"p{n}", None, None, category_id(path), path, None, {}, NOW, "r")
        for n, path in enumerate(PATHS)
    ]
    width = len(tables.PRODUCTS.columns)
    by_table = {
        tables.CATEGORIES: category_rows(PATHS, 1),
        tables.PRODUCTS: [(*row, *[None] * (width - len(row))) for row in products],
        tables.LABELS: [(f"p{n}", "seller", category_id(p), NOW, "r") for n, p in enumerate(PATHS)],
        tables.PRODUCT_PREDICTIONS: [prediction(f"p{n}", path) for n, path in enumerate(PATHS)],
    }
    for table, rows in by_table.items():
        warehouse.append(spark.createDataFrame(rows, table.schema), table)
    return folder


@pytest.fixture
def shop(stocked: Path, warehouse: Warehouse) -> Warehouse:
    """Return a warehouse with one product of each category."""
    shutil.copytree(stocked, warehouse.root)
    return warehouse


@dataclass
class Given:
    """A mapping in a file."""

    path: Path

    def of(self, text: str) -> dict[str, Paths]:
        self.path.write_text(text, encoding="utf-8")
        return self.read()

    def read(self) -> dict[str, Paths]:
        return read_mapping(self.path)


@pytest.fixture
def mapping(tmp_path: Path) -> Given:
    return Given(tmp_path / "mapping.csv")


def published(shop: Warehouse) -> dict[str, tuple[str, int, str]]:
    rows = shop.read(tables.PRODUCT_PREDICTIONS).collect()
    return {r["product_id"]: (r["category_path"], r["taxonomy_version"], r["run_id"]) for r in rows}


def test_predictions_move_along_and_those_of_a_split_are_listed(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    run = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.of(MAPPING), run)
    assert published(shop) == {
        "p0": ("Fruit/Pome", 2, run.run_id),
        "p1": ("Fruit/Pear", 1, "old"),
        "p2": ("Drinks/Milk/Oat", 2, run.run_id),
    }
    assert run.status is Status.PUBLISHED
    assert run.counts == {
        "moved": 2,
        "renamed": 1,
        "split": 1,
        "predictions_moved": 2,
        "guesses_moved": 0,
        "predictions_to_rescore": 1,
    }
    shop.register()
    [left] = shop.spark.sql("SELECT * FROM predictions_to_rescore").collect()
    assert (left["product_id"], left["old_path"], left["new_paths"]) == (
        "p1",
        "Fruit/Pear",
        ["A", "B"],
    )
    stamp = shop.last_user_metadata(tables.PRODUCT_PREDICTIONS)
    assert stamp == {"run_id": run.run_id, "job": "migrate-taxonomy"}


def test_predictions_of_other_categories_are_not_counted_as_moved_but_are_of_the_new_tree(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    table, run = tables.PRODUCT_PREDICTIONS, make_run("migrate-taxonomy")
    shop.append(shop.spark.createDataFrame([prediction("p9", "Bread")], table.schema), table)
    migrate_taxonomy(shop, mapping.of(MAPPING), run)
    assert published(shop)["p9"] == ("Bread", 2, run.run_id)
    assert (run.counts["predictions_moved"], run.counts["guesses_moved"]) == (2, 0)
    assert run.rows_out == 3


def test_what_a_challenger_said_moves_along_too(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    beside = tables.SHADOW_PREDICTIONS
    rows = [prediction(f"p{n}", path) for n, path in enumerate(PATHS)]
    shop.append(shop.spark.createDataFrame(rows, beside.schema), beside)
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    moved = {row["product_id"]: row["category_path"] for row in shop.read(beside).collect()}
    assert moved == {"p0": "Fruit/Pome", "p1": "Fruit/Pear", "p2": "Drinks/Milk/Oat"}


def test_the_tree_is_whole_in_its_new_version_and_labels_find_their_place(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    tree = shop.read(tables.CATEGORIES).where("taxonomy_version = 2")
    assert {row["path"] for row in tree.collect()} == {
        "A",
        "B",
        "Drinks",
        "Drinks/Milk",
        "Drinks/Milk/Oat",
        "Fruit",
        "Fruit/Pome",
    }
    labels = with_current_label(shop.read(tables.LABELS), read_moves(shop.root))
    known = labels.join(tree, "category_id").select("product_id", "path").collect()
    assert {row[0]: row[1] for row in known} == {"p0": "Fruit/Pome", "p2": "Drinks/Milk/Oat"}


def test_a_seller_who_uses_the_old_name_contradicts_nobody(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    shop.register()
    assert shop.spark.sql("SELECT * FROM review_queue").collect() == []


@pytest.mark.parametrize(("path", "queued"), [("A", []), ("Fruit/Pome", ["p1"])])
def test_a_seller_who_uses_a_split_name_contradicts_none_of_its_parts(
    shop: Warehouse, mapping: Given, make_run: MakeRun, path: str, queued: list[str]
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    target = tables.PRODUCT_PREDICTIONS
    shop.upsert(shop.spark.createDataFrame([prediction("p1", path)], target.schema), target)
    shop.register()
    rows = shop.spark.sql("SELECT product_id FROM review_queue").collect()
    assert [row["product_id"] for row in rows] == queued


@pytest.mark.parametrize(("path", "queued"), [("Drinks/Milk/Soy", []), ("Fruit/Pome", ["p2"])])
def test_a_seller_of_a_new_category_below_an_old_name_means_the_one_that_grew(
    shop: Warehouse, mapping: Given, make_run: MakeRun, path: str, queued: list[str]
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    named = {"category_id": F.lit(category_id("Milk/Soy")), "category_path": F.lit("Milk/Soy")}
    product = shop.read(tables.PRODUCTS).where("product_id = 'p2'").withColumns(named)
    product = product.localCheckpoint()
    shop.upsert(product, tables.PRODUCTS)
    publish_labels(shop, product, make_run("ingest"))
    target = tables.PRODUCT_PREDICTIONS
    shop.upsert(shop.spark.createDataFrame([prediction("p2", path)], target.schema), target)
    shop.register()
    rows = shop.spark.sql("SELECT product_id FROM review_queue").collect()
    assert [row["product_id"] for row in rows] == queued


def test_a_new_category_below_an_old_name_grows_where_that_is_now(
    shop: Warehouse,
    mapping: Given,
    make_run: MakeRun,
    caplog: pytest.LogCaptureFixture,
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    tree = shop.read(tables.CATEGORIES).where("taxonomy_version = 2").collect()
    named = {"p2": "Milk/Oat", "p3": "Milk/Soy", "p4": "Fruit/Pear/Big"}
    products = shop.spark.createDataFrame(
        [(product, category_id(path), path) for product, path in named.items()],
        "product_id string, category_id string, category_path string",
    )
    for changed in (8 + 2, 0):
        assert publish_labels(shop, products, make_run("ingest")) == changed
    newest = shop.read(tables.CATEGORIES).where("taxonomy_version = 3").collect()
    assert {row["path"] for row in newest} == {row["path"] for row in tree} | {"Drinks/Milk/Soy"}
    labels = {row["product_id"]: row["category_id"] for row in shop.read(tables.LABELS).collect()}
    # A category that was there keeps its name of then, as all of the product's history does.
    assert labels["p2"] == category_id("Milk/Oat")
    assert labels["p3"] == category_id("Drinks/Milk/Soy")
    assert "'Fruit/Pear/Big'" in caplog.text
    migrate_taxonomy(shop, mapping.of("old_path,new_path\nDrinks,D\n"), make_run("migrate"))
    assert read_moves(shop.root).place("Milk/Soy") == "D/Milk/Soy"


def test_the_same_mapping_again_changes_nothing(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    wanted = mapping.of(MAPPING)
    migrate_taxonomy(shop, wanted, make_run("migrate-taxonomy"))
    written = (tables.CATEGORIES, tables.TAXONOMY_CHANGES, tables.PRODUCT_PREDICTIONS)
    before = shop.versions(*written)
    again = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, wanted, again)
    assert again.status is Status.NOTHING_TO_DO
    assert shop.versions(*written) == before


@pytest.mark.parametrize("killed_at", ["taxonomy_changes", "product_predictions"])
def test_a_run_that_was_killed_is_completed_by_the_next(
    shop: Warehouse,
    mapping: Given,
    make_run: MakeRun,
    killed_at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, upsert = mapping.of(MAPPING), shop.upsert

    def dies(frame: Any, table: tables.Table) -> int:
        if table.name == killed_at:
            raise KeyboardInterrupt
        return upsert(frame, table)

    monkeypatch.setattr(shop, "upsert", dies)
    with pytest.raises(KeyboardInterrupt):
        migrate_taxonomy(shop, wanted, make_run("migrate-taxonomy"))
    monkeypatch.undo()
    assert published(shop)["p0"][0] == "Fruit/Apple"
    migrate_taxonomy(shop, wanted, make_run("migrate-taxonomy"))
    assert {product: row[0] for product, row in published(shop).items()} == {
        "p0": "Fruit/Pome",
        "p1": "Fruit/Pear",
        "p2": "Drinks/Milk/Oat",
    }
    versions = shop.read(tables.CATEGORIES).select("taxonomy_version").distinct().collect()
    assert {row[0] for row in versions} == {1, 2}


@pytest.mark.parametrize("named", [{"Fruit/Apple"}, {"Fruit/Apple", "Fruit/Pear", "Milk"}])
def test_a_run_that_was_killed_is_completed_after_the_tree_has_grown(
    shop: Warehouse,
    mapping: Given,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    named: set[str],
) -> None:
    """Of old paths, sellers have named some again, or all of the mapping and none below them."""
    wanted = mapping.of(MAPPING)

    def dies(frame: Any, table: tables.Table) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(shop, "upsert", dies)
    with pytest.raises(KeyboardInterrupt):
        migrate_taxonomy(shop, wanted, make_run("migrate-taxonomy"))
    monkeypatch.undo()
    tree = shop.read(tables.CATEGORIES).where("taxonomy_version = 2").collect()
    grown = category_rows(sorted({*(row["path"] for row in tree), *named, "Tea"}), 3)
    shop.append(shop.spark.createDataFrame(grown, tables.CATEGORIES.schema), tables.CATEGORIES)
    migrate_taxonomy(shop, wanted, make_run("migrate-taxonomy"))
    assert {product: row[:2] for product, row in published(shop).items()} == {
        "p0": ("Fruit/Pome", 4),
        "p1": ("Fruit/Pear", 1),
        "p2": ("Drinks/Milk/Oat", 4),
    }
    newest = shop.read(tables.CATEGORIES).where("taxonomy_version = 4").collect()
    assert {row["path"] for row in newest} == {row["path"] for row in tree} | {"Tea"}
    again = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, wanted, again)
    assert again.status is Status.NOTHING_TO_DO


def test_a_second_mapping_goes_on_from_the_first(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    second = "old_path,new_path\nFruit/Pome,Pome\n"
    run = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.of(second), run)
    assert published(shop)["p0"][:2] == ("Pome", 3)
    # What the first one did was counted then; of Fruit nothing is left.
    assert run.counts == {
        "moved": 1,
        "withdrawn": 1,
        "predictions_moved": 1,
        "guesses_moved": 0,
        "predictions_to_rescore": 1,
    }
    assert read_moves(shop.root).new_paths["Fruit/Apple"] == ("Pome",)
    again = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.of(MAPPING), again)
    assert again.status is Status.NOTHING_TO_DO
    assert published(shop)["p0"][:2] == ("Pome", 3)


def test_what_was_split_is_still_to_be_rescored_when_a_part_is_withdrawn(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    run = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.of("old_path,new_path\nA,\n"), run)
    assert run.counts == {
        "withdrawn": 1,
        "predictions_moved": 0,
        "guesses_moved": 0,
        "predictions_to_rescore": 1,
    }
    assert published(shop)["p1"] == ("Fruit/Pear", 1, "old")
    moves = read_moves(shop.root)
    assert (moves.new_paths["Fruit/Pear"], moves.changes["Fruit/Pear"]) == (("A", "B"), "split")
    assert moves.place("Fruit/Pear") is None
    again = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.of(MAPPING), again)
    assert again.status is Status.NOTHING_TO_DO


def test_a_dry_run_counts_the_same_and_writes_nothing(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    before = shop.versions(*tables.ALL_TABLES)
    dry, real = make_run("migrate-taxonomy"), make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.of(MAPPING), dry, dry_run=True)
    assert shop.versions(*tables.ALL_TABLES) == before
    migrate_taxonomy(shop, mapping.read(), real)
    assert dry.counts == real.counts


@pytest.mark.parametrize("job", ["ingest", "score"])
def test_it_does_not_run_beside_a_job_that_uses_the_tree(
    shop: Warehouse, mapping: Given, make_run: MakeRun, job: str
) -> None:
    with ExitStack() as held:
        path = ledger.lock_folder(shop.root) / f"job-{job}.lock"
        held.enter_context(ledger.held_lock(path, wait=False))
        with pytest.raises(LockHeldError, match=f"job-{job}"):
            migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))


def test_another_run_that_publishes_meanwhile_is_noticed_and_what_was_moved_stays_so(
    shop: Warehouse, mapping: Given, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locks are of one machine; on another a night may be scored all the same."""
    upsert = Warehouse.upsert

    def after_another(
        warehouse: Warehouse, frame: DataFrame, table: tables.Table, **options: Any
    ) -> int:
        if table == tables.PRODUCT_PREDICTIONS:
            rows = [prediction("p0", "Fruit/Apple")]
            theirs = warehouse.spark.createDataFrame(rows, table.schema)
            with warehouse.stamped(run_id="theirs"):
                upsert(warehouse, theirs.withColumn("confidence", F.lit(0.5)), table)
        return upsert(warehouse, frame, table, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "upsert", after_another)
        with pytest.raises(ConcurrentWriteError, match="'product_predictions' went from"):
            migrate_taxonomy(shop, mapping.of(MAPPING), make_run("migrate-taxonomy"))
    moved = published(shop)
    paths = {product: path for product, (path, _, _) in moved.items()}
    assert paths == {"p0": "Fruit/Pome", "p1": "Fruit/Pear", "p2": "Drinks/Milk/Oat"}
    again = make_run("migrate-taxonomy")
    migrate_taxonomy(shop, mapping.read(), again)
    assert again.status is Status.NOTHING_TO_DO
    assert published(shop) == moved


def test_a_mapping_of_another_tree_is_refused(
    shop: Warehouse, mapping: Given, make_run: MakeRun
) -> None:
    with pytest.raises(BadInputError, match="'Fish' is not a category"):
        migrate_taxonomy(
            shop, mapping.of("old_path,new_path\nFish,Sea\n"), make_run("migrate-taxonomy")
        )

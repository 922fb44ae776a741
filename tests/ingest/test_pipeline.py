"""One warehouse through five ingests; each test looks at what one of them left behind."""

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import Row, SparkSession

from catalog_batch import tables
from catalog_batch.config import IngestSettings
from catalog_batch.errors import BadInputError, ManifestError
from catalog_batch.ingest.outcomes import Outcomes
from catalog_batch.ingest.pipeline import Request, ingest_catalogue
from catalog_batch.runs import Run, Status
from catalog_batch.tables import Table
from catalog_batch.taxonomy import category_id
from catalog_batch.warehouse import Warehouse

COLUMNS = ["product_id", "image_uri", "category", "title", "position", "split", "brand"]
MANIFEST = [
    ["p1", "a.jpg", "Fruit/Apple", "Apple", "0", "test", "Acme"],
    ["p1", "b.jpg", "Fruit/Apple", "Apple", "1", "test", "Acme"],
    ["p1", "a.jpg", "Fruit/Apple", "Apple", "5", "test", "Acme"],  # repeated
    ["p2", "copies/a.jpg", "Fruit/Pear", "Pear", "0", "", ""],  # the bytes of a.jpg
    ["p3", "c.jpg", "Fruit/Pear", "=1+1", "0", "", ""],
    ["p3", "short.jpg", "Fruit/Pear", "=1+1", "1", "", ""],  # truncated
    ["p4", "page.jpg", "", "No category", "0", "", ""],  # HTML
    ["p5", "nowhere.jpg", " Fruit / Plum /", "Plum", "0", "", ""],
    ["p6", "../outside.jpg", "Tools", "Saw", "0", "", ""],
    ["p7", "empty.jpg", "Tools", "Axe", "0", "", ""],
    ["", "a.jpg", "Tools", "No product", "0", "", ""],
    ["p8", "", "Tools", "No image", "0", "", ""],
]
SETTINGS = IngestSettings(stored_side=32, rows_per_task=4, max_rejected_share=1)
NIGHT = date(2026, 1, 10)


@dataclass
class Shop:
    """A manifest, a folder of images and the warehouse they are ingested into."""

    folder: Path
    warehouse: Warehouse
    make_run: Callable[[str], Run]

    def put(self, name: str, content: bytes, modified: int = 1_700_000_000) -> None:
        path = self.folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (modified, modified))

    def request(
        self,
        rows: Sequence[Sequence[str]],
        columns: Sequence[str] = COLUMNS,
        **options: Any,
    ) -> Request:
        manifest = self.folder / "manifest.csv"
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        options = {"night": NIGHT} | options
        return Request(str(manifest), str(self.folder / "images"), NIGHT, **options)

    def ingest(
        self,
        rows: Sequence[Sequence[str]],
        columns: Sequence[str] = COLUMNS,
        settings: IngestSettings = SETTINGS,
        **options: Any,
    ) -> "State":
        run = self.make_run("ingest")
        request = self.request(rows, columns, **options)
        outcomes = ingest_catalogue(self.warehouse, request, settings, run)
        return State(
            run,
            outcomes,
            {table.name: self.warehouse.version(table) for table in tables.ALL_TABLES},
            {table.name: self.rows_of(table) for table in LOOKED_AT},
        )

    def rows_of(self, table: Table) -> list[Row]:
        frame = self.warehouse.read(table)
        return sorted(frame.drop("content").collect(), key=lambda row: [row[k] for k in table.key])


@dataclass
class State:
    """What a run reported, and the small rows of the tables after it."""

    run: Run
    outcomes: Outcomes
    versions: dict[str, int]
    rows: dict[str, list[Row]]

    def values(self, table: Table, *columns: str) -> list[tuple[Any, ...]]:
        return [tuple(row[name] for name in columns) for row in self.rows[table.name]]

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows without their stamps."""
        return {
            table.name: self.values(
                table,
                *[c for c in table.columns if c not in (*table.stamps, *table.kept, "content")],
            )
            for table in LOOKED_AT
        }


LOOKED_AT = (
    tables.PRODUCTS,
    tables.PRODUCT_IMAGES,
    tables.IMAGES,
    tables.REJECTED_IMAGES,
    tables.CATEGORIES,
    tables.LABELS,
    tables.IMAGE_DUPLICATES,
    tables.MANIFESTS,
)


@pytest.fixture(scope="module")
def shop(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[[str], Run],
    make_jpeg: Callable[..., bytes],
) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    shop = Shop(folder, Warehouse(spark, str(folder / "warehouse")), make_run)
    for seed, name in enumerate(["a.jpg", "b.jpg", "c.jpg"], start=1):
        shop.put(name, make_jpeg(seed))
    shop.put("copies/a.jpg", make_jpeg(1))
    shop.put("short.jpg", make_jpeg(4)[:400])
    shop.put("page.jpg", b"<!DOCTYPE html><html></html>")
    shop.put("empty.jpg", b"")
    shop.put("../outside.jpg", make_jpeg(5))
    return shop


@pytest.fixture(scope="module")
def first(shop: Shop) -> State:
    return shop.ingest(MANIFEST)


@pytest.fixture(scope="module")
def again(shop: Shop, first: State) -> State:
    return shop.ingest(MANIFEST)


@pytest.fixture(scope="module")
def changed(shop: Shop, again: State, make_jpeg: Callable[..., bytes]) -> State:
    """Change files and categories, leave one row out, and add a category."""
    shop.put("b.jpg", make_jpeg(20), modified=1_700_000_100)  # other bytes
    shop.put("copies/a.jpg", make_jpeg(1), modified=1_700_000_100)  # touched only
    shop.put("short.jpg", make_jpeg(4), modified=1_700_000_100)  # repaired
    shop.put("c.jpg", make_jpeg(3)[:300], modified=1_700_000_100)  # broken
    shop.put("nowhere.jpg", make_jpeg(6), modified=1_700_000_100)  # arrived
    rows = [list(row) for row in MANIFEST if row[0] != "p6"]
    for row in rows:
        if row[0] == "p2":
            row[2] = "Fruit/Quince"
        if row[0] == "p7":
            row[2] = ""
    return shop.ingest(rows)


@pytest.fixture(scope="module")
def killed(shop: Shop, changed: State, make_jpeg: Callable[..., bytes]) -> State:
    """Bring the tables to what kills between two commits leave, then run again.

    ``product_images`` lacks a committed image's row, and holds one whose rejection was committed
    and one whose old rejection was not removed yet. The product of ``b.jpg`` was there before its
    image.
    """
    spark = shop.warehouse.spark
    links = f"delta.`{shop.warehouse.path(tables.PRODUCT_IMAGES)}`"
    rejected = f"delta.`{shop.warehouse.path(tables.REJECTED_IMAGES)}`"
    spark.sql(f"DELETE FROM {links} WHERE source_uri = 'a.jpg'")
    spark.sql(
        f"INSERT INTO {rejected} SELECT product_id, source_uri, 'truncated', '', 1, 400, "
        f"source_modified_at, updated_at, updated_at, run_id, NULL "
        f"FROM {links} WHERE source_uri = 'short.jpg'"
    )
    spark.sql(
        f"INSERT INTO {links} SELECT product_id, source_uri, 0, repeat('0', 64), 5, "
        f"timestamp'2020-01-01', last_seen_at - INTERVAL 1 DAY, run_id, NULL FROM {rejected} "
        f"WHERE source_uri = 'c.jpg'"
    )
    late = hashlib.sha256(make_jpeg(20)).hexdigest()
    for table in (tables.IMAGES, tables.IMAGE_DUPLICATES, tables.PRODUCT_IMAGES):
        spark.sql(f"DELETE FROM delta.`{shop.warehouse.path(table)}` WHERE image_id = '{late}'")
    shop.put("../warehouse/_staging/ingest-killed/part-0.parquet", b"left behind")
    rows = [list(row) for row in MANIFEST if row[0] != "p6"]
    for row in rows:
        if row[0] == "p2":
            row[2] = "Fruit/Quince"
        if row[0] == "p7":
            row[2] = ""
    return shop.ingest(rows)


def test_every_row_of_the_manifest_has_one_outcome(first: State) -> None:
    assert first.outcomes == Outcomes(
        ingested=3,
        duplicate=1,
        unchanged=0,
        repeated=1,
        rejected={
            "truncated": 1,
            "not_an_image": 1,
            "missing": 1,
            "outside_root": 1,
            "empty": 1,
            "bad_row": 2,
        },
    )
    assert first.outcomes.total == first.run.rows_in == len(MANIFEST)
    assert first.run.status == Status.PUBLISHED


def test_an_image_is_stored_once_under_the_checksum_of_its_source(
    first: State, make_jpeg: Callable[..., bytes]
) -> None:
    expected = sorted(hashlib.sha256(make_jpeg(seed)).hexdigest() for seed in (1, 2, 3))
    assert first.values(tables.IMAGES, "image_id") == [(image_id,) for image_id in expected]
    assert set(first.values(tables.IMAGES, "width", "height")) == {(38, 32)}


def test_products_show_their_images_in_the_order_of_the_manifest(
    first: State, make_jpeg: Callable[..., bytes]
) -> None:
    a, b, c = (hashlib.sha256(make_jpeg(seed)).hexdigest() for seed in (1, 2, 3))
    found = first.values(tables.PRODUCT_IMAGES, "product_id", "source_uri", "position", "image_id")
    assert found == [
        ("p1", "a.jpg", 0, a),
        ("p1", "b.jpg", 1, b),
        ("p2", "copies/a.jpg", 0, a),
        ("p3", "c.jpg", 0, c),
    ]


def test_every_rejected_row_is_kept_with_its_reason(first: State) -> None:
    found = first.values(tables.REJECTED_IMAGES, "product_id", "source_uri", "reason", "attempts")
    location_of_p8 = next(uri for product, uri, _, _ in found if product == "p8")
    assert location_of_p8.startswith("row:")
    assert found == [
        ("", "a.jpg", "bad_row", 1),
        ("p3", "short.jpg", "truncated", 1),
        ("p4", "page.jpg", "not_an_image", 1),
        ("p5", "nowhere.jpg", "missing", 1),
        ("p6", "../outside.jpg", "outside_root", 1),
        ("p7", "empty.jpg", "empty", 1),
        ("p8", location_of_p8, "bad_row", 1),
    ]


def test_a_product_is_stored_whatever_became_of_its_images(first: State) -> None:
    found = first.values(tables.PRODUCTS, "product_id", "category_path", "title", "given_split")
    assert found == [
        ("p1", "Fruit/Apple", "Apple", "test"),
        ("p2", "Fruit/Pear", "Pear", None),
        ("p3", "Fruit/Pear", "=1+1", None),
        ("p4", None, "No category", None),
        ("p5", "Fruit/Plum", "Plum", None),
        ("p6", "Tools", "Saw", None),
        ("p7", "Tools", "Axe", None),
        ("p8", "Tools", "No image", None),
    ]
    assert first.values(tables.PRODUCTS, "attributes")[:2] == [({"brand": "Acme"},), ({},)]


def test_categories_of_the_manifest_become_a_tree(first: State) -> None:
    found = first.values(tables.CATEGORIES, "taxonomy_version", "path", "level")
    assert sorted(found) == [
        (1, "Fruit", 1),
        (1, "Fruit/Apple", 2),
        (1, "Fruit/Pear", 2),
        (1, "Fruit/Plum", 2),
        (1, "Tools", 1),
    ]


def test_a_second_run_finds_nothing_to_do_and_makes_no_version(first: State, again: State) -> None:
    assert again.run.status == Status.NOTHING_TO_DO
    assert again.versions == first.versions
    assert again.rows == first.rows
    assert again.outcomes.unchanged == 4
    assert again.outcomes.total == len(MANIFEST)
    assert again.outcomes.rejected == first.outcomes.rejected


def test_only_files_that_changed_are_read_again(changed: State) -> None:
    # b.jpg, short.jpg and nowhere.jpg are new bytes, c.jpg is broken now; the rest was known.
    assert changed.run.status == Status.PUBLISHED
    assert changed.outcomes.ingested == 3
    assert changed.outcomes.unchanged == 2
    assert changed.outcomes.rejected == {
        "truncated": 1,
        "not_an_image": 1,
        "empty": 1,
        "bad_row": 2,
    }


def test_a_repaired_image_leaves_the_rejected_ones(changed: State) -> None:
    stored = [uri for (uri,) in changed.values(tables.PRODUCT_IMAGES, "source_uri")]
    rejected = [uri for (uri,) in changed.values(tables.REJECTED_IMAGES, "source_uri")]
    assert {"short.jpg", "nowhere.jpg"} <= set(stored)
    assert not {"short.jpg", "nowhere.jpg"} & set(rejected)


def test_an_image_that_turned_bad_is_rejected_and_no_longer_shown(changed: State) -> None:
    assert ("p3", "c.jpg", "truncated", 1) in changed.values(
        tables.REJECTED_IMAGES, "product_id", "source_uri", "reason", "attempts"
    )
    assert ("c.jpg",) not in changed.values(tables.PRODUCT_IMAGES, "source_uri")


def test_rows_that_did_not_change_keep_the_run_that_wrote_them(
    first: State, changed: State
) -> None:
    runs = dict(changed.values(tables.PRODUCT_IMAGES, "source_uri", "run_id"))
    assert runs["a.jpg"] == first.run.run_id
    assert runs["b.jpg"] == changed.run.run_id
    runs = dict(changed.values(tables.PRODUCTS, "product_id", "run_id"))
    assert runs["p1"] == first.run.run_id
    assert runs["p2"] == changed.run.run_id


def test_a_product_left_out_of_a_later_manifest_stays(changed: State) -> None:
    assert ("p6",) in changed.values(tables.PRODUCTS, "product_id")


def test_a_new_category_makes_a_second_whole_tree(changed: State) -> None:
    found = changed.values(tables.CATEGORIES, "taxonomy_version", "path")
    assert [path for version, path in found if version == 1].count("Fruit/Quince") == 0
    assert sorted(path for version, path in found if version == 2) == [
        "Fruit",
        "Fruit/Apple",
        "Fruit/Pear",
        "Fruit/Plum",
        "Fruit/Quince",
        "Tools",
    ]


def test_the_sellers_label_follows_the_category_and_goes_with_it(
    first: State, changed: State
) -> None:
    before = dict(first.values(tables.LABELS, "product_id", "category_id"))
    after = dict(changed.values(tables.LABELS, "product_id", "category_id"))
    assert before["p2"] == category_id("Fruit/Pear")
    assert after["p2"] == category_id("Fruit/Quince")
    assert "p7" in before and "p7" not in after


def test_a_run_after_a_kill_between_two_commits_converges(changed: State, killed: State) -> None:
    assert killed.content() == changed.content()
    assert killed.outcomes.total == killed.run.rows_in


def test_a_product_is_there_once_its_images_are(shop: Shop, first: State) -> None:
    """Else a scoring that comes between would say that it has none."""

    def first_commit(table: tables.Table) -> int:
        [commit] = [
            commit
            for commit in DeltaTable(shop.warehouse.path(table)).history()
            if commit["version"] == first.versions[table.name]
        ]
        assert commit["operation"] != "CREATE TABLE"
        return int(commit["timestamp"])

    order = [tables.IMAGES, tables.PRODUCT_IMAGES, tables.PRODUCTS]
    moments = [first_commit(table) for table in order]
    assert moments == sorted(moments)


def test_nothing_is_left_in_staging(shop: Shop, killed: State) -> None:
    assert list((shop.folder / "warehouse" / "_staging").iterdir()) == []


def test_every_key_occurs_once(killed: State) -> None:
    for table in LOOKED_AT:
        keys = killed.values(table, *table.key)
        assert len(keys) == len(set(keys)), table.name


def test_a_second_implementation_reads_the_same_rows(shop: Shop, killed: State) -> None:
    for table in LOOKED_AT:
        other = DeltaTable(shop.warehouse.path(table))
        assert other.version() == killed.versions[table.name]
        assert other.to_pyarrow_table().num_rows == len(killed.rows[table.name])


def test_a_night_leaves_few_files(shop: Shop, first: State) -> None:
    cores = shop.warehouse.spark.sparkContext.defaultParallelism
    for table in LOOKED_AT:
        files = DeltaTable(shop.warehouse.path(table), version=first.versions[table.name])
        assert len(files.file_uris()) <= 2 * cores, table.name


def test_a_run_names_the_versions_that_it_left(first: State) -> None:
    names = ["products", "product_images", "images", "rejected_images"]
    assert first.run.table_versions == {name: first.versions[name] for name in names}


def test_every_commit_says_which_run_made_it(shop: Shop, changed: State, killed: State) -> None:
    stamp = shop.warehouse.last_user_metadata(tables.PRODUCTS)
    assert stamp == {"job": "ingest", "run_id": changed.run.run_id}


def test_a_refused_manifest_changes_nothing(shop: Shop, killed: State) -> None:
    manifest = shop.folder / "refused.csv"
    manifest.write_text("product_id,image_uri,split\np9,a.jpg,holdout\n")
    with pytest.raises(ManifestError, match=r"\['holdout'\].*Use one of"):
        ingest_catalogue(
            shop.warehouse,
            Request(str(manifest), str(shop.folder), NIGHT, accept_columns=True),
            SETTINGS,
            shop.make_run("ingest"),
        )
    assert {t.name: shop.warehouse.version(t) for t in tables.ALL_TABLES} == killed.versions


def test_columns_that_a_manifest_lacks_keep_what_is_stored(shop: Shop, killed: State) -> None:
    told = {row[0]: row for row in killed.values(tables.PRODUCTS, "product_id", "title")}
    labels = killed.values(tables.LABELS, "product_id", "category_id")
    silent = shop.ingest(
        [["p1", "a.jpg"]], columns=["product_id", "image_uri"], accept_columns=True
    )
    assert told["p1"][1]
    assert {row[0]: row for row in silent.values(tables.PRODUCTS, "product_id", "title")} == told
    assert silent.values(tables.LABELS, "product_id", "category_id") == labels


def test_an_image_root_that_is_not_there_is_refused_and_unpublishes_nothing(shop: Shop) -> None:
    before = shop.rows_of(tables.PRODUCT_IMAGES)
    request = replace(shop.request(MANIFEST), images=str(shop.folder / "unmounted"))
    with pytest.raises(BadInputError, match="no folder"):
        ingest_catalogue(shop.warehouse, request, SETTINGS, shop.make_run("ingest"))
    assert shop.rows_of(tables.PRODUCT_IMAGES) == before


def test_a_manifest_of_a_header_alone_is_refused(shop: Shop) -> None:
    with pytest.raises(ManifestError, match="no rows"):
        shop.ingest([])

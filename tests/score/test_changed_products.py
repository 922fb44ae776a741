"""A night decides what changed since the last one, and leaves the rows of one that decides all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import functions as F
from tests.score.shop import NOW, SETTINGS, SPEC, OpenShop, Shop

from catalog_batch import tables
from catalog_batch.errors import GateRefusedError
from catalog_batch.score.fingerprint import Changes, changes_since_last
from catalog_batch.score.gate import NightFigures, count_night
from catalog_batch.score.images import score_images
from catalog_batch.score.pipeline import score_catalogue
from catalog_batch.score.selection import Scope

# No run of before had it, so that one with it decides all; no decision here turns on it.
DECIDES_ALL = SETTINGS.model_copy(update={"min_margin": 1e-9})


@pytest.fixture(scope="module")
def decided(
    open_shop: OpenShop,
    tmp_path_factory: pytest.TempPathFactory,
    make_jpeg: Callable[..., bytes],
) -> Shop:
    """Return a shop of which all was decided, to be copied; p4 has no image."""
    shop = open_shop(tmp_path_factory.mktemp("decided"))
    photos = [make_jpeg(number) for number in range(3)]
    shop.add_images(*photos)
    shop.add_links(*zip(("p1", "p2", "p3"), photos, strict=True))
    assert shop.score_and_log().measures["products_decided"] == 4
    return shop


@pytest.fixture
def shop(decided: Shop, tmp_path: Path) -> Shop:
    """Return a copy of it."""
    return decided.copy(tmp_path)


@contextmanager
def ingest(shop: Shop, run_id: str) -> Iterator[None]:
    with shop.warehouse.stamped(run_id=run_id, job="ingest"):
        yield


def restamped(shop: Shop, product_id: str, run_id: str) -> None:
    """Delist a product, as a full manifest does that lacks it."""
    row = shop.warehouse.read(tables.PRODUCTS).where(F.col("product_id") == product_id)
    gone = row.withColumn("delisted_at", F.lit(NOW)).withColumn("run_id", F.lit(run_id))
    shop.warehouse.upsert(gone.localCheckpoint(), tables.PRODUCTS)


def test_a_night_decides_what_anything_happened_to_as_one_that_decides_all(
    shop: Shop, make_jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = list[NightFigures]()

    def count(*args: Any) -> NightFigures:
        counted.append(count_night(*args))
        return counted[-1]

    monkeypatch.setattr("catalog_batch.score.checks.count_night", count)
    before = shop.rows(tables.PRODUCT_PREDICTIONS, "product_id")
    with ingest(shop, "night-1"):
        photo = make_jpeg(7)
        shop.add_images(photo)
        shop.add_links(("p1", photo), run_id="night-1")
        shop.add_products("p5", run_id="night-1")
        restamped(shop, "p3", "night-1")

    night = shop.score()

    assert night.run.measures["products_decided"] == 2  # p1 and p5: p3 keeps what it had
    assert night.summary.products_changed == 2
    assert night.products["p1"]["image_count"] == 2
    assert night.products["p5"]["reason"] == "no_usable_image"
    assert {p: night.products[p] for p in ("p2", "p3", "p4")} == {
        p: before[p] for p in ("p2", "p3", "p4")
    }
    whole = shop.score(DECIDES_ALL)
    assert whole.run.measures["products_decided"] == 4
    assert whole.summary.products_changed == 0
    # The shares of the gate are of all products in either: all but p3.
    of_night, of_whole = counted
    assert (of_night.whole.products, of_night.whole.abstained) == (4, 2)
    assert (of_whole.whole.products, of_whole.whole.abstained) == (4, 2)
    # p4 and p5 have no image.
    assert (of_night.whole.compared, of_night.made.products, of_night.made.compared) == (2, 2, 1)


def test_a_narrowed_run_too_decides_what_changed_alone(
    shop: Shop, make_jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ingest(shop, "night-1"):
        photo = make_jpeg(9)
        shop.add_images(photo)
        shop.add_links(("p1", photo), run_id="night-1")
    with monkeypatch.context() as patch:
        patch.setattr("catalog_batch.score.products.pass_gate", refuse)
        with pytest.raises(GateRefusedError):
            shop.score()
    counted = list[NightFigures]()

    def count(*args: Any) -> NightFigures:
        counted.append(count_night(*args))
        return counted[-1]

    monkeypatch.setattr("catalog_batch.score.checks.count_night", count)
    # What was refused is held to the same bounds by whatever run publishes it.
    again = shop.score(scope=Scope(failed=True))
    assert again.run.measures["products_decided"] == 1
    assert (counted[-1].made.products, counted[-1].whole.products) == (1, 4)


def refuse(*_: object) -> None:
    raise GateRefusedError("Too much would change.")


def test_an_image_that_a_killed_run_had_scored_decides_its_product(
    shop: Shop, make_jpeg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = make_jpeg(8)
    with ingest(shop, "night-1"):
        shop.add_images(photo)
        shop.add_links(("p4", photo), run_id="night-1")
    with monkeypatch.context() as patch:
        patch.setattr("catalog_batch.score.pipeline.decide_products", killed)
        run = shop.make_run("score")
        with pytest.raises(KeyboardInterrupt):
            score_catalogue(shop.warehouse, shop.model, SPEC, SETTINGS, run)
    # What it said of images stays, so both its row and its commit tell of which table.
    stamp = shop.warehouse.last_user_metadata(tables.IMAGE_PREDICTIONS)
    assert run.table_versions["images"] == shop.warehouse.version(tables.IMAGES)
    assert stamp["images_version"] == str(run.table_versions["images"])
    night = shop.score()
    assert night.summary.images_scored == 0
    assert night.run.measures["products_decided"] == 1
    assert night.products["p4"]["image_count"] == 1


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_ingested_meanwhile_is_decided_by_the_next_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = shop.warehouse.version(tables.PRODUCTS)

    def followed_by_an_ingest(*args: Any) -> tuple[int, int, int]:
        counts = score_images(*args)
        with ingest(shop, "beside"):
            shop.add_products("p7", run_id="beside")
        return counts

    with monkeypatch.context() as patch:
        patch.setattr("catalog_batch.score.pipeline.score_images", followed_by_an_ingest)
        run = shop.score_and_log()
    assert "p7" not in shop.rows(tables.PRODUCT_PREDICTIONS, "product_id")
    assert run.table_versions["products"] == read
    night = shop.score()
    assert night.products["p7"]["reason"] == "no_usable_image"
    assert night.run.table_versions["products"] == read + 1


def test_all_is_decided_where_the_log_does_not_tell_what_changed(shop: Shop) -> None:
    root = shop.warehouse.root

    def changes(**different: object) -> Changes | None:
        settings = SETTINGS.model_copy(update=different)
        return changes_since_last(root, "score", shop.model, settings)

    nothing = Changes(frozenset())
    assert changes() == nothing
    assert changes(min_confidence=0.9) is None
    other = shop.register(seed=5)
    assert changes_since_last(root, "score", other, SETTINGS) is None

    DeltaTable.forPath(
        shop.warehouse.spark, shop.warehouse.path(tables.PRODUCT_PREDICTIONS)
    ).optimize().executeCompaction()
    with ingest(shop, "night-1"):
        shop.add_products("p6", run_id="night-1")
    assert changes() == Changes(frozenset({"night-1"}))

    shop.warehouse.create(tables.TAXONOMY_CHANGES)
    assert changes() is None


def test_a_link_that_is_gone_decides_its_product_while_its_version_can_be_read(shop: Shop) -> None:
    links = shop.warehouse.read(tables.PRODUCT_IMAGES)
    before = shop.warehouse.version(tables.PRODUCT_IMAGES)
    then = links.inputFiles()
    with ingest(shop, "night-1"):
        assert shop.warehouse.delete(links.where("product_id = 'p1'"), tables.PRODUCT_IMAGES) == 1
    root = shop.warehouse.root
    found = changes_since_last(root, "score", shop.model, SETTINGS)
    assert found == Changes(frozenset({"night-1"}), links_before=before)
    night = shop.score()
    assert night.run.measures["products_decided"] == 1
    assert night.products["p1"]["reason"] == "no_usable_image"
    # As after a VACUUM.
    now = {*shop.warehouse.read(tables.PRODUCT_IMAGES).inputFiles()}
    for file in {*then} - now:
        Path(file.removeprefix("file:")).unlink()
    assert changes_since_last(root, "score", shop.model, SETTINGS) is None


def test_a_link_that_came_and_went_since_the_last_whole_night_decides_its_product(
    shop: Shop, make_jpeg: Callable[..., bytes]
) -> None:
    photo = make_jpeg(9)
    with ingest(shop, "day-1"):
        shop.add_images(photo)
        shop.add_links(("p4", photo), run_id="day-1")
    narrowed = shop.score(scope=Scope(products=("p4",)))
    assert narrowed.products["p4"]["image_count"] == 1
    links = shop.warehouse.read(tables.PRODUCT_IMAGES)
    with ingest(shop, "day-2"):
        shop.warehouse.delete(links.where("product_id = 'p4'"), tables.PRODUCT_IMAGES)
    night = shop.score()
    assert night.run.measures["products_decided"] == 1
    assert night.products["p4"]["reason"] == "no_usable_image"


@pytest.mark.parametrize("table", [tables.PRODUCTS, tables.IMAGE_PREDICTIONS])
def test_all_is_decided_after_other_rows_were_deleted(shop: Shop, table: tables.Table) -> None:
    with ingest(shop, "night-1"):
        assert shop.warehouse.delete(shop.warehouse.read(table).limit(1), table) == 1
    assert changes_since_last(shop.warehouse.root, "score", shop.model, SETTINGS) is None


def test_back_at_the_model_before_all_that_the_other_decided_is_decided_again(shop: Shop) -> None:
    before = shop.rows(tables.PRODUCT_PREDICTIONS, "product_id")
    other = shop.register(seed=5)
    assert {row["model_version"] for row in shop.score(model=other).products.values()} == {2}
    back = shop.score()
    assert back.run.measures["products_decided"] == 4
    for product, row in before.items():
        assert back.products[product]["model_version"] == 1
        assert back.products[product]["top_k"] == row["top_k"]


def test_what_a_run_of_other_settings_published_is_decided_again(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    other = SETTINGS.model_copy(update={"min_confidence": 1.0})
    narrowed = shop.score(other, scope=Scope(products=("p1", "p4")))
    assert narrowed.products["p1"]["decision"] == "abstained"
    assert "None of 2 products gets a category" in caplog.text
    night = shop.score()
    # p4 has no image and kept its row.
    assert night.run.measures["products_decided"] == 1
    assert night.products["p1"]["decision"] == "accepted"
    assert night.products["p2"]["run_id"] != night.run.run_id


def test_all_is_decided_after_somebody_changed_what_is_published(shop: Shop) -> None:
    published = shop.warehouse.read(tables.PRODUCT_PREDICTIONS).where("product_id = 'p1'")
    with ingest(shop, "migration"):
        shop.warehouse.upsert(
            published.withColumn("category_path", F.lit("Elsewhere")).localCheckpoint(),
            tables.PRODUCT_PREDICTIONS,
        )
    night = shop.score()
    assert night.run.measures["products_decided"] == 4
    assert night.products["p1"]["category_path"] != "Elsewhere"

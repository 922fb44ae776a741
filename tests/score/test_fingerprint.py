"""A night like the last one is known without Spark; one that differs in anything is not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from delta.tables import DeltaTable
from tests.score.shop import NOW, SETTINGS, OpenShop, Shop

from catalog_batch import tables
from catalog_batch.runs import RUN_LOG
from catalog_batch.score.fingerprint import is_done
from catalog_batch.score.selection import Scope


@pytest.fixture(scope="module")
def shop(
    open_shop: OpenShop,
    tmp_path_factory: pytest.TempPathFactory,
    make_jpeg: Callable[..., bytes],
) -> Shop:
    shop = open_shop(tmp_path_factory.mktemp("shop"))
    shop.add_images(make_jpeg(0), make_jpeg(1))
    shop.add_links(("p1", make_jpeg(0)), ("p2", make_jpeg(1)))
    return shop


def done(shop: Shop, **changes: object) -> bool:
    settings = SETTINGS.model_copy(update=changes)
    return is_done(shop.warehouse.root, "score", shop.model, settings)


def test_a_night_is_done_once_all_of_it_was_scored_and_as_long_as_nothing_changes(
    shop: Shop, make_jpeg: Callable[..., bytes]
) -> None:
    assert not done(shop)
    assert shop.score_and_log(scope=Scope(max_images=1)).made_of is None
    assert not done(shop)
    assert shop.score_and_log(scope=Scope(products=("p1", "p2"))).made_of is None
    assert not done(shop)
    shop.score_and_log()
    assert done(shop)
    assert not done(shop, min_confidence=0.9)
    assert not is_done(shop.warehouse.root, "score", shop.register(seed=5), SETTINGS)

    shop.add_images(make_jpeg(2), at=NOW)
    assert not done(shop)
    shop.score_and_log()
    assert done(shop)

    # Table care leaves the rows as they are, and the bounds what has passed them.
    images = shop.warehouse.path(tables.IMAGES)
    version = shop.warehouse.version(tables.IMAGES)
    DeltaTable.forPath(shop.warehouse.spark, images).optimize().executeCompaction()
    assert shop.warehouse.version(tables.IMAGES) == version + 1
    assert done(shop)
    assert done(shop, max_drift=1.0, batch_size=7)

    gone = Path(shop.warehouse.path(tables.IMAGE_PREDICTIONS))
    gone.rename(gone.with_name("elsewhere"))
    assert not done(shop)
    gone.with_name("elsewhere").rename(gone)
    assert done(shop)

    # What is published was changed by somebody else.
    shop.warehouse.append(
        shop.warehouse.read(tables.PRODUCT_PREDICTIONS).limit(1), tables.PRODUCT_PREDICTIONS
    )
    assert not done(shop)


def test_a_log_of_an_earlier_release_says_nothing(tmp_path: Path, shop: Shop) -> None:
    assert not is_done(str(tmp_path), "score", shop.model, SETTINGS)
    old = shop.warehouse.spark.range(1).selectExpr("'score' AS job")
    old.write.format("delta").save(str(tmp_path / RUN_LOG))
    assert not is_done(str(tmp_path), "score", shop.model, SETTINGS)

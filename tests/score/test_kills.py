"""A scoring that is killed at any point is completed by the next run, as if nothing had been."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from tests.score.shop import SETTINGS, UNDECODABLE, OpenShop, Shop

from catalog_batch import tables
from catalog_batch.errors import ConcurrentWriteError
from catalog_batch.runs import Status
from catalog_batch.score import images, pipeline, products
from catalog_batch.score.pipeline import EVERYTHING
from catalog_batch.score.selection import Scope
from catalog_batch.warehouse import Warehouse

POINTS = {
    "after the images were predicted": (images, "check_calls"),
    "after the predictions were merged": (pipeline, "decide_products"),
    "after the products were decided": (products, "check_decisions"),
    "before the decisions are merged": (Warehouse, "upsert"),
    "after the decisions were merged": (pipeline, "count_decisions"),
}
OWN = {"run_id", "scored_at", "predicted_at"}
KEEPING = SETTINGS.model_copy(update={"keep_embeddings": True})
PUBLISHED = (tables.IMAGE_EMBEDDINGS, tables.IMAGE_PREDICTIONS, tables.PRODUCT_PREDICTIONS)
"""The tables of a run, in the order in which it writes them."""

SCOPES = {"what is new": EVERYTHING, "all again": Scope(rescore=True)}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing that catches errors sees it."""


@pytest.fixture(scope="module")
def fresh(
    open_shop: OpenShop,
    tmp_path_factory: pytest.TempPathFactory,
    make_jpeg: Callable[..., bytes],
) -> Shop:
    """Return a shop that was never scored, to be copied."""
    shop = open_shop(tmp_path_factory.mktemp("fresh"))
    photos = [make_jpeg(0), make_jpeg(1), UNDECODABLE]
    shop.add_images(*photos)
    shop.add_links(*zip(("p1", "p2", "p3"), photos, strict=True))
    return shop


def content(shop: Shop) -> list[dict[str, Any]]:
    rows = [
        *shop.rows(tables.IMAGE_PREDICTIONS, "image_id").values(),
        *shop.rows(tables.PRODUCT_PREDICTIONS, "product_id").values(),
    ]
    if shop.warehouse.exists(tables.IMAGE_EMBEDDINGS):
        rows += shop.rows(tables.IMAGE_EMBEDDINGS, "image_id").values()
    return sorted(({k: v for k, v in row.items() if k not in OWN} for row in rows), key=repr)


@pytest.fixture(scope="module")
def undisturbed(fresh: Shop, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    shop = fresh.copy(tmp_path_factory.mktemp("undisturbed"))
    shop.score()
    return content(shop)


@pytest.mark.parametrize("point", POINTS)
def test_a_run_after_a_kill_leaves_what_an_undisturbed_one_does(
    fresh: Shop,
    undisturbed: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    def kill(*_: Any, **__: Any) -> None:
        raise KilledError

    shop = fresh.copy(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*POINTS[point], kill)
        patch.setattr(Warehouse, "_remove", lambda *_: None)
        with pytest.raises(KilledError):
            shop.score()
    staging = Path(shop.warehouse.root) / "_staging"
    assert list(staging.iterdir())

    again = shop.score()
    assert content(shop) == undisturbed
    expected = Status.NOTHING_TO_DO if point.startswith("after the decisions") else Status.PUBLISHED
    assert again.run.status is expected
    assert list(staging.iterdir()) == []


@pytest.fixture(scope="module")
def second_night(
    fresh: Shop, tmp_path_factory: pytest.TempPathFactory, make_jpeg: Callable[..., bytes]
) -> Shop:
    """Return a shop with new images, one of them of a product that has a decision."""
    shop = fresh.copy(tmp_path_factory.mktemp("second_night"))
    shop.score_and_log(KEEPING)
    photos = [make_jpeg(2), make_jpeg(3)]
    shop.add_images(*photos)
    shop.add_links(*zip(("p1", "p4"), photos, strict=True))
    return shop


@pytest.fixture(scope="module", params=SCOPES.values(), ids=SCOPES)
def scope(request: pytest.FixtureRequest) -> Scope:
    found: Scope = request.param
    return found


@pytest.fixture(scope="module")
def second_night_undisturbed(
    second_night: Shop, scope: Scope, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    # In other batches the last digits of an answer are others: of each scope its own.
    shop = second_night.copy(tmp_path_factory.mktemp("second_night_undisturbed"))
    shop.score(KEEPING, scope=scope)
    return content(shop)


@pytest.mark.parametrize("table", PUBLISHED, ids=lambda table: table.name)
def test_a_second_night_is_completed_after_a_kill_before_any_of_its_tables_is_written(
    second_night: Shop,
    second_night_undisturbed: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: tables.Table,
    scope: Scope,
) -> None:
    shop = second_night.copy(tmp_path)
    before = {each.name: shop.warehouse.version(each) for each in PUBLISHED}

    def killed_before(write: Callable[..., int]) -> Callable[..., int]:
        def wrapper(
            warehouse: Warehouse, frame: DataFrame, target: tables.Table, **options: Any
        ) -> int:
            if target == table:
                raise KilledError
            return write(warehouse, frame, target, **options)

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("insert_new", "upsert"):
            patch.setattr(Warehouse, name, killed_before(getattr(Warehouse, name)))
        with pytest.raises(KilledError):
            shop.score(KEEPING, scope=scope)
    written = [each for each in PUBLISHED if shop.warehouse.version(each) > before[each.name]]
    assert written == list(PUBLISHED[: PUBLISHED.index(table)])

    assert shop.score(KEEPING, scope=scope).run.status is Status.PUBLISHED
    assert content(shop) == second_night_undisturbed


def test_another_run_that_writes_images_at_once_is_noticed_and_the_next_run_completes(
    fresh: Shop,
    undisturbed: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock is of one machine; on another a run may have begun all the same."""
    shop = fresh.copy(tmp_path)
    insert_new = Warehouse.insert_new

    def followed_by_another(
        warehouse: Warehouse, frame: DataFrame, table: tables.Table, **options: Any
    ) -> int:
        written = insert_new(warehouse, frame, table, **options)
        with warehouse.stamped(run_id="theirs"):
            warehouse.spark.sql(
                f"ALTER TABLE delta.`{warehouse.path(table)}` SET TBLPROPERTIES (of = 'theirs')"
            )
        return written

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "insert_new", followed_by_another)
        with pytest.raises(ConcurrentWriteError, match=r"'image_predictions'.* of run 'theirs'"):
            shop.score()
    assert shop.score().run.status is Status.PUBLISHED
    assert content(shop) == undisturbed


def test_another_run_that_scores_the_same_images_meanwhile_is_noticed(
    fresh: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two MERGEs of the same images the later one inserts none, and does not fail."""
    shop = fresh.copy(tmp_path)
    check = images.check_calls

    def overtaken(staged: DataFrame, *others: Any) -> int:
        theirs = staged.withColumn("run_id", F.lit("theirs"))
        with shop.warehouse.stamped(run_id="theirs"):
            shop.warehouse.insert_new(theirs, tables.IMAGE_PREDICTIONS)
        return check(staged, *others)

    monkeypatch.setattr(images, "check_calls", overtaken)
    with pytest.raises(ConcurrentWriteError, match=r"'image_predictions'.* of run 'theirs'"):
        shop.score()

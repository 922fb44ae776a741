"""What a run scores and decides when it is not to do all at once."""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from tests.score.shop import NOW, SETTINGS, UNDECODABLE, OpenShop, Shop, State

from catalog_batch import tables
from catalog_batch.errors import BadInputError
from catalog_batch.runs import Status
from catalog_batch.score import images
from catalog_batch.score.pipeline import _count_unknown
from catalog_batch.score.selection import (
    Scope,
    contents_of,
    count_by_day,
    first_of,
    read_product_ids,
    require_shadow,
    select_images,
)
from catalog_batch.spark import configured


def name(content: bytes) -> str:
    return sha256(content).hexdigest()


def check_same_answers(found: State, expected: State) -> None:
    """Compare what the model says of images, but for how the sums of other batches are rounded."""
    assert found.images.keys() == expected.images.keys()
    for image, row in expected.images.items():
        answers = [
            {guess["category_id"]: guess["confidence"] for guess in each["top_k"]}
            for each in (found.images[image], row)
        ]
        assert answers[0] == pytest.approx(answers[1], abs=1e-5)


@pytest.fixture(scope="module")
def photos(make_jpeg: Callable[..., bytes]) -> list[bytes]:
    return [make_jpeg(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def shop(
    open_shop: OpenShop, tmp_path_factory: pytest.TempPathFactory, photos: list[bytes]
) -> Shop:
    """Return a shop whose images came on three days: p1 has the oldest and the newest."""
    shop = open_shop(tmp_path_factory.mktemp("shop"))
    for day, content in enumerate((photos[0], photos[1], UNDECODABLE, photos[2])):
        shop.add_images(content, at=NOW + timedelta(days=day))
    shop.add_links(("p1", photos[0]), ("p1", photos[2]), ("p2", photos[1]), ("p3", UNDECODABLE))
    return shop


@pytest.fixture(scope="module")
def slices(shop: Shop) -> list[State]:
    """Score two images at a time, until nothing is left, and once more."""
    return [shop.score(scope=Scope(max_images=2)) for _ in range(3)]


def test_the_newest_images_come_first_and_the_next_run_goes_on(
    slices: list[State], photos: list[bytes]
) -> None:
    first, second, _ = slices
    assert set(first.images) == {name(photos[2]), name(UNDECODABLE)}
    assert set(second.images) - set(first.images) == {name(photos[0]), name(photos[1])}
    counts = [(each.summary.images_scored, each.summary.images_left) for each in slices]
    assert counts == [(2, 2), (2, 0), (0, 0)]
    assert [each.run.status for each in slices] == [
        Status.PUBLISHED,
        Status.PUBLISHED,
        Status.NOTHING_TO_DO,
    ]


def test_a_product_is_decided_once_all_its_images_are_scored(slices: list[State]) -> None:
    first, second, third = slices
    assert [each.run.measures["products_waiting"] for each in slices] == [2, 0, 0]
    # p1 shows an older image, which is not scored yet; p4 shows none.
    assert {product: row["reason"] for product, row in first.products.items()} == {
        "p3": "no_usable_image",
        "p4": "no_usable_image",
    }
    assert second.products["p1"]["image_count"] == 2
    assert set(second.products) == {"p1", "p2", "p3", "p4"}
    assert third.products == second.products


@pytest.fixture(scope="module")
def champion(shop: Shop, slices: list[State]) -> list[State]:
    """Let another version score the same in slices of three and of one."""
    model = shop.register(seed=1)
    return [shop.score(model=model, scope=Scope(max_images=3)) for _ in range(2)]


def test_a_new_model_goes_through_in_slices_while_old_predictions_stay(
    champion: list[State],
) -> None:
    versions = [
        {product: row["model_version"] for product, row in each.products.items()}
        for each in champion
    ]
    # Newest first: p1's newest, p3's and p2's, then p1's oldest.
    assert versions == [
        {"p1": 1, "p2": 2, "p3": 2, "p4": 2},
        {"p1": 2, "p2": 2, "p3": 2, "p4": 2},
    ]
    assert [each.summary.images_left for each in champion] == [1, 0]


@pytest.fixture(scope="module")
def narrowed(shop: Shop, champion: list[State]) -> dict[str, State]:
    model = shop.register(seed=2)
    return {
        "products": shop.score(model=model, scope=Scope(products=("p2", "p9"))),
        "since": shop.score(model=model, scope=Scope(since=NOW + timedelta(days=3))),
    }


def test_of_named_products_only_those_are_scored_and_decided(
    narrowed: dict[str, State], photos: list[bytes]
) -> None:
    state = narrowed["products"]
    of_run = {key for key, row in state.images.items() if row["run_id"] == state.run.run_id}
    assert of_run == {name(photos[1])}
    changed = {key for key, row in state.products.items() if row["model_version"] == 3}
    assert changed == {"p2"}


def test_images_that_are_older_are_left_alone(
    narrowed: dict[str, State], photos: list[bytes]
) -> None:
    state = narrowed["since"]
    of_run = {key for key, row in state.images.items() if row["run_id"] == state.run.run_id}
    assert of_run == {name(photos[2])}
    assert state.products["p1"]["model_version"] == 2


def test_named_products_that_nobody_knows_are_told_of(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    assert _count_unknown(shop.warehouse, Scope()) == 0
    assert _count_unknown(shop.warehouse, Scope(products=("p1", "p2"))) == 0
    assert not caplog.records
    assert _count_unknown(shop.warehouse, Scope(products=("p1", "nobody", "none"))) == 2
    assert "2 of the named products are not known: 'nobody', 'none'" in caplog.text
    with pytest.raises(BadInputError, match=r"None of the 1 named products .* such as 'nobody'"):
        shop.score(scope=Scope(products=("nobody",)))


@pytest.fixture(scope="module")
def rescored(shop: Shop, narrowed: dict[str, State]) -> list[State]:
    """Score again what the first version has scored, two images at a time."""
    return [shop.score(scope=Scope(rescore=True, max_images=2)) for _ in range(2)]


def test_images_are_scored_again_each_once_in_slices(rescored: list[State]) -> None:
    runs = [each.run.run_id for each in rescored]
    by_run = [
        {key for key, row in rescored[1].images.items() if row["run_id"] == run} for run in runs
    ]
    assert [len(images) for images in by_run] == [2, 2]
    assert [each.summary.images_scored for each in rescored] == [2, 2]


def test_what_could_not_be_scored_is_scored_again_when_that_is_asked_for(
    open_shop: OpenShop, tmp_path: Path, photos: list[bytes]
) -> None:
    shop = open_shop(tmp_path)
    shop.add_images(*photos[:3], UNDECODABLE)
    shop.add_links(("p1", photos[0]), ("p2", photos[1]), ("p3", photos[2]), ("p3", UNDECODABLE))
    as_they_are = shop.score()
    # As an executor leaves it whose Pillow is broken.
    table = f"delta.`{shop.warehouse.path(tables.IMAGE_PREDICTIONS)}`"
    shop.warehouse.spark.sql(
        f"UPDATE {table} SET failure = 'undecodable', top_k = array(), others = array(), "
        f"margin = NULL, energy = NULL WHERE image_id = '{name(photos[1])}'"
    )
    broken = shop.score(SETTINGS.model_copy(update={"min_margin": 1e-9}))
    assert broken.products["p2"]["reason"] == "no_usable_image"
    assert broken.summary.images_scored == 0

    # What fails again is no reason to refuse the others.
    strict = SETTINGS.model_copy(update={"max_failed_share": 0.0, "min_gate_products": 1})
    again, twice = [
        shop.score(strict.model_copy(update={"max_drift": 1.0}), scope=Scope(failed=True))
        for _ in range(2)
    ]
    assert [state.summary.images_scored for state in (again, twice)] == [2, 1]
    assert [state.summary.images_failed for state in (again, twice)] == [1, 1]
    of_runs = [
        {key for key, row in state.images.items() if row["run_id"] == state.run.run_id}
        for state in (again, twice)
    ]
    assert of_runs == [{name(photos[1]), name(UNDECODABLE)}, {name(UNDECODABLE)}]
    for state in (again, twice):
        check_same_answers(state, as_they_are)
        assert state.products["p2"]["category_id"] == as_they_are.products["p2"]["category_id"]


def test_an_image_that_was_stored_again_on_another_day_has_one_prediction(
    open_shop: OpenShop, tmp_path: Path, photos: list[bytes]
) -> None:
    shop = open_shop(tmp_path)
    shop.add_images(photos[0])
    shop.add_links(("p1", photos[0]))
    row = shop.score().images[name(photos[0])]
    assert row["ingested_at"] == NOW
    images = shop.warehouse.read(tables.IMAGES).localCheckpoint()
    later = images.withColumn("ingested_at", F.lit(NOW + timedelta(days=1)))
    shop.warehouse.overwrite(later, tables.IMAGES)
    again = shop.score(scope=Scope(rescore=True))  # which refuses an id that is there twice
    assert again.images[name(photos[0])]["ingested_at"] == NOW + timedelta(days=1)


def test_images_too_many_to_send_their_ids_are_joined_in_small_tasks_and_answered_alike(
    open_shop: OpenShop, tmp_path: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop(tmp_path)
    shop.add_images(*photos)
    shop.add_links(*((f"p{place}", photo) for place, photo in enumerate(photos)))
    beside = shop.copy(tmp_path / "beside")
    given = dict[str, object]()

    def noting(session: SparkSession, settings: dict[str, object]) -> AbstractContextManager[None]:
        given.update(settings)
        return configured(session, settings)

    monkeypatch.setattr(images, "configured", noting)
    monkeypatch.setattr(images, "SHUFFLED_PER_TASK", 2)
    partitions = "spark.sql.shuffle.partitions"
    sent = shop.score()
    assert partitions not in given
    monkeypatch.setattr(images, "MAX_SENT_IDS", 5)
    monkeypatch.setattr(images, "DEALT_BYTES_PER_CORE", 0)
    spark = beside.warehouse.spark
    with configured(spark, {partitions: 2, "spark.sql.autoBroadcastJoinThreshold": -1}):
        joined = beside.score()
        assert given[partitions] == 3
        assert spark.conf.get(partitions) == "2"
    with configured(spark, {partitions: 4}):
        beside.score(scope=Scope(rescore=True))
    assert given[partitions] == 4  # Never fewer than there would be.
    assert joined.summary == sent.summary
    check_same_answers(joined, sent)


@pytest.fixture(scope="module")
def shadowed(shop: Shop, rescored: list[State]) -> tuple[State, dict[str, dict[str, Any]]]:
    """Let another version score beside the published one; returns its decisions as well."""
    state = shop.score(model=shop.register(seed=3), scope=Scope(shadow=True))
    return state, shop.rows(tables.SHADOW_PREDICTIONS, "product_id")


def test_a_challenger_writes_beside_and_never_into_what_is_published(
    rescored: list[State], shadowed: tuple[State, dict[str, dict[str, Any]]]
) -> None:
    state, beside = shadowed
    assert state.products == rescored[1].products
    assert {row["model_version"] for row in beside.values()} == {4}
    assert set(beside) == {"p1", "p2", "p3", "p4"}
    assert state.summary.images_scored == 4
    assert sum(state.summary.decisions.values()) == 4


def test_a_view_shows_who_changes_and_which_way(
    shop: Shop, rescored: list[State], shadowed: tuple[State, dict[str, dict[str, Any]]]
) -> None:
    state, beside = shadowed
    shop.warehouse.create(*tables.ALL_TABLES)
    shop.warehouse.register()
    rows = shop.warehouse.spark.sql("SELECT * FROM challenger_changes").collect()
    pairs = Counter(
        (row["category_path"] or "(withheld)", beside[product]["category_path"] or "(withheld)")
        for product, row in state.products.items()
    )
    found = {(row["published_path"], row["shadow_path"]): row["products"] for row in rows}
    assert found == dict(pairs)
    assert {row["is_change"] for row in rows if row["published_path"] == row["shadow_path"]} == {
        False
    }
    # As of a product that the champion has not scored yet.
    published = shop.warehouse.path(tables.PRODUCT_PREDICTIONS)
    shop.warehouse.spark.sql(f"DELETE FROM delta.`{published}` WHERE product_id = 'p2'")
    [row] = shop.warehouse.spark.sql(
        "SELECT * FROM challenger_changes WHERE published_path = '(not decided)'"
    ).collect()
    assert (row["products"], row["is_change"]) == (1, True)
    assert row["shadow_path"] == beside["p2"]["category_path"]


def test_to_score_again_begins_with_the_newest_never_scored_then_goes_by_age(
    spark: SparkSession,
) -> None:
    days = {"old": 0, "new": 2, "newer": 3, "scored": 4, "scored before": 1}
    images = spark.createDataFrame(
        [(image, NOW + timedelta(days=day)) for image, day in days.items()],
        "image_id string, ingested_at timestamp",
    )
    scored = spark.createDataFrame(
        [("scored", NOW + timedelta(days=9)), ("scored before", NOW + timedelta(days=8))],
        "image_id string, scored_at timestamp",
    )
    wanted = select_images(images, images.select("image_id"), scored, Scope(rescore=True))
    order = [{row["image_id"] for row in first_of(wanted, most).collect()} for most in range(1, 5)]
    assert order == [
        {"newer"},
        {"newer", "new"},
        {"newer", "new", "old"},
        {"newer", "new", "old", "scored before"},
    ]


def test_of_failures_those_tried_longest_ago_come_first(spark: SparkSession) -> None:
    images = spark.createDataFrame(
        [(image, NOW) for image in ("lately", "long ago", "good", "new")],
        "image_id string, ingested_at timestamp",
    )
    scored = spark.createDataFrame(
        [
            ("lately", NOW + timedelta(days=3), "undecodable"),
            ("long ago", NOW + timedelta(days=1), "not_finite"),
            ("good", NOW, None),
        ],
        "image_id string, scored_at timestamp, failure string",
    )
    wanted = select_images(images, images.select("image_id"), scored, Scope(failed=True))
    order = [{row["image_id"] for row in first_of(wanted, most).collect()} for most in range(1, 4)]
    assert order == [{"long ago"}, {"long ago", "lately"}, {"long ago", "lately"}]


def test_a_challenger_is_not_published() -> None:
    with pytest.raises(BadInputError, match=r"'catalogue@challenger' was not promoted.*--shadow"):
        require_shadow("catalogue@challenger", Scope())
    require_shadow("catalogue@challenger", Scope(shadow=True))
    require_shadow("catalogue@champion", Scope())


def test_a_list_of_products_is_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "products.txt"
    path.write_text("\ufeffp2\n\n  p1 \r\np2\n", encoding="utf-8")
    assert read_product_ids(path) == ("p2", "p1")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_list_of_no_products_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "products.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"products.txt.*one product id a line"):
        read_product_ids(path)
    with pytest.raises(BadInputError, match=r"missing.txt' cannot be read"):
        read_product_ids(tmp_path / "missing.txt")


def test_content_is_read_from_files_with_images_as_young_as_those_wanted(
    spark: SparkSession, open_shop: OpenShop, tmp_path: Path, photos: list[bytes]
) -> None:
    shop = open_shop(tmp_path)
    folder = Path(shop.warehouse.path(tables.IMAGES))
    shop.add_images(photos[0], photos[1])
    old_files = list(folder.glob("*.parquet"))
    shop.add_images(photos[2], photos[3], at=NOW + timedelta(days=1, microseconds=1))
    images = shop.warehouse.read(tables.IMAGES)
    newest = images.where("ingested_at > '2026-01-02'").select("image_id", "ingested_at").collect()
    for path in old_files:
        path.write_bytes(b"not read")

    wanted = spark.createDataFrame([row for row in newest if row["image_id"] == name(photos[2])])
    found = contents_of(images, wanted, count_by_day(wanted)).collect()

    assert [(row["image_id"], row["content"]) for row in found] == [(name(photos[2]), photos[2])]
    old = wanted.withColumn("ingested_at", F.lit(NOW))
    with pytest.raises(Exception, match=r"part-\d+.*parquet"):
        contents_of(images, old, count_by_day(old)).collect()

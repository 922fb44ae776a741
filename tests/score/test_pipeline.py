"""A tiny real model over one warehouse; each test looks at what one of the runs left behind."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql.pandas.functions import pandas_udf
from rich.console import Console
from tests.score.shop import SETTINGS, SPEC, UNDECODABLE, OpenShop, Shop, State

from catalog_batch import progress, tables
from catalog_batch.errors import (
    ConcurrentWriteError,
    GateRefusedError,
    MissingTableError,
    ReconciliationError,
)
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Prediction, Predictor
from catalog_batch.runs import Run, Status
from catalog_batch.score import images, pipeline
from catalog_batch.score.checks import (
    check_calls,
    check_decisions,
    known_categories,
    pass_failures,
)
from catalog_batch.score.images import rows_per_arrow_batch
from catalog_batch.score.pipeline import score_catalogue
from catalog_batch.score.udf import PREDICTION_DDL, Predict
from catalog_batch.spark_progress import AnsweredRows
from catalog_batch.taxonomy import category_id
from catalog_batch.warehouse import Warehouse

NEVER = dict.fromkeys(("c0", "c1", "c2"), 2.0)
UNSURE = replace(SPEC, thresholds=NEVER, node_thresholds={category_id("Shop"): 0.99})
"""Of a model that is never sure of a class, and always of the department."""

ANSWER_DDL = "image_id string, failure string, answered_at double"


@pytest.fixture(scope="module")
def photos(make_jpeg: Callable[..., bytes]) -> list[bytes]:
    return [make_jpeg(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def shop(
    open_shop: OpenShop, tmp_path_factory: pytest.TempPathFactory, photos: list[bytes]
) -> Shop:
    shop = open_shop(tmp_path_factory.mktemp("shop"))
    shop.add_images(*photos[:4], UNDECODABLE)
    one, two, three = photos[:3]
    shop.add_links(
        ("p1", one), ("p1", two), ("p1", UNDECODABLE), ("p2", three), ("p3", UNDECODABLE)
    )
    return shop


@pytest.fixture(scope="module")
def first(shop: Shop) -> State:
    return shop.score()


@pytest.fixture(scope="module")
def again(shop: Shop, first: State) -> State:
    return shop.score()


@pytest.fixture(scope="module")
def grown(shop: Shop, again: State, photos: list[bytes]) -> State:
    """Add an image, shown by the product that had none, and keep its embedding."""
    shop.add_images(photos[4])
    shop.add_links(("p4", photos[4]))
    return shop.score(SETTINGS.model_copy(update={"keep_embeddings": True}))


@pytest.fixture(scope="module")
def stricter(shop: Shop, grown: State) -> State:
    return shop.score(SETTINGS.model_copy(update={"min_confidence": 1.0}))


@pytest.fixture(scope="module")
def backed_off(shop: Shop, stricter: State) -> State:
    return shop.score(spec=UNSURE)


@pytest.fixture(scope="module")
def migrated(shop: Shop, backed_off: State) -> State:
    """Give the department another name in a newer tree, and score by the model of the old one."""
    shop.warehouse.create(tables.TAXONOMY_CHANGES)
    old, new = category_id("Shop"), category_id("Store")
    shop.add([(5, old, "Shop", new, ["Store"], "renamed", "m")], tables.TAXONOMY_CHANGES)
    return shop.score(spec=UNSURE)


@pytest.fixture(scope="module")
def delisted(shop: Shop, migrated: State) -> State:
    """Take a product out of the catalogue, with its image, and score as at first."""
    for table in (tables.PRODUCTS, tables.PRODUCT_IMAGES):
        shop.warehouse.spark.sql(
            f"UPDATE delta.`{shop.warehouse.path(table)}` SET delisted_at = now() "
            "WHERE product_id = 'p2'"
        )
    return shop.score()


def test_every_image_that_a_product_shows_is_scored_once(first: State, photos: list[bytes]) -> None:
    expected = {sha256(content).hexdigest() for content in [*photos[:3], UNDECODABLE]}
    assert set(first.images) == expected
    assert first.run.rows_in == len(expected)
    assert (first.summary.images_scored, first.summary.images_failed) == (4, 1)
    assert first.run.measures["published_seconds"] > first.run.measures["start_up_seconds"]
    assert first.run.status == Status.PUBLISHED


def test_an_undecodable_image_gets_a_reason_and_no_category(first: State) -> None:
    row = first.images[sha256(UNDECODABLE).hexdigest()]
    assert (row["top_k"], row["margin"], row["failure"]) == ([], None, "undecodable")
    assert (row["nodes"], row["energy"]) == ([], None)


def test_predictions_are_those_of_the_model_without_spark(
    shop: Shop, first: State, photos: list[bytes]
) -> None:
    predictor = Predictor(load_bundle(shop.model.bundle_folder), top_k=2)
    for content, expected in zip(photos[:3], predictor.predict(photos[:3]), strict=True):
        assert isinstance(expected, Prediction)
        row = first.images[sha256(content).hexdigest()]
        assert [guess["category_id"] for guess in row["top_k"]] == [c for c, _ in expected.top_k]
        found = [guess["confidence"] for guess in row["top_k"]]
        assert found == pytest.approx([share for _, share in expected.top_k], abs=1e-4)
        assert row["margin"] == pytest.approx(expected.margin, abs=1e-4)
        assert row["energy"] == pytest.approx(expected.energy, abs=1e-3)
        [department] = row["nodes"]
        assert department["category_id"] == category_id("Shop")
        assert department["confidence"] == pytest.approx(1.0)
        assert row["failure"] is None


def test_every_product_gets_one_decision(first: State) -> None:
    found = {
        product: (row["decision"], row["reason"], row["image_count"])
        for product, row in first.products.items()
    }
    assert found == {
        "p1": ("accepted", None, 2),
        "p2": ("accepted", None, 1),
        "p3": ("abstained", "no_usable_image", 0),
        "p4": ("abstained", "no_usable_image", 0),
    }
    assert first.summary.decisions == {"accepted": 2, "abstained": 2}
    assert first.run.rows_out == first.summary.products_changed == 4


def test_a_product_of_one_image_has_its_best_category(first: State, photos: list[bytes]) -> None:
    best = first.images[sha256(photos[2]).hexdigest()]["top_k"][0]
    product = first.products["p2"]
    assert product["category_id"] == product["best_category_id"] == best["category_id"]
    assert product["category_path"] == f"Shop/{best['category_id'][1]}"
    assert product["confidence"] == pytest.approx(best["confidence"])


def test_predictions_carry_their_lineage(shop: Shop, first: State) -> None:
    stamp = {"model_name": "catalogue", "model_version": 1, "run_id": first.run.run_id}
    when = first.run.started_at.replace(tzinfo=None)
    for row in first.images.values():
        assert stamp | {"scored_at": when} == {name: row[name] for name in [*stamp, "scored_at"]}
    lineage = {**stamp, "taxonomy_version": 4, "images_version": 1, "predicted_at": when}
    for row in first.products.values():
        assert {name: row[name] for name in lineage} == lineage
    assert first.run.table_versions == {
        "images": 1,
        "product_images": 1,
        "products": 1,
        "image_predictions": 1,
        "product_predictions": 1,
    }
    stamp = {"run_id": first.run.run_id, "job": "score"}
    stamp |= {f"{name}_version": "1" for name in ("images", "product_images", "products")}
    assert shop.warehouse.last_user_metadata(tables.IMAGE_PREDICTIONS) == stamp
    stamp["image_predictions_version"] = "1"
    assert shop.warehouse.last_user_metadata(tables.PRODUCT_PREDICTIONS) == stamp


def test_a_second_run_finds_nothing_to_do(first: State, again: State) -> None:
    assert again.run.status == Status.NOTHING_TO_DO
    assert again.versions == first.versions
    assert (again.images, again.products) == (first.images, first.products)
    assert again.summary.decisions == first.summary.decisions


def test_a_new_image_is_scored_alone(first: State, grown: State, photos: list[bytes]) -> None:
    assert grown.run.status == Status.PUBLISHED
    assert grown.run.rows_in == grown.summary.images_scored == 1
    new = sha256(photos[4]).hexdigest()
    assert grown.images.pop(new)["run_id"] == grown.run.run_id
    assert grown.images == first.images


def test_the_embedding_of_what_is_scored_is_kept(
    shop: Shop, grown: State, photos: list[bytes]
) -> None:
    bundle = load_bundle(shop.model.bundle_folder)
    [expected] = Predictor(bundle, keep_embeddings=True).predict(photos[4:])
    assert isinstance(expected, Prediction)
    [row] = shop.rows(tables.IMAGE_EMBEDDINGS, "image_id").values()
    assert row.pop("embedding") == pytest.approx(list(expected.embedding), abs=1e-4)
    assert len(expected.embedding) == 512
    assert row == {
        "image_id": sha256(photos[4]).hexdigest(),
        "model_name": "catalogue",
        "model_version": 1,
        "scored_at": grown.run.started_at.replace(tzinfo=None),
        "run_id": grown.run.run_id,
    }


def test_only_products_whose_decision_changed_are_written(first: State, grown: State) -> None:
    changed = {name for name, row in grown.products.items() if row != first.products[name]}
    assert changed == {"p4"}
    assert grown.summary.products_changed == 1
    assert grown.products["p4"]["decision"] == "accepted"
    assert grown.products["p4"]["images_version"] == 2


def test_another_threshold_changes_decisions_without_calling_the_model(
    grown: State, stricter: State
) -> None:
    assert stricter.summary.images_scored == 0
    assert stricter.versions[0] == grown.versions[0]
    reasons = {name: row["reason"] for name, row in stricter.products.items()}
    assert reasons == {
        "p1": "low_confidence",
        "p2": "low_confidence",
        "p3": "no_usable_image",
        "p4": "low_confidence",
    }
    assert {row["category_id"] for row in stricter.products.values()} == {None}
    best = {name: row["best_category_id"] for name, row in stricter.products.items()}
    assert best == {name: row["best_category_id"] for name, row in grown.products.items()}


def test_a_product_gets_the_category_above_when_no_class_is_sure(
    stricter: State, backed_off: State
) -> None:
    assert backed_off.summary.images_scored == 0
    assert backed_off.summary.decisions == {"abstained": 1, "backed_off": 3}
    row = backed_off.products["p2"]
    assert (row["decision"], row["reason"]) == ("backed_off", "low_confidence")
    assert (row["category_id"], row["category_path"]) == (category_id("Shop"), "Shop")
    assert row["confidence"] == pytest.approx(1.0)
    assert row["best_category_id"] == stricter.products["p2"]["best_category_id"]


def test_a_model_of_an_older_tree_decides_in_the_newest(backed_off: State, migrated: State) -> None:
    places = {
        (row["category_id"], row["category_path"], row["taxonomy_version"])
        for row in migrated.products.values()
        if row["decision"] == "backed_off"
    }
    assert places == {(category_id("Store"), "Store", 5)}
    assert migrated.summary.images_scored == 0
    assert migrated.summary.decisions == backed_off.summary.decisions


def test_a_decision_carries_the_guesses_it_was_made_of(first: State, photos: list[bytes]) -> None:
    of_image = first.images[sha256(photos[2]).hexdigest()]
    of_product = first.products["p2"]
    assert of_product["top_k"] == of_image["top_k"]
    assert of_product["margin"] == pytest.approx(of_image["margin"])
    assert first.products["p4"]["top_k"] == []


def test_a_night_that_moves_the_mix_too_far_is_refused_and_the_old_one_served(
    shop: Shop, backed_off: State, delisted: State
) -> None:
    strict = SETTINGS.model_copy(
        update={"max_drift": 0.1, "min_gate_products": 1, "min_confidence": 1.0}
    )
    with pytest.raises(GateRefusedError, match=r"would move by .*max_drift = 0.1") as refused:
        shop.score(strict)
    assert shop.rows(tables.PRODUCT_PREDICTIONS, "product_id") == delisted.products
    [kept] = (Path(shop.warehouse.root) / "_staging").glob("refused-*")
    assert f"parquet.`{kept}`" in str(refused.value)
    # The status line and run_log have no more of it than that.
    assert "catalog-batch score --set score.max_drift=1," in str(refused.value)[:500]
    shop.warehouse.register()
    query = str(refused.value).split("catalog-batch sql '")[1].split("'")[0]
    rows = shop.warehouse.spark.sql(query).collect()
    assert sum(row["products"] for row in rows) == 3
    assert {(row["would_be"], row["decision"]) for row in rows} == {(None, "abstained")}
    assert any(row["was"] for row in rows)
    shutil.rmtree(kept)


def test_many_failures_are_refused_for_they_would_be_for_good(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = [None, None, "undecodable", "not_finite", "undecodable"]
    staged = spark.createDataFrame([(each,) for each in reasons], "failure string")
    bounds = {"max_failed_share": 0.5, "min_gate_products": 5}
    told = r"3 of 5 images .*\(1 not_finite, 2 undecodable\).*max_failed_share is 0.5"
    with pytest.raises(GateRefusedError, match=told):
        pass_failures(staged, 3, 5, SETTINGS.model_copy(update=bounds))
    pass_failures(staged, 3, 5, SETTINGS.model_copy(update=bounds | {"max_failed_share": 0.6}))
    assert not caplog.records
    pass_failures(staged, 3, 5, SETTINGS.model_copy(update=bounds | {"min_gate_products": 6}))
    [warning] = caplog.messages
    assert warning.startswith("3 of 5 images could not be scored (1 not_finite, 2 undecodable)")
    assert "score --failed" in warning


def add_tree(warehouse: Warehouse, version: int, *category_ids: str) -> None:
    warehouse.create(tables.CATEGORIES)
    rows = [(version, each, None, each, each, 1) for each in category_ids]
    frame = warehouse.spark.createDataFrame(rows, tables.CATEGORIES.schema)
    warehouse.append(frame, tables.CATEGORIES)


def test_a_category_may_be_of_the_newest_tree_or_of_one_that_a_decision_is_of(
    spark: SparkSession, tmp_path: Path
) -> None:
    """A product of a split category is not decided anew in a night that decides another one."""
    warehouse = Warehouse(spark, str(tmp_path))
    rows = spark.range(1)
    decided, kept = (rows.selectExpr(f"{tree} AS taxonomy_version") for tree in (3, 2))
    assert known_categories(warehouse, decided, kept) == []
    for tree, category in enumerate(["withdrawn", "split", "pear", "newest"], start=1):
        add_tree(warehouse, tree, category, "stays")
    assert {*known_categories(warehouse, decided, kept)} == {"split", "pear", "newest", "stays"}
    assert {*known_categories(warehouse, decided, None)} == {"pear", "newest", "stays"}


def test_a_model_of_trees_that_the_warehouse_has_not_is_refused(
    open_shop: OpenShop, tmp_path: Path, photos: list[bytes]
) -> None:
    shop = open_shop(tmp_path)
    shop.add_images(photos[0])
    shop.add_links(("p1", photos[0]))
    add_tree(shop.warehouse, 1, "another")
    with pytest.raises(GateRefusedError, match="1 products would get a category outside"):
        shop.score()


@pytest.fixture
def unscored(open_shop: OpenShop, tmp_path: Path, photos: list[bytes]) -> Shop:
    """Return a shop with a product for each of the photos."""
    shop = open_shop(tmp_path)
    shop.add_images(*photos)
    shop.add_links(*((f"p{number}", photo) for number, photo in enumerate(photos)))
    return shop


def test_the_model_is_called_once_for_each_image(
    unscored: Shop, tmp_path: Path, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come back once each would not tell of a plan that asks twice."""
    calls = tmp_path / "calls"

    def noting(bundle_name: str, *how: int) -> Predict:
        @pandas_udf(PREDICTION_DDL)  # type: ignore[call-overload, untyped-decorator]
        def predict(contents: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
            from catalog_batch.score import worker

            def noted() -> Iterator[pd.Series]:
                for batch in contents:
                    with calls.open("a", encoding="utf-8") as file:
                        file.writelines(f"{sha256(each).hexdigest()}\n" for each in batch if each)
                    yield batch

            return worker.predict(noted(), worker.Asked(bundle_name, *how))

        return predict  # type: ignore[no-any-return]

    monkeypatch.setattr(pipeline, "prediction_udf", noting)
    assert unscored.score().summary.images_scored == len(photos)
    called = calls.read_text(encoding="utf-8").split()
    assert sorted(called) == sorted(sha256(photo).hexdigest() for photo in photos)


def test_a_terminal_is_told_how_many_images_have_an_answer(
    unscored: Shop, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[int]()

    class Recorded(AnsweredRows):
        def __call__(self) -> int:
            told.append(super().__call__())
            return told[-1]

    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(progress, "console", lambda: terminal)
    monkeypatch.setattr(images, "AnsweredRows", Recorded)
    assert unscored.score().summary.images_scored == len(photos)
    assert (told[0], told[-1]) == (0, len(photos))


def test_images_that_are_answered_once_each_pass_and_those_that_failed_are_counted(
    spark: SparkSession, make_run: Callable[[str], Run]
) -> None:
    run = make_run("score")
    start = run.started_at.timestamp()
    rows = [("a", None, start + 2.0), ("b", "undecodable", start + 1.5)]
    assert check_calls(spark.createDataFrame(rows, ANSWER_DDL), 2, run) == 1
    assert run.measures["start_up_seconds"] == 1.5


@pytest.mark.parametrize(
    ("answered", "pending", "remedy"),
    [("a", 2, "Run again"), ("abb", 2, "Run again"), ("abb", 3, "images has an id twice")],
)
def test_images_that_are_not_answered_once_each_are_noticed(
    spark: SparkSession,
    make_run: Callable[[str], Run],
    answered: str,
    pending: int,
    remedy: str,
) -> None:
    staged = spark.createDataFrame([(image, None, 1.0) for image in answered], ANSWER_DDL)
    told = f"{pending} images .* but {len(answered)} rows for {len({*answered})} images came back"
    with pytest.raises(ReconciliationError, match=f"{told}.*{remedy}"):
        check_calls(staged, pending, make_run("score"))


def test_a_product_that_is_decided_twice_is_noticed(spark: SparkSession) -> None:
    decisions = spark.createDataFrame([("p1",), ("p2",)], "product_id string")
    assert check_decisions(decisions) == 2
    with pytest.raises(ReconciliationError, match="3 decisions were made for 2 products"):
        check_decisions(decisions.union(decisions.where("product_id = 'p2'")))


@pytest.mark.parametrize(
    ("writers", "is_alone"),
    [
        ([], True),
        (["own"], True),
        (["other"], False),
        (["other", "own"], False),
        (["own", "other"], False),
    ],
)
def test_a_commit_of_another_run_is_noticed_whenever_it_came(
    warehouse: Warehouse, make_run: Callable[[str], Run], writers: list[str], is_alone: bool
) -> None:
    runs = {"own": make_run("score"), "other": make_run("score")}
    warehouse.create(tables.CATEGORIES)
    told = rf"'categories' went from version 0 to {len(writers)}.*'{runs['own'].run_id}'"
    expected = nullcontext() if is_alone else pytest.raises(ConcurrentWriteError, match=told)
    with expected, warehouse.alone(tables.CATEGORIES, runs["own"].run_id) as left_at:
        for version, name in enumerate(writers):
            with warehouse.stamped(run_id=runs[name].run_id):
                add_tree(warehouse, version, name)
    assert left_at == {"categories": len(writers)}


def test_nothing_is_left_in_staging(shop: Shop, stricter: State) -> None:
    assert list((Path(shop.warehouse.root) / "_staging").iterdir()) == []


def test_before_any_ingest_the_missing_table_is_named(
    shop: Shop, warehouse: Warehouse, make_run: Callable[[str], Run]
) -> None:
    with pytest.raises(MissingTableError, match="'images'"):
        score_catalogue(warehouse, shop.model, SPEC, SETTINGS, make_run("score"))
    assert not warehouse.exists(tables.IMAGE_PREDICTIONS)


def test_a_delisted_product_keeps_the_prediction_it_had(migrated: State, delisted: State) -> None:
    assert delisted.products["p2"] == migrated.products["p2"]
    assert delisted.products["p1"]["run_id"] == delisted.run.run_id


@pytest.mark.parametrize(
    ("bytes_per_row", "rows"), [(0, 9_984), (10_000, 96), (131_072, 32), (50_000_000, 32)]
)
def test_images_cross_to_python_in_whole_batches_of_the_model(
    bytes_per_row: int, rows: int
) -> None:
    assert rows_per_arrow_batch(bytes_per_row, batch_size=32) == rows


def test_a_night_of_large_images_hands_few_to_python_at_a_time(
    open_shop: OpenShop,
    tmp_path: Path,
    make_jpeg: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = open_shop(tmp_path)
    photo = make_jpeg(1)
    shop.add_images(photo)
    shop.add_links(("p1", photo))
    conf, key = shop.warehouse.spark.conf, "spark.sql.execution.arrow.maxRecordsPerBatch"
    before, seen, progress = conf.get(key), list[str | None](), images.polled_progress

    def looking_at_spark(*told: Any, **more: Any) -> AbstractContextManager[None]:
        seen.append(conf.get(key))
        return progress(*told, **more)

    monkeypatch.setattr(images, "polled_progress", looking_at_spark)
    monkeypatch.setattr(images, "ARROW_BATCH_BYTES", 1)
    assert shop.score().summary.images_scored == 1
    assert (seen, conf.get(key)) == ([str(SETTINGS.batch_size)], before)
    assert before != str(SETTINGS.batch_size)

"""A tiny real model over one warehouse; each test looks at what one of the runs left behind."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession

from catalog_batch import tables
from catalog_batch.config import ScoreSettings
from catalog_batch.errors import MissingTableError
from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, load_bundle, write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.predictor import Prediction, Predictor
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.registry import ModelVersion, Registry
from catalog_batch.runs import Run, Status
from catalog_batch.score.pipeline import ScoreSummary, score_catalogue
from catalog_batch.taxonomy import category_id
from catalog_batch.warehouse import Warehouse

NOW = datetime(2026, 1, 1)
SPEC = BundleSpec(
    architecture="squeezenet1_1",
    classes=tuple(ClassLabel(f"c{index}", f"Shop/{index}") for index in range(3)),
    preprocessing=Preprocessing(side=48, resize_side=54),
    taxonomy_version=4,
    training_table="training_examples",
    training_table_version=12,
    git_commit="0" * 40,
    metrics={"accuracy": 0.5},
    thresholds={},
    created_at="2026-01-01T00:00:00Z",
)
SETTINGS = ScoreSettings(top_k=2, min_confidence=0.0, batch_size=2)
UNDECODABLE = b"\xff\xd8\xff not a photo"


@dataclass
class State:
    """What a run reported, and the tables after it."""

    run: Run
    summary: ScoreSummary
    versions: tuple[int, int]
    images: dict[str, dict[str, Any]]
    products: dict[str, dict[str, Any]]


@dataclass
class Shop:
    """Tables as ingest leaves them, and the champion of a registry."""

    warehouse: Warehouse
    model: ModelVersion
    make_run: Callable[[str], Run]

    def score(self, settings: ScoreSettings = SETTINGS, spec: BundleSpec = SPEC) -> State:
        run = self.make_run("score")
        summary = score_catalogue(self.warehouse, self.model, spec, settings, run)
        scored, decided = tables.IMAGE_PREDICTIONS, tables.PRODUCT_PREDICTIONS
        return State(
            run,
            summary,
            (self.warehouse.version(scored), self.warehouse.version(decided)),
            self.rows(scored, "image_id"),
            self.rows(decided, "product_id"),
        )

    def rows(self, table: tables.Table, key: str) -> dict[str, dict[str, Any]]:
        rows = [row.asDict(recursive=True) for row in self.warehouse.read(table).collect()]
        assert len({row[key] for row in rows}) == len(rows)
        return {row[key]: row for row in rows}

    def add_images(self, *contents: bytes) -> None:
        rows = [
            (sha256(c).hexdigest(), c, 48, 40, "JPEG", 48, 40, len(c), False, NOW, "r")
            for c in contents
        ]
        self.add(rows, tables.IMAGES)

    def add_links(self, *links: tuple[str, bytes]) -> None:
        rows = [
            (product, f"{position}.jpg", position, sha256(content).hexdigest(), 9, NOW, NOW, "r")
            for position, (product, content) in enumerate(links)
        ]
        self.add(rows, tables.PRODUCT_IMAGES)

    def add(self, rows: list[tuple[Any, ...]], table: tables.Table) -> None:
        # The columns at the end of a table are those that may be null.
        width = len(table.columns)
        padded = [(*row, *[None] * (width - len(row))) for row in rows]
        frame = self.warehouse.spark.createDataFrame(padded, table.schema)
        self.warehouse.append(frame, table)


@pytest.fixture(scope="module")
def photos(make_jpeg: Callable[..., bytes]) -> list[bytes]:
    return [make_jpeg(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def shop(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[[str], Run],
    photos: list[bytes],
) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    torch.manual_seed(0)
    network = build_network(SPEC.architecture, len(SPEC.classes), image_side=48)
    golden = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    write_bundle(folder / "bundle", network, SPEC, golden)
    model = Registry(folder / "registry").register("catalogue", folder / "bundle", {})
    shop = Shop(Warehouse(spark, str(folder / "warehouse")), model, make_run)
    shop.warehouse.create(tables.PRODUCTS, tables.PRODUCT_IMAGES, tables.IMAGES)
    shop.add(
        [(f"p{n}", None, None, None, None, None, {}, NOW, "r") for n in range(1, 5)],
        tables.PRODUCTS,
    )
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
    """Add an image, shown by the product that had none."""
    shop.add_images(photos[4])
    shop.add_links(("p4", photos[4]))
    return shop.score()


@pytest.fixture(scope="module")
def stricter(shop: Shop, grown: State) -> State:
    return shop.score(SETTINGS.model_copy(update={"min_confidence": 1.0}))


@pytest.fixture(scope="module")
def backed_off(shop: Shop, stricter: State) -> State:
    """Score with a model that is never sure of a class, and always of the department."""
    never = dict.fromkeys(("c0", "c1", "c2"), 2.0)
    unsure = replace(SPEC, thresholds=never, node_thresholds={category_id("Shop"): 0.99})
    return shop.score(spec=unsure)


@pytest.fixture(scope="module")
def delisted(shop: Shop, backed_off: State) -> State:
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
    assert first.run.table_versions == {"images": 1}
    assert first.run.details == {"model": "catalogue/1"}
    stamped = shop.warehouse.last_user_metadata(tables.IMAGE_PREDICTIONS)
    assert stamped["job"] == "score"


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


def test_a_decision_carries_the_guesses_it_was_made_of(first: State, photos: list[bytes]) -> None:
    of_image = first.images[sha256(photos[2]).hexdigest()]
    of_product = first.products["p2"]
    assert of_product["top_k"] == of_image["top_k"]
    assert of_product["margin"] == pytest.approx(of_image["margin"])
    assert first.products["p4"]["top_k"] == []


def test_nothing_is_left_in_staging(shop: Shop, stricter: State) -> None:
    assert list((Path(shop.warehouse.root) / "_staging").iterdir()) == []


def test_before_any_ingest_the_missing_table_is_named(
    shop: Shop, warehouse: Warehouse, make_run: Callable[[str], Run]
) -> None:
    with pytest.raises(MissingTableError, match="'images'"):
        score_catalogue(warehouse, shop.model, SPEC, SETTINGS, make_run("score"))
    assert not warehouse.exists(tables.IMAGE_PREDICTIONS)


def test_a_delisted_product_keeps_the_prediction_it_had(backed_off: State, delisted: State) -> None:
    assert delisted.products["p2"] == backed_off.products["p2"]
    assert delisted.products["p1"]["run_id"] == delisted.run.run_id

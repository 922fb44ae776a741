"""A shop of a few products, as ingest leaves it, and a tiny real model that scores it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog_batch import ledger, tables
from catalog_batch.config import ScoreSettings
from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.registry import ModelVersion, Registry
from catalog_batch.runs import RUN_LOG, Run
from catalog_batch.score.pipeline import EVERYTHING, ScoreSummary, score_catalogue
from catalog_batch.score.selection import Scope
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
    """What a run reported, and after it what the model says of images, and the decisions."""

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

    def score(
        self,
        settings: ScoreSettings = SETTINGS,
        spec: BundleSpec = SPEC,
        scope: Scope = EVERYTHING,
        model: ModelVersion | None = None,
    ) -> State:
        run = self.make_run("score")
        model = model or self.model
        summary = score_catalogue(self.warehouse, model, spec, settings, run, scope)
        scored, decided = tables.IMAGE_PREDICTIONS, tables.PRODUCT_PREDICTIONS
        return State(
            run,
            summary,
            (self.warehouse.version(scored), self.warehouse.version(decided)),
            self.rows(scored, "image_id", model.version),
            self.rows(decided, "product_id"),
        )

    def score_and_log(self, settings: ScoreSettings = SETTINGS, scope: Scope = EVERYTHING) -> Run:
        """Score, and log the run as a job does."""
        run = self.score(settings, scope=scope).run
        run.finished_at = run.started_at
        ledger.append_rows(self.warehouse.root, RUN_LOG, [run.row()])
        return run

    def rows(
        self, table: tables.Table, key: str, model_version: int | None = None
    ) -> dict[str, dict[str, Any]]:
        frame = self.warehouse.read(table)
        if model_version is not None:
            frame = frame.where(f"model_version = {model_version}")
        rows = [row.asDict(recursive=True) for row in frame.collect()]
        assert len({row[key] for row in rows}) == len(rows)
        return {row[key]: row for row in rows}

    def add_images(self, *contents: bytes, at: datetime = NOW) -> None:
        rows = [
            (sha256(c).hexdigest(), c, 48, 40, "JPEG", 48, 40, len(c), False, at, "r")
            for c in contents
        ]
        self.add(rows, tables.IMAGES)

    def add_products(self, *products: str, run_id: str = "r") -> None:
        rows = [(name, None, None, None, None, None, {}, NOW, run_id) for name in products]
        self.add(rows, tables.PRODUCTS)

    def add_links(self, *links: tuple[str, bytes], run_id: str = "r") -> None:
        rows = [
            (product, f"{position}.jpg", position, sha256(content).hexdigest(), 9, NOW, NOW, run_id)
            for position, (product, content) in enumerate(links)
        ]
        self.add(rows, tables.PRODUCT_IMAGES)

    def add(self, rows: list[tuple[Any, ...]], table: tables.Table) -> None:
        # The columns at the end of a table are those that may be null.
        width = len(table.columns)
        padded = [(*row, *[None] * (width - len(row))) for row in rows]
        frame = self.warehouse.spark.createDataFrame(padded, table.schema)
        self.warehouse.append(frame, table)

    def copy(self, folder: Path) -> "Shop":
        """Return a shop in another folder, as this one is now."""
        place = Path(self.warehouse.root)
        shutil.copytree(place.parent, folder, dirs_exist_ok=True)
        there = Warehouse(self.warehouse.spark, str(folder / place.name))
        return replace(self, warehouse=there)

    def register(self, seed: int) -> ModelVersion:
        """Register another version of the model, with other random weights."""
        return register(Path(self.warehouse.root).parent, seed)


OpenShop = Callable[[Path], Shop]


def register(folder: Path, seed: int, tags: Mapping[str, str] | None = None) -> ModelVersion:
    """Register a network of random weights as the next version of the model."""
    torch.manual_seed(seed)
    network = build_network(SPEC.architecture, len(SPEC.classes), image_side=48)
    golden = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    write_bundle(folder / f"bundle-{seed}", network, SPEC, golden)
    return Registry(folder / "registry").register("catalogue", folder / f"bundle-{seed}", {}, tags)

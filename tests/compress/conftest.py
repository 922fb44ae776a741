"""A shop with a model to optimise; what takes seconds is made once and copied."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.compress.shop import add_trained_model, spec_of_trained, trained_network
from tests.empty_tables import create_table
from tests.promotion.shop import CLASSES, Shop

from catalog_batch import registry
from catalog_batch.compress import making
from catalog_batch.compress.graphs import export_graph

MakeJpeg = Callable[..., bytes]


@pytest.fixture(scope="session")
def shop_with_model(tmp_path_factory: pytest.TempPathFactory, make_jpeg: MakeJpeg) -> Path:
    shop = Shop(tmp_path_factory.mktemp("optimised"), make_jpeg)
    for name in ("models", "promotions", "model_variants", "run_log"):
        create_table(shop.root, name)
    shop.write_examples(CLASSES * 4)
    add_trained_model(shop)
    return shop.root


@pytest.fixture
def shop(shop_with_model: Path, tmp_path: Path, make_jpeg: MakeJpeg) -> Shop:
    """Return a shop with a champion, 12 test rows and 3 to calibrate with."""
    return Shop(Path(shutil.copytree(shop_with_model, tmp_path / "my shop")), make_jpeg)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the model's network, which takes seconds, once."""
    path = tmp_path_factory.mktemp("graphs") / "fp32.onnx"
    export_graph(trained_network(), spec_of_trained().preprocessing, path)
    return path


@pytest.fixture
def exported_once(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    """Take that graph wherever the model is exported again."""
    monkeypatch.setattr(
        making, "export_graph", lambda network, preprocessing, path: shutil.copy(exported, path)
    )


@pytest.fixture(autouse=True)
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the store of a folder once in a test, and not in each run: it takes a while."""
    monkeypatch.setattr(registry, "open_store", cache(registry.open_store))

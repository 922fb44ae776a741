"""What the tests of scoring share: shops that are open in no time."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from tests.score.shop import OpenShop, Shop, register

from catalog_batch import tables
from catalog_batch.registry import STORE, Registry
from catalog_batch.runs import Run
from catalog_batch.warehouse import Warehouse


@pytest.fixture(scope="session")
def pattern(
    spark: SparkSession,
    tmp_path_factory: pytest.TempPathFactory,
    make_run: Callable[[str], Run],
    empty_store: Path,
) -> Path:
    """Make the tables and the registry of a shop once, which takes seconds, to be copied."""
    folder = tmp_path_factory.mktemp("pattern")
    (folder / "registry").mkdir()
    shutil.copy(empty_store, folder / "registry" / STORE)
    shop = Shop(Warehouse(spark, str(folder / "warehouse")), register(folder, 0), make_run)
    shop.warehouse.create(tables.PRODUCTS, tables.PRODUCT_IMAGES, tables.IMAGES)
    shop.add_products("p1", "p2", "p3", "p4")
    return folder


@pytest.fixture(scope="session")
def open_shop(pattern: Path, spark: SparkSession, make_run: Callable[[str], Run]) -> OpenShop:
    """Return what opens a shop of the products p1 to p4, without any image, in a folder."""

    def open_in(folder: Path) -> Shop:
        shutil.copytree(pattern, folder, dirs_exist_ok=True)
        model = Registry(folder / "registry").resolve("catalogue@champion")
        return Shop(Warehouse(spark, str(folder / "warehouse")), model, make_run)

    return open_in

"""A small shop for each test; what takes seconds is made once and copied."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.promotion.shop import Shop, create_table

from catalog_batch.registry import STORE, open_store


@pytest.fixture(scope="session")
def empty_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the tables and MLflow's store once, which takes seconds, for the tests to copy."""
    root = tmp_path_factory.mktemp("empty") / "shop"
    for name in ("models", "promotions", "run_log"):
        create_table(root, name)
    open_store(root / "_registry").search_registered_models()
    assert (root / "_registry" / STORE).is_file()
    return root


@pytest.fixture
def shop(empty_shop: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Shop:
    """Return a shop of 8 test rows: 4 bags, 3 lamps, 1 shoe."""
    # With a space in its path, as folders of people have.
    root = Path(shutil.copytree(empty_shop, tmp_path / "my shop"))
    shop = Shop(root, make_jpeg)
    shop.write_examples(["bags"] * 4 + ["lamps"] * 3 + ["shoes"])
    return shop

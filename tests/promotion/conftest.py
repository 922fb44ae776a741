"""A shop with a champion and a challenger; what takes seconds is made once and copied."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.empty_tables import create_table
from tests.promotion.shop import Shop

from catalog_batch import registry

MakeJpeg = Callable[..., bytes]


@pytest.fixture(scope="session")
def contested_shop(tmp_path_factory: pytest.TempPathFactory, make_jpeg: MakeJpeg) -> Path:
    """Make the tables, 8 test rows (4 bags, 3 lamps, 1 shoe), and two models."""
    shop = Shop(tmp_path_factory.mktemp("contested"), make_jpeg)
    for name in ("models", "promotions", "run_log"):
        create_table(shop.root, name)
    shop.write_examples(["bags"] * 4 + ["lamps"] * 3 + ["shoes"])
    shop.add_model("lamps")
    shop.add_model("bags")
    assert shop.aliases() == {"champion": 1, "challenger": 2}
    return shop.root


@pytest.fixture
def shop(contested_shop: Path, tmp_path: Path, make_jpeg: MakeJpeg) -> Shop:
    """Return a shop whose champion answers lamps to all, and whose challenger answers bags."""
    # A space in its path, as people's folders have them.
    copy = shutil.copytree(
        contested_shop, tmp_path / "my shop", ignore=shutil.ignore_patterns("_runs")
    )
    return Shop(Path(copy), make_jpeg)


@pytest.fixture(autouse=True)
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the store of a folder once in a test, and not in each run: it takes a while."""
    monkeypatch.setattr(registry, "open_store", cache(registry.open_store))

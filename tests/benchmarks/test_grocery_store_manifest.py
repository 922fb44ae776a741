import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from tests.commands import ROOT

DATASET = ROOT.parent / "shared" / "data" / "grocery-store" / "dataset"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATASET.is_dir(), reason="the Grocery Store photos are not there"),
]


def converter() -> ModuleType:
    path = ROOT / "benchmarks" / "grocery_store_manifest.py"
    spec = importlib.util.spec_from_file_location("converter", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manifest_has_every_photo_in_its_official_split() -> None:
    rows = list(converter().grocery_rows(DATASET))
    assert Counter(row["split"] for row in rows) == {"train": 2640, "validation": 296, "test": 2485}
    assert len({row["product_id"] for row in rows}) == 5421
    assert all(Path(DATASET / row["image_uri"]).is_file() for row in rows)


def test_the_categories_are_81_fine_ones_under_43_coarse_ones() -> None:
    paths = {row["category"] for row in converter().grocery_rows(DATASET)}
    assert len(paths) == 81
    assert len({path.rpartition("/")[0] for path in paths}) == 43
    assert all(path.count("/") == 2 for path in paths)

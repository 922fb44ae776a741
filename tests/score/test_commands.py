"""The verb as a user runs it: what its options narrow a night to, and what is refused."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from tests.commands import run_command
from tests.score.shop import OpenShop

from catalog_batch import tables

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]
SCORE_CHALLENGER = ["catalog-batch", "score", "--model=catalogue@challenger"]


def test_a_challenger_scores_what_the_options_name_beside_what_is_published(
    open_shop: OpenShop, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    shop = open_shop(tmp_path)
    shop.register(seed=1)
    old, new, of_another = (make_jpeg(seed) for seed in range(3))
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    shop.add_images(old, at=noon - timedelta(seconds=1))
    shop.add_images(new, of_another, at=noon)
    shop.add_links(("p1", old), ("p2", new), ("p3", of_another))
    named = tmp_path / "named.txt"
    named.write_text("p1\np2\n", encoding="utf-8")
    where = ["--warehouse", shop.warehouse.root, f"--set=registry={tmp_path / 'registry'}"]
    options = ["--since=2026-01-02T12:00:00", "--products", named, "--shadow"]
    # UTC is meant wherever the machine stands.
    scored = run_command([*SCORE_CHALLENGER, *options, *where], TZ="Asia/Tokyo")
    assert scored.exit_code == 0, scored.errors
    images = shop.rows(tables.IMAGE_PREDICTIONS, "image_id")
    assert images.keys() == {sha256(new).hexdigest()}
    beside = shop.rows(tables.SHADOW_PREDICTIONS, "product_id")
    assert {product: row["model_version"] for product, row in beside.items()} == {"p2": 2}
    assert shop.rows(tables.PRODUCT_PREDICTIONS, "product_id") == {}


def test_a_challenger_that_would_be_published_is_refused(tmp_path: Path) -> None:
    refused = run_command([*SCORE_CHALLENGER, "--warehouse", tmp_path])
    assert refused.exit_code == refused.status["exit_code"] == 20, refused.errors
    assert "'catalogue@challenger' was not promoted" in refused.status["error"]


def test_a_damaged_model_scores_nothing(
    open_shop: OpenShop, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    shop = open_shop(tmp_path)
    photo = make_jpeg(1)
    shop.add_images(photo)
    shop.add_links(("p1", photo))
    weights = shop.model.bundle_folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    where = ["--warehouse", shop.warehouse.root, f"--set=registry={tmp_path / 'registry'}"]
    refused = run_command(["catalog-batch", "score", *where])
    assert refused.exit_code == refused.status["exit_code"] == 40, refused.errors
    assert "model.safetensors" in refused.status["error"]
    assert not (Path(shop.warehouse.root) / "image_predictions").exists()

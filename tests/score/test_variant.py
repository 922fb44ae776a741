"""Scoring with a variant that another library runs, in Spark's Python workers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.score.shop import SPEC, OpenShop

from catalog_batch.compress.graphs import export_graph
from catalog_batch.modeling.bundle import golden_images, load_bundle, write_bundle
from catalog_batch.registry import Registry

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-fp32"])
def test_a_variant_decides_as_the_model_it_was_made_from(
    open_shop: OpenShop, tmp_path: Path, make_jpeg: Callable[..., bytes], name: str
) -> None:
    shop = open_shop(tmp_path)
    photos = [make_jpeg(seed=seed, width=60, height=60) for seed in range(6)]
    shop.add_images(*photos)
    shop.add_links(*((f"p{1 + place % 4}", photo) for place, photo in enumerate(photos)))
    before = shop.score()

    trained = load_bundle(shop.model.bundle_folder)
    graph, folder = tmp_path / "model.onnx", tmp_path / "variant"
    export_graph(trained.network, SPEC.preprocessing, graph)
    spec = replace(SPEC, variant=name, made_from=trained.digest)
    write_bundle(folder, graph, spec, golden_images(shop.model.bundle_folder))
    variant = Registry(tmp_path / "registry").register("catalogue", folder, {})
    after = shop.score(spec=spec, model=variant)

    assert after.summary.images_scored == len(photos)
    assert after.products.keys() == before.products.keys()
    for product, row in after.products.items():
        assert row["model_version"] == variant.version
        assert row["category_id"] == before.products[product]["category_id"]
        assert np.isclose(row["confidence"], before.products[product]["confidence"], atol=1e-4)

"""Scoring with a variant of a model, in Spark's Python workers."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from tests.score.shop import SETTINGS, SPEC, OpenShop, State

from catalog_batch.compress.graphs import export_graph, quantise_graph
from catalog_batch.modeling.bundle import golden_images, load_bundle, write_bundle
from catalog_batch.modeling.predictor import Prediction, Predictor
from catalog_batch.modeling.variants import VARIANTS
from catalog_batch.registry import Registry

torch.set_num_threads(1)


def write_variant(name: str, source: Path, photos: list[bytes], place: Path) -> Path:
    """Write a variant of a bundle as ``optimise`` makes it; return its folder."""
    trained = load_bundle(source)
    model: torch.nn.Module | Path = trained.module
    if VARIANTS[name].engine != "torch":
        model = place / "model.onnx"
        export_graph(trained.network, SPEC.preprocessing, model)
    if VARIANTS[name].precision == "int8":
        exported, model = place / "model.onnx", place / "int8.onnx"
        quantise_graph(exported, [SPEC.preprocessing.decode(photo) for photo in photos], model)
    spec = replace(SPEC, variant=name, made_from=trained.digest)
    write_bundle(place / "variant", model, spec, golden_images(source))
    return place / "variant"


def confidences(state: State, photo: bytes) -> dict[str, float]:
    top_k = state.images[sha256(photo).hexdigest()]["top_k"]
    return {guess["category_id"]: guess["confidence"] for guess in top_k}


@pytest.mark.parametrize(
    "name", ["torch-bf16", "onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8"]
)
def test_workers_answer_as_the_variant_does_here_and_close_to_the_model_it_was_made_from(
    open_shop: OpenShop, tmp_path: Path, make_jpeg: Callable[..., bytes], name: str
) -> None:
    shop = open_shop(tmp_path)
    photos = [make_jpeg(seed=seed, width=60, height=60) for seed in range(6)]
    shop.add_images(*photos)
    shop.add_links(*((f"p{1 + place % 4}", photo) for place, photo in enumerate(photos)))
    wide = SETTINGS.model_copy(update={"top_k": len(SPEC.classes)})
    before = shop.score(wide)
    folder = write_variant(name, shop.model.bundle_folder, photos, tmp_path)
    variant = Registry(tmp_path / "registry").register("catalogue", folder, {})
    loaded = load_bundle(variant.bundle_folder)
    after = shop.score(wide, spec=loaded.spec, model=variant)

    assert after.summary.images_scored == len(photos)
    here = Predictor(loaded, wide.top_k, wide.batch_size).predict(photos)
    tolerance = VARIANTS[name].tolerance
    for photo, expected in zip(photos, here, strict=True):
        assert isinstance(expected, Prediction)
        found = confidences(after, photo)
        assert found == pytest.approx(dict(expected.top_k), abs=1e-4)
        assert found == pytest.approx(confidences(before, photo), abs=tolerance)
    assert after.products.keys() == before.products.keys()
    assert {row["model_version"] for row in after.products.values()} == {variant.version}

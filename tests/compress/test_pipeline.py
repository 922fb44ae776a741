import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from deltalake import DeltaTable
from tests.compress.shop import trained_network
from tests.promotion.shop import Shop

from catalog_batch.compress import making, trials
from catalog_batch.compress.findings import Finding
from catalog_batch.compress.graphs import export_graph
from catalog_batch.compress.pipeline import optimise_model
from catalog_batch.config import Settings
from catalog_batch.errors import (
    BadInputError,
    GateRefusedError,
    MissingTableError,
    TrainingDataError,
)
from catalog_batch.leases import live_leases
from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Predictor
from catalog_batch.promotion.pipeline import promote_model
from catalog_batch.runs import Clock, Run, Status
from catalog_batch.split_rows import find_split_rows

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("exported_once")

FAST = {
    "torch-fp32": 10.0,
    "torch-folded": 11.0,
    "onnx-fp32": 25.0,
    "openvino-int8": 60.0,
    "openvino-pruned": 50.0,
    "onnx-pruned-int8": 70.0,
}


@pytest.fixture(autouse=True)
def known_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the speeds not depend on the machine; answers are those of the real libraries."""
    speed = property(lambda contestant: FAST[contestant.bundle.spec.variant])
    monkeypatch.setattr(trials._Contestant, "images_per_second", speed)


@pytest.fixture
def run(make_run: Any) -> Iterator[Run]:
    yield make_run("optimise")


def asking(shop: Shop, variants: Sequence[str], **bounds: float) -> Settings:
    settings = shop.settings()
    wanted = {"variants": variants, "calibration_images": 8, **bounds}
    return settings.model_validate({**settings.model_dump(), "optimise": wanted})


def test_the_fastest_that_agrees_becomes_a_challenger(shop: Shop, run: Run, clock: Clock) -> None:
    told: list[Finding] = []
    settings = asking(shop, ["torch-folded", "onnx-fp32"])
    optimise_model(settings, run, "catalogue@champion", told.extend, clock)
    assert (run.status, run.exit_code, run.rows_in) == (Status.PUBLISHED, 0, 12)
    assert run.details["registered"] == "catalogue/2"
    assert run.counts["variants_kept"] == run.counts["variants_not_fastest"] == 1
    assert [finding.variant for finding in told] == ["torch-fp32", "torch-folded", "onnx-fp32"]

    rows = {row["variant"]: row for row in shop.read("model_variants")}
    kept = rows["onnx-fp32"]
    assert (kept["verdict"], kept["made_version"], kept["speed_up"]) == ("kept", 2, 2.5)
    assert (kept["agreement"], kept["test_images"], kept["threads"]) == (1.0, 12, 1)
    assert rows["torch-fp32"]["verdict"] == "reference"
    assert rows["torch-folded"]["made_version"] is None
    assert {row["run_id"] for row in rows.values()} == {run.run_id}

    assert shop.aliases() == {"champion": 1, "challenger": 2}
    models = {row["version"]: row for row in shop.read("models")}
    assert [models[number]["variant"] for number in (1, 2)] == ["torch-fp32", "onnx-fp32"]
    bundle = load_bundle(shop.registry.resolve("catalogue/2").bundle_folder)
    assert bundle.spec.made_from == shop.registry.resolve("catalogue/1").digest


def test_the_kept_variant_predicts_what_the_model_did(shop: Shop, run: Run, clock: Clock) -> None:
    optimise_model(asking(shop, ["onnx-fp32"]), run, "catalogue/1", clock=clock)
    [rows] = find_split_rows(str(shop.root), 0, "test").batches(100)
    folders = [shop.registry.resolve(f"catalogue/{n}").bundle_folder for n in (1, 2)]
    first, second = (Predictor(load_bundle(folder)).predict(rows.contents) for folder in folders)
    for before, after in zip(first, second, strict=True):
        assert [category for category, _ in before.top_k] == [c for c, _ in after.top_k]
        assert after.top_k[0][1] == pytest.approx(before.top_k[0][1], abs=1e-3)


def test_a_second_run_that_finds_the_same_changes_no_version(
    shop: Shop, make_run: Any, clock: Clock
) -> None:
    settings = asking(shop, ["onnx-fp32"])
    first, second = make_run("optimise"), make_run("optimise")
    optimise_model(settings, first, "catalogue/1", clock=clock)
    optimise_model(settings, second, "catalogue/1", clock=clock)
    assert (second.status, second.exit_code) == (Status.NOTHING_TO_DO, 10)
    assert second.details["registered"] == "catalogue/2"
    assert shop.aliases() == {"champion": 1, "challenger": 2}
    assert len(shop.read("model_variants")) == 4


def test_a_variant_that_answers_otherwise_is_refused_and_told(
    shop: Shop, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trained_network()
    with torch.no_grad():
        other.get_submodule("fc").weight.neg_()

    def export_other(network: Any, *arguments: Any) -> None:
        export_graph(other, *arguments)

    monkeypatch.setattr(making, "export_graph", export_other)
    optimise_model(asking(shop, ["onnx-fp32"]), run, "catalogue/1", clock=clock)
    assert (run.status, run.details["registered"]) == (Status.NOTHING_TO_DO, "none")
    rows = {row["variant"]: row for row in shop.read("model_variants")}
    assert rows["onnx-fp32"]["verdict"] == "refused"
    assert rows["onnx-fp32"]["reason"].startswith("agreement 0.")
    assert shop.aliases() == {"champion": 1}


def test_what_cannot_be_made_costs_the_others_nothing(
    shop: Shop, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr(making, "quantise_graph", fail)
    optimise_model(asking(shop, ["openvino-int8", "onnx-fp32"]), run, "catalogue/1", clock=clock)
    rows = {row["variant"]: row for row in shop.read("model_variants")}
    assert rows["openvino-int8"]["verdict"] == "not_made"
    assert rows["openvino-int8"]["reason"] == "RuntimeError: no such operator"
    assert rows["openvino-int8"]["speed_up"] is None
    assert rows["onnx-fp32"]["made_version"] == 2


def test_pruned_variants_are_taught_on_the_training_rows(
    shop: Shop, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "export_graph", export_graph)
    variants = ["openvino-pruned", "onnx-pruned-int8"]
    settings = asking(shop, variants, pruning_steps=3, min_agreement=0)
    lax = settings.optimise.model_copy(update={"max_accuracy_loss": 1.0})
    optimise_model(settings.model_copy(update={"optimise": lax}), run, "catalogue/1", clock=clock)
    rows = {row["variant"]: row for row in shop.read("model_variants")}
    assert rows["openvino-pruned"]["verdict"] == "not_fastest"
    assert rows["onnx-pruned-int8"]["made_version"] == 2
    sizes = [
        (shop.registry.resolve(f"catalogue/{number}").bundle_folder / name).stat().st_size
        for number, name in ((1, "model.safetensors"), (2, "model.onnx"))
    ]
    assert sizes[1] < 0.2 * sizes[0]  # half of the weights, each a quarter as long


def test_what_is_far_too_slow_is_measured_no_further(
    shop: Shop, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAST, "torch-folded", 4.9)
    settings = asking(shop, ["torch-folded"])
    one_by_one = settings.model_copy(
        update={"score": settings.score.model_copy(update={"batch_size": 1})}
    )
    optimise_model(one_by_one, run, "catalogue/1", clock=clock)
    rows = {row["variant"]: row for row in shop.read("model_variants")}
    assert rows["torch-folded"]["test_images"] == trials.LOOKED_AT
    assert rows["torch-folded"]["reason"] == "it was far too slow, and stopped after 3 images"
    assert rows["torch-fp32"]["test_images"] == 12


def test_a_variant_is_not_optimised_again(shop: Shop, make_run: Any, clock: Clock) -> None:
    settings = asking(shop, ["onnx-fp32"])
    optimise_model(settings, make_run("optimise"), "catalogue/1", clock=clock)
    with pytest.raises(BadInputError, match=r"catalogue/2 is itself .* made from catalogue/1"):
        optimise_model(settings, make_run("optimise"), "catalogue/2", clock=clock)


def test_promote_asks_no_improvement_of_a_variant_of_the_champion(
    shop: Shop, make_run: Any, clock: Clock
) -> None:
    optimise_model(asking(shop, ["onnx-fp32"]), make_run("optimise"), "catalogue/1", clock=clock)
    bounds = shop.settings(min_improvement=0.01)
    promote_model(bounds, make_run("promote"), "catalogue@challenger", clock=clock)
    assert shop.aliases() == {"champion": 2, "previous": 1}
    # Back again: the model as trained is of the same weights.
    promote_model(bounds, make_run("promote"), "catalogue/1", clock=clock)
    assert shop.aliases()["champion"] == 1
    shop.add_model("bags")
    with pytest.raises(GateRefusedError, match=r"promote\.min_improvement"):
        promote_model(
            shop.settings(min_improvement=1.0), make_run("promote"), "catalogue/3", clock=clock
        )


def test_the_files_are_leased_meanwhile(
    shop: Shop, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    quantise = making.quantise_graph

    def looking(*arguments: Any) -> None:
        leases = live_leases(str(shop.root), "training_examples", clock())
        seen.append([lease.holder for lease in leases])
        quantise(*arguments)

    monkeypatch.setattr(making, "quantise_graph", looking)
    optimise_model(asking(shop, ["openvino-int8"]), run, "catalogue/1", clock=clock)
    assert seen == [[run.run_id]]
    assert live_leases(str(shop.root), "training_examples", clock()) == []


def test_without_test_rows_nothing_can_be_said(shop: Shop, run: Run, clock: Clock) -> None:
    folder = shop.root / "training_examples"
    shutil.rmtree(folder)
    shop.write_examples([])
    assert DeltaTable(str(folder)).version() == 0
    with pytest.raises(TrainingDataError, match="has no test rows"):
        optimise_model(asking(shop, ["torch-folded"]), run, "catalogue/1", clock=clock)


def test_a_warehouse_of_an_earlier_release_is_told_apart(
    shop: Shop, run: Run, clock: Clock
) -> None:
    shutil.rmtree(Path(shop.root) / "model_variants")
    with pytest.raises(MissingTableError, match="Run ingest once"):
        optimise_model(asking(shop, ["torch-folded"]), run, "catalogue/1", clock=clock)

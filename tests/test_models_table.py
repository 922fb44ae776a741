"""The table of models: what a registry that is not the warehouse's own is refused for."""

from pathlib import Path

import pytest
from tests.empty_tables import create_table
from tests.score.shop import register

from catalog_batch import ledger
from catalog_batch.errors import ModelRefusedError
from catalog_batch.models_table import TABLE, publish_models, require_same_registry
from catalog_batch.registry import ModelVersion, Registry

TAGS = {
    "architecture": "squeezenet1_1",
    "training_table_version": "12",
    "taxonomy_version": "4",
    "git_commit": "0" * 40,
    "training_run": "r1",
}


def filled(folder: Path, seed: int) -> tuple[Registry, ModelVersion]:
    """Return a registry with one version, of random weights."""
    folder.mkdir()
    return Registry(folder / "registry"), register(folder, seed, TAGS)


def test_another_bundle_under_a_known_number_is_refused(tmp_path: Path) -> None:
    create_table(tmp_path, TABLE)
    root = str(tmp_path)
    own, first = filled(tmp_path / "own", seed=0)
    require_same_registry(root, own, "catalogue")  # Nothing is known yet.
    publish_models(root, own)
    require_same_registry(root, own, "catalogue")
    require_same_registry(root, own, "another")

    register(tmp_path / "own", 1, TAGS)  # A version that the table has not heard of yet.
    require_same_registry(root, own, "catalogue")

    begun_anew, _ = filled(tmp_path / "anew", seed=2)
    told = r"anew/registry' has as version 1 of 'catalogue' another bundle.*--set registry="
    with pytest.raises(ModelRefusedError, match=told):
        require_same_registry(root, begun_anew, "catalogue")
    with pytest.raises(ModelRefusedError, match=told):
        publish_models(root, begun_anew)
    [row] = ledger.find_rows(root, TABLE, ("digest",), {"version": 1})
    assert row["digest"] == first.digest


def test_a_registry_that_has_lost_the_model_is_refused(tmp_path: Path) -> None:
    create_table(tmp_path, TABLE)
    root = str(tmp_path)
    publish_models(root, filled(tmp_path / "own", seed=0)[0])
    lost = Registry(tmp_path / "lost")
    with pytest.raises(ModelRefusedError, match=r"lost' has no version of 'catalogue', and"):
        require_same_registry(root, lost, "catalogue")
    require_same_registry(root, lost, "another")

"""Versions and aliases of bundles, in a folder that can be moved."""

import shutil
import threading
from pathlib import Path

import pytest

from catalog_batch.errors import ConfigError, ModelRefusedError
from catalog_batch.modeling.manifest import GOLDEN, SPEC, WEIGHTS, write_manifest
from catalog_batch.registry import STORE, ModelVersion, Registry, open_store


def write_sealed(folder: Path, content: str) -> Path:
    """Write a folder with a bundle's files and checksums: all that the registry looks at."""
    folder.mkdir()
    for name in (WEIGHTS, SPEC, GOLDEN):
        (folder / name).write_text(f"{name} {content}")
    write_manifest(folder)
    return folder


@pytest.fixture
def registry(tmp_path: Path, empty_store: Path) -> Registry:
    """Return a registry without models."""
    (tmp_path / "registry").mkdir()
    shutil.copy(empty_store, tmp_path / "registry" / STORE)
    return Registry(tmp_path / "registry")


def test_the_first_version_is_champion_and_later_ones_challenge_it(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = registry.register("shop", write_sealed(tmp_path / "1", "a"), {"f1": 0.5}, {"run": "r1"})
    second = registry.register("shop", write_sealed(tmp_path / "2", "b"), {"f1": 0.75})
    assert "no longer" not in caplog.text
    third = registry.register("shop", write_sealed(tmp_path / "3", "c"), {})
    assert "shop/3 is the challenger now, and no longer shop/2" in caplog.text
    assert [version.version for version in (first, second, third)] == [1, 2, 3]
    assert (first.aliases, first.metrics, first.tags) == (("champion",), {"f1": 0.5}, {"run": "r1"})
    assert [version.alias for version in registry.list_versions()] == ["champion", "", "challenger"]
    assert registry.resolve("shop/1") == registry.resolve("shop@champion") == first
    assert registry.resolve("shop@challenger") == third


def test_a_registered_bundle_is_a_copy_of_its_own(registry: Registry, tmp_path: Path) -> None:
    version = registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    shutil.rmtree(tmp_path / "1")
    folder = registry.resolve("shop@champion").bundle_folder
    assert folder == registry.folder / "bundles" / "shop" / version.digest[:16]
    assert (folder / WEIGHTS).read_text() == f"{WEIGHTS} a"


def test_registering_the_same_digest_twice_gives_the_same_version(
    registry: Registry, tmp_path: Path
) -> None:
    bundle = write_sealed(tmp_path / "1", "a")
    registry.register("shop", bundle, {"f1": 0.5})
    registry.register("shop", write_sealed(tmp_path / "2", "b"), {})
    again = Registry(registry.folder).register("shop", bundle, {"f1": 0.9})
    assert (again.version, again.aliases, again.metrics) == (1, ("champion",), {"f1": 0.5})
    assert len(registry.list_versions()) == 2


def test_a_version_that_was_registered_by_other_means_is_passed_over_and_told_of_once(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_store(registry.folder)
    client.create_registered_model("shop")
    client.create_model_version("shop", source="elsewhere")
    client.set_registered_model_alias("shop", "champion", "1")
    ours = registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    assert (ours.version, ours.aliases) == (2, ("champion",))
    assert registry.list_versions() == [ours]
    with pytest.raises(ModelRefusedError, match="no model 'shop/1'"):
        registry.resolve("shop/1")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "shop/1" in told[0] and "not registered by catalog-batch" in told[0]


def test_an_alias_moves_and_moves_back(registry: Registry, tmp_path: Path) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    registry.register("shop", write_sealed(tmp_path / "2", "b"), {})
    registry.set_alias("shop", 2, "champion")
    assert registry.resolve("shop@champion").version == 2
    assert registry.resolve("shop/2").alias == "challenger, champion"
    registry.set_alias("shop", 1, "champion")
    assert registry.resolve("shop@champion").version == 1


def test_an_alias_that_is_removed_leaves_the_others(registry: Registry, tmp_path: Path) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    registry.set_alias("shop", 1, "previous")
    for _ in range(2):
        registry.remove_alias("shop", "previous")
        assert registry.resolve("shop/1").aliases == ("champion",)


def test_a_version_that_was_rolled_back_is_no_challenger_when_its_run_is_repeated(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    second = write_sealed(tmp_path / "2", "b")
    registry.register("shop", second, {})
    registry.remove_alias("shop", "challenger")
    assert registry.register("shop", second, {}).aliases == ()


def test_a_version_whose_place_another_took_is_no_challenger_when_its_run_is_repeated(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    second = write_sealed(tmp_path / "2", "b")
    registry.register("shop", second, {})
    registry.register("shop", write_sealed(tmp_path / "3", "c"), {})
    assert registry.register("shop", second, {}).aliases == ()
    assert registry.resolve("shop@challenger").version == 3


def test_a_version_is_marked_before_it_loses_its_alias(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    second = write_sealed(tmp_path / "2", "b")
    registry.register("shop", second, {})

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry, "_mark_holder", die)
        registry.remove_alias("shop", "challenger")
    assert registry.register("shop", second, {}).aliases == ("challenger",)


def test_a_moved_registry_still_finds_its_bundles(registry: Registry, tmp_path: Path) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    moved = Registry(registry.folder.rename(tmp_path / "elsewhere"))
    assert moved.resolve("shop@champion").bundle_folder.is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("reference", ["other@champion", "shop@staging", "shop/7"])
def test_an_unknown_model_is_refused_with_the_known_ones(
    registry: Registry, tmp_path: Path, reference: str
) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    with pytest.raises(ModelRefusedError, match=f"no model '{reference}'.*Known are: shop/1"):
        registry.resolve(reference)


def test_looking_in_an_empty_folder_creates_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "nothing")
    assert registry.list_versions() == []
    with pytest.raises(ModelRefusedError, match="Known are: none"):
        registry.resolve("shop@champion")
    assert not registry.folder.exists()


@pytest.mark.parametrize("reference", ["shop", "shop@", "shop/one", "a b@x", "'; --@x", ""])
def test_a_text_that_refers_to_nothing_is_refused(registry: Registry, reference: str) -> None:
    with pytest.raises(ConfigError, match="NAME@ALIAS or NAME/VERSION"):
        registry.resolve(reference)


@pytest.mark.parametrize("name", ["", "../up", "a' OR '1'='1", "a@b"])
def test_a_name_that_could_not_be_referred_to_is_refused(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="Model name"):
        registry.register(name, write_sealed(tmp_path / "1", "a"), {})


def test_a_damaged_bundle_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    bundle = write_sealed(tmp_path / "1", "a")
    (bundle / WEIGHTS).write_text("other")
    with pytest.raises(ModelRefusedError, match=WEIGHTS):
        registry.register("shop", bundle, {})
    assert registry.list_versions() == []


def test_a_bundle_replaced_after_registration_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    version = registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    shutil.rmtree(version.bundle_folder)
    write_sealed(version.bundle_folder, "b")
    with pytest.raises(ModelRefusedError, match=r"shop/1 was registered with"):
        registry.resolve("shop@champion")


def test_a_register_cut_off_before_its_version_is_finished_by_the_next(
    registry: Registry, tmp_path: Path
) -> None:
    open_store(registry.folder).create_registered_model("shop")
    assert registry.register("shop", write_sealed(tmp_path / "1", "a"), {}).alias == "champion"


def test_what_becomes_champion_is_told_before_it_is_champion(
    registry: Registry, tmp_path: Path
) -> None:
    told: list[tuple[int, tuple[str, ...]]] = []

    def note(version: ModelVersion) -> None:
        told.append((version.version, registry.resolve(f"shop/{version.version}").aliases))

    for name in ("1", "2", "1"):
        bundle = tmp_path / name
        bundle = bundle if bundle.exists() else write_sealed(bundle, name)
        registry.register("shop", bundle, {}, before_champion=note)
    assert told == [(1, ())]


def test_nothing_is_sent_home(registry: Registry, tmp_path: Path) -> None:
    registry.register("shop", write_sealed(tmp_path / "1", "a"), {})
    assert not [thread for thread in threading.enumerate() if "Telemetry" in thread.name]

"""Settings: where they come from, and what is refused."""

import ast
import inspect
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from catalog_batch import config
from catalog_batch.config import Settings, known_keys, load_settings
from catalog_batch.errors import ConfigError
from catalog_batch.resources import resource_folder
from catalog_batch.runs import config_hash

CONF = resource_folder("conf")


def toml(folder: Path, text: str, name: str = "settings.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_sources_the_defaults_hold() -> None:
    assert load_settings() == Settings()


def test_a_later_file_wins_over_an_earlier_one(tmp_path: Path) -> None:
    files = [
        toml(tmp_path, "[train]\nepochs = 2\nbatch_size = 3", "first.toml"),
        toml(tmp_path, "[train]\nepochs = 4", "second.toml"),
    ]
    train = load_settings(files).train
    assert (train.epochs, train.batch_size) == (4, 3)


def test_the_environment_wins_over_files_and_the_command_line_over_both(tmp_path: Path) -> None:
    files = [toml(tmp_path, "[train]\nepochs = 2\nbatch_size = 2\nseed = 2")]
    environment = {
        "CATALOG_BATCH__TRAIN__EPOCHS": "3",
        "CATALOG_BATCH__TRAIN__BATCH_SIZE": "3",
        "HOME": "/somewhere",
    }
    train = load_settings(files, environment, ["train.epochs=4"]).train
    assert (train.seed, train.batch_size, train.epochs) == (2, 3, 4)


def test_a_setting_outside_sections_can_be_overridden() -> None:
    assert load_settings(overrides=["warehouse=/data=1"]).warehouse == "/data=1"


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.epoch=3", "Did you mean 'train.epochs'"),
        ("ingets.stored_side=64", "Did you mean 'ingest"),
        ("warehose=x", "Did you mean 'warehouse'"),
        ("train.epochs.more=3", "Unknown setting 'train.epochs.more'"),
        ("=3", "Unknown setting ''"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        load_settings(overrides=[override])


def test_the_value_of_a_mistyped_key_is_not_told() -> None:
    with pytest.raises(ConfigError, match=r"'train\.mlflow_ur'.*'train\.mlflow_uri'") as refused:
        load_settings(overrides=["train.mlflow_ur=http://me:CANARY@host"])
    assert "CANARY" not in str(refused.value)


def test_an_unknown_key_is_refused_with_where_it_was_found(tmp_path: Path) -> None:
    path = toml(tmp_path, "[train]\nepoch = 2")
    with pytest.raises(ConfigError, match=r"'train\.epoch' in .*settings\.toml"):
        load_settings([path])
    with pytest.raises(ConfigError, match="CATALOG_BATCH__TRAIN__EPOCH"):
        load_settings(environment={"CATALOG_BATCH__TRAIN__EPOCH": "2"})


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=many",
        "train.epochs=0",
        "train.epochs=2.5",
        "train.learning_rate=nan",
        "train.device=tpu",
        "train.model_name=../elsewhere",
        "train=5",
        "ingest.jpeg_quality=101",
        "training_set.test_share=1",
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_bounds_is_refused_by_name(override: str) -> None:
    key, _, value = override.partition("=")
    section = key.partition(".")[0] if "." in key else ""
    told = f"{key} = '{value}'.*catalog-batch settings {section}".strip()
    with pytest.raises(ConfigError, match=told):
        load_settings(overrides=[override])


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_settings(overrides=["train.epochs"])


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml.*does not exist"):
        load_settings([tmp_path / "nowhere.toml"])


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings([tmp_path])


@pytest.mark.parametrize("content", [b"[train", b"epochs == 3", b'warehouse = "\xff"'])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml.*not valid TOML"):
        load_settings([path])


@pytest.mark.parametrize("profile", sorted(path.stem for path in CONF.glob("*.toml")))
def test_every_profile_loads_on_top_of_base(profile: str) -> None:
    settings = load_settings([CONF / "base.toml", CONF / f"{profile}.toml"]).model_dump()
    given = tomllib.loads((CONF / f"{profile}.toml").read_text(encoding="utf-8"))
    for name, value in given.items():
        loaded = settings[name]
        is_section = isinstance(value, dict)
        assert value == ({key: loaded[key] for key in value} if is_section else loaded)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().warehouse = "elsewhere"  # type: ignore[misc]


def test_registry_and_runs_lie_in_the_warehouse_unless_told() -> None:
    settings = load_settings(overrides=["warehouse=/w", "runs=/r"])
    assert (settings.registry_folder, settings.runs_folder) == (Path("/w/_registry"), Path("/r"))


def test_a_warehouse_on_an_object_store_needs_a_folder_for_the_registry() -> None:
    settings = load_settings(overrides=["warehouse=s3://bucket/w"])
    with pytest.raises(ConfigError, match="--set registry="):
        _ = settings.registry_folder


def test_every_setting_has_a_docstring_below_it() -> None:
    documented = set()
    for section in ast.parse(inspect.getsource(config)).body:
        if not isinstance(section, ast.ClassDef):
            continue
        for field, below in zip(section.body, section.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                documented.add((section.name, field.target.id))
    sections = {name: type(value) for name, value in Settings() if isinstance(value, BaseModel)}
    declared = {("Settings", name) for name in Settings.model_fields if name not in sections}
    declared |= {
        (section.__name__, name) for section in sections.values() for name in section.model_fields
    }
    assert declared == documented


def test_known_keys_names_sections_and_their_settings() -> None:
    keys = set(known_keys())
    assert {"warehouse", "train", "train.epochs", "ingest.stored_side"} <= keys


def test_the_hash_of_settings_changes_with_any_of_them() -> None:
    hashes = {
        config_hash(load_settings(overrides=overrides))
        for overrides in ([], ["train.epochs=3"], ["score.top_k=1"], ["warehouse=w"])
    }
    assert len(hashes) == 4
    assert config_hash(Settings()) in hashes


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    overrides = ["training_set.test_share=0.6", "training_set.validation_share=0.4"]
    with pytest.raises(ConfigError, match="nothing to train on"):
        load_settings(overrides=overrides)

"""What ``catalog-batch settings`` tells of a setting."""

import pytest

from catalog_batch.config import Settings, known_keys, load_settings
from catalog_batch.errors import ConfigError
from catalog_batch.settings_page import settings_page


def entries_of(page: str) -> dict[str, tuple[str, str]]:
    """Return the head and the meaning of each setting, by name."""
    entries = {}
    for entry in page.split("\n\n"):
        head, _, meaning = entry.partition("\n")
        entries[head.split(" = ")[0]] = (head, " ".join(meaning.split()))
    return entries


def test_every_setting_is_there_and_says_what_it_does() -> None:
    entries = entries_of(settings_page(Settings()))
    sections = {key.split(".")[0] for key in known_keys() if "." in key}
    assert set(entries) == set(known_keys()) - sections
    assert [name for name, (_, meaning) in entries.items() if len(meaning) < 15] == []


def test_a_setting_shows_its_value_what_it_may_be_and_its_default() -> None:
    settings = load_settings(
        overrides=["train.head=article", "train.label_smoothing=0.1", "train.trackers=mlflow"]
    )
    entries = entries_of(settings_page(settings, "train"))
    assert entries["train.head"][0] == (
        'train.head = "article"  (linear | article; default "linear")'
    )
    assert entries["train.label_smoothing"][0] == (
        "train.label_smoothing = 0.1  (>= 0, < 1; default 0.0)"
    )
    assert entries["train.image_side"][0] == "train.image_side = 0  (>= 0, <= 1024)"
    assert 'train.trackers = ["mlflow"]' in entries["train.trackers"][0]
    assert all(name.startswith("train.") for name in entries)


def test_what_may_hold_a_password_is_not_shown() -> None:
    settings = load_settings(overrides=["train.mlflow_uri=http://me:CANARY@host"])
    page = settings_page(settings, "train")
    assert "CANARY" not in page
    assert 'train.mlflow_uri = "***"' in page
    assert 'train.mlflow_uri = ""' in settings_page(Settings(), "train")


def test_a_section_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'trian'\. There are: warehouse.* train, "):
        settings_page(Settings(), "trian")

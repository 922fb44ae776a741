"""What the doctor finds on this machine, and on broken ones."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from catalog_batch import doctor
from catalog_batch.config import Settings, load_settings


def examined(settings: Settings) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=300)
    with console.capture() as printed:
        is_fine = doctor.examine(settings, console)
    return is_fine, printed.get()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(overrides=[f"warehouse={tmp_path}/warehouse"])


def have_free(gib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every disk have ``gib`` free: how much this machine has is not what is tested."""
    used = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: used._replace(free=gib << 30))


def test_a_machine_that_was_set_up_is_fine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_free(5, monkeypatch)
    is_fine, text = examined(settings)
    assert is_fine, text
    assert "bad" not in text
    for subject in (
        "Python",
        "Java",
        "pyspark",
        "Delta JARs",
        "Class archive",
        "Warehouse",
        "Free disk",
        "GPUs",
    ):
        assert f"ok   {subject}: " in text


def test_a_missing_java_is_red_with_its_mend(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    is_fine, text = examined(settings)
    assert not is_fine
    assert f"bad  Java: none at {tmp_path}/bin/java" in text
    assert "-> Install a JDK 17" in text


@pytest.mark.parametrize(
    ("version", "is_fine"),
    [('openjdk version "21.0.1"', True), ('java version "1.8.0_402"', False), ("what", False)],
)
def test_only_some_versions_of_java_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_fine: bool
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho '{version}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert doctor._java().is_fine is is_fine


def test_missing_jars_are_red_with_their_mend(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    is_fine, text = examined(settings)
    assert not is_fine
    assert "bad  Delta JARs: not fetched yet" in text
    assert "-> Run catalog-batch doctor --prepare" in text


def test_a_warehouse_says_how_many_tables_it_has(tmp_path: Path) -> None:
    for name in ("images", "products"):
        (tmp_path / name / "_delta_log").mkdir(parents=True)
    (tmp_path / "_staging").mkdir()
    finding = doctor._warehouse(str(tmp_path))
    assert finding.is_fine and finding.seen.endswith(", 2 tables")


@pytest.mark.parametrize("root", ["some/where/new", "s3://bucket/warehouse"])
def test_a_warehouse_that_is_not_there_yet_is_fine(root: str) -> None:
    assert doctor._warehouse(root).is_fine
    assert doctor._disk(root).seen.endswith(f"at {Path.cwd() if '://' in root else '.'}")


def test_a_full_disk_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    have_free(4, monkeypatch)
    finding = doctor._disk("/")
    assert not finding.is_fine and finding.seen.startswith("4.0 GiB")


def test_every_red_line_has_a_mend() -> None:
    for finding in doctor._packages():
        assert finding.is_fine, finding
        assert finding.mend

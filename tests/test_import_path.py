import importlib
import sys
import zipfile
from pathlib import Path

import pytest

from catalog_batch.import_path import forget_archives


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "archive.zip")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("first_in_archive.py", "VALUE = 1")
        file.writestr("second_in_archive.py", "VALUE = 2")
    monkeypatch.syspath_prepend(path)
    return path


def test_a_forgotten_archive_is_not_read_again(archive: str) -> None:
    importlib.import_module("first_in_archive")
    assert archive in sys.path_importer_cache
    forget_archives()
    assert archive not in sys.path_importer_cache
    importlib.import_module("first_in_archive")  # loaded: no look at the path
    assert archive not in sys.path_importer_cache


def test_modules_of_a_forgotten_archive_are_still_found(archive: str) -> None:
    forget_archives()
    assert importlib.import_module("second_in_archive").VALUE == 2

"""The archive of Spark's classes: that commands start from it, and do without it."""

from pathlib import Path

import pytest
from tests.commands import Finished, Line

from catalog_batch.class_archive import ARCHIVE, archive_options, write_archive
from catalog_batch.config import SparkSettings
from catalog_batch.errors import CatalogBatchError

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

QUERY = "SELECT count(*) AS n FROM products"


@pytest.fixture(scope="module")
def archive() -> Path:
    if not ARCHIVE.is_file():  # make setup has written it.
        write_archive(SparkSettings())
    return ARCHIVE


def query(line: Line, *java_options: str) -> Finished:
    options = " ".join([SparkSettings().java_options, *java_options])
    finished = line.run("sql", QUERY, "--format", "csv", f"--set=spark.java_options={options}")
    assert finished.exit_code == 0, finished
    return finished


def test_most_classes_come_from_the_archive(archive: Path, line: Line, tmp_path: Path) -> None:
    log = tmp_path / "loaded.log"
    finished = query(line, f"-Xlog:class+load:file={log}")
    loaded = log.read_text(encoding="utf-8").splitlines()
    archived = [text for text in loaded if text.endswith("shared objects file (top)")]
    assert len(archived) > 8_000
    assert len(archived) > len(loaded) / 2
    assert any("org.apache.spark.sql.SparkSession " in text for text in archived)
    assert any("org.apache.spark.sql.delta.DeltaLog " in text for text in archived)
    assert finished.output.splitlines()[0] == "n"


def test_with_an_archive_that_does_not_fit_the_output_is_the_same(
    archive: Path, line: Line, tmp_path: Path
) -> None:
    other = tmp_path / "an archive" / "of nothing.jsa"
    other.parent.mkdir()
    other.write_bytes(b"not an archive" * 1_000)
    assert query(line, archive_options(other)).output == query(line).output


def test_without_an_archive_there_is_no_option(tmp_path: Path) -> None:
    assert archive_options(tmp_path / "none.jsa") == ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CatalogBatchError, match=r"not written to .*file/classes\.jsa"):
        write_archive(SparkSettings(), tmp_path / "file" / "classes.jsa")

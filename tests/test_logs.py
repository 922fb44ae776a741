"""The log: a JSON object a line for machines, plain lines for people, always standard error."""

import json
import logging
from collections.abc import Iterator

import pytest

from catalog_batch import logs


@pytest.fixture(autouse=True)
def package_log() -> Iterator[None]:
    """Leave the package's logger as it was."""
    package = logging.getLogger("catalog_batch")
    before = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.level, package.propagate = before[0], before[1], before[2]


def test_each_line_is_a_json_object_with_its_place_in_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(json_lines=True)
    logger = logging.getLogger("catalog_batch.ingest.pipeline")
    logger.info("planned %s", {"to_do": 3})
    logger.warning("two\nlines", extra={"run_id": "ingest-1"})
    out, errors = capsys.readouterr()
    first, second = map(json.loads, errors.splitlines())
    assert out == ""
    assert (first["level"], first["message"]) == ("INFO", "planned {'to_do': 3}")
    assert first["logger"] == "catalog_batch.ingest.pipeline"
    assert first["time"].startswith("20")
    assert (second["message"], second["run_id"]) == ("two\nlines", "ingest-1")


def test_an_error_brings_its_traceback_in_the_same_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(json_lines=True)
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("catalog_batch").exception("crashed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: odd" in json.loads(line)["exc_info"]

"""What the command line says of words that are missing, before any job begins."""

import pytest
from tests.commands import run_command


@pytest.mark.parametrize("verb", ["ingest", "manifest", "migrate-taxonomy"])
def test_a_verb_without_its_argument_is_a_usage_error(verb: str) -> None:
    finished = run_command(["catalog-batch", verb])
    assert finished.exit_code == 2
    assert "Missing argument" in finished.errors
    assert "Traceback" not in finished.errors

"""What the command line says of words that are missing, before any job begins."""

import pytest
from tests.commands import run_command


@pytest.mark.parametrize("verb", ["ingest", "manifest", "migrate-taxonomy"])
def test_a_verb_without_its_argument_is_a_usage_error(verb: str) -> None:
    finished = run_command(["catalog-batch", verb])
    assert finished.exit_code == 2
    assert "Missing argument" in finished.errors
    assert "Traceback" not in finished.errors


def test_all_images_again_and_only_those_that_failed_are_a_usage_error_together() -> None:
    finished = run_command(["catalog-batch", "score", "--rescore", "--failed"])
    assert finished.exit_code == 2
    assert "--rescore takes every image" in " ".join(finished.errors.split())

"""The documentation says what is so."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest
from tests.commands import ROOT, run_command

from catalog_batch import errors, runs
from catalog_batch.config import TrainSettings
from catalog_batch.imaging import Reason
from catalog_batch.tables import ALL_TABLES, VIEWS


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("script", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_data_dictionary_is_made_from_the_schemas() -> None:
    written = (ROOT / "docs" / "data_dictionary.md").read_text(encoding="utf-8")
    assert written == load_script("docs/write_data_dictionary.py").data_dictionary()


def test_the_readme_names_every_table_view_and_job_script() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [table.name for table in ALL_TABLES] + list(VIEWS)
    scripts = [f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")]
    assert [name for name in [*names, *scripts] if f"`{name}`" not in readme] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/training.md"]
)
def test_links_lead_to_files(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split()
    explained = run_command(["make", "help"]).output
    assert [target for target in phony if f"make {target} " not in explained] == []


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_the_help_of_a_job_has_examples(script: str) -> None:
    shown = run_command([sys.executable, ROOT / "jobs" / script, "--help"])
    assert shown.exit_code == 0
    assert re.search(r"Examples?:\s+catalog-batch ", shown.output)


def test_the_operations_page_explains_every_rejection_and_every_exit_code() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = [f"| `{reason}` | {reason.sentence} | " for reason in Reason]
    assert [row for row in rows if row not in page] == []
    classes = [error for error in vars(errors).values() if isinstance(error, type)]
    known = {error.exit_code for error in classes} | set(runs._EXIT_CODES.values())
    table = page.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    assert known <= set(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE)))


def test_the_training_page_names_every_setting_that_exists() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    named = set(re.findall(r"train\.([a-z_]+)", page))
    assert named <= set(TrainSettings.model_fields)
    how = set(re.findall(r"`([a-z_]+)`", page.partition("| what | settings |")[2]))
    where = {"ray_address", "cpus_per_worker", "max_failures", "model_name", "weights_sha256"}
    where |= {"reader_threads", "decode_threads", "shuffle_rows", "stall_seconds"}
    where |= {"trackers", "mlflow_uri", "wandb_mode"}
    assert set(TrainSettings.model_fields) - how - where == {"epochs", "seed"}

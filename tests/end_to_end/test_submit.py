"""The same jobs through ``spark-submit``: from the checkout, from a wheel, on real executors."""

import shutil
import sys
import venv
from pathlib import Path

import pytest
from tests.commands import ROOT, Line, run_command

from catalog_batch.class_archive import archive_options

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
SUBMIT = ["spark-submit", "--properties-file", "conf/spark/local.conf"]
# Executors that live for a minute spend most of it on compiling what they run once.
OF_EXECUTORS = f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC {archive_options()}"


def test_executors_of_a_cluster_ingest_and_score(line: Line, tmp_path: Path) -> None:
    """Two executor processes, which share nothing with the driver but the disk."""
    warehouse = tmp_path / "warehouse"
    cluster = ["--master", "local-cluster[2,1,2048]", "--conf", "spark.executor.memory=1g"]
    cluster += ["--conf", f"spark.executor.extraJavaOptions={OF_EXECUTORS}"]
    ingested = run_command(
        [
            *SUBMIT,
            *cluster,
            "jobs/ingest_images.py",
            line.manifest,
            "--images",
            line.images,
            "--warehouse",
            str(warehouse),
        ]
    )
    assert ingested.exit_code == 0, ingested.errors
    assert ingested.status["counts"] == line.job("ingest").status["counts"]
    shutil.copytree(line.warehouse / "_registry", warehouse / "_registry")
    scored = run_command([*SUBMIT, *cluster, "jobs/score_images.py", "--warehouse", warehouse])
    assert scored.exit_code == 0, scored.errors
    expected = line.job("score").status["counts"]
    assert scored.status["counts"] == expected


def test_the_job_scripts_run_from_an_installed_wheel(line: Line, tmp_path: Path) -> None:
    """A second environment sees the dependencies, but not the checkout: only the wheel."""
    built = run_command(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, "."]
    )
    assert built.exit_code == 0, built.errors
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    wheel = next(tmp_path.glob("*.whl"))
    installed = run_command([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel])
    assert installed.exit_code == 0, installed.errors
    site = next(path for path in map(Path, sys.path) if (path / "pyspark").is_dir())
    purelib = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    # Dependencies only: an editable install of the checkout is not found through this list.
    (purelib / "dependencies.pth").write_text(f"{site}\n", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "jobs", elsewhere / "jobs")
    where = run_command([python, "-c", "import catalog_batch; print(catalog_batch.__file__)"])
    assert str(tmp_path) in where.output
    finished = run_command(
        [
            site / "pyspark" / "bin" / "spark-submit",
            "--properties-file",
            purelib / "catalog_batch" / "conf" / "spark" / "local.conf",
            "jobs/score_images.py",
            "--warehouse",
            shutil.copytree(line.warehouse, tmp_path / "warehouse", symlinks=True),
            "--rescore",
            "--max-images=5",
        ],
        cwd=elsewhere,
        PYSPARK_PYTHON=str(python),
        SPARK_HOME=str(site / "pyspark"),
    )
    assert finished.exit_code == 0, finished.errors
    assert finished.status["counts"]["images_scored"] == 5

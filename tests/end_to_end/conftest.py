"""One small warehouse, made by the console commands themselves, for all end-to-end tests."""

import pytest
from tests.commands import Line, run_command

PRODUCTS = 160
SMALL_TRAINING = [
    "--set=train.weights=none",
    "--set=train.architecture=squeezenet1_1",
    "--set=train.image_side=48",
    "--set=train.epochs=1",
    "--set=training_set.row_group_kib=128",
]


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder = tmp_path_factory.mktemp("line")
    line = Line(folder, {})
    line.jobs["generate"] = run_command(
        ["catalog-batch", "generate", folder / "catalogue", "--products", str(PRODUCTS)]
    )
    line.jobs["ingest"] = line.run("ingest", line.manifest, "--images", line.images)
    line.jobs["build-training-set"] = line.run("build-training-set", *SMALL_TRAINING)
    line.jobs["train"] = line.run("train", *SMALL_TRAINING)
    line.jobs["score"] = line.run("score")
    for name, job in line.jobs.items():
        assert job.exit_code == 0, f"{name}: {job.errors}"
    return line

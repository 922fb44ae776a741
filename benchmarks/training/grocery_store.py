"""How good a model comes out, on photos that others have published figures for?

    python -m benchmarks.training.grocery_store [--quick] [--force] [--data DIR]
        [--dataset DIR] [--weights FILE] [--settings FILE] [--skip-control]

The Grocery Store photos go the way of any catalogue: a manifest, ``ingest``,
``build-training-set``, ``train``, with the data set's own split and its own two levels of classes:
81 fine ones below 43 coarse ones. Training begins with ImageNet's weights and with the settings of
``benchmarks/training/grocery_store.toml``. The figures are those of the test split in the table
``evaluation_metrics``. The control begins with random weights, one rate for all of them, and is
the same otherwise: what it lacks is what the weights knew before.
"""

import argparse
import csv
import json
import shutil
import statistics
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from benchmarks.commands import Finished, run_command
from benchmarks.grocery_store_manifest import COLUMNS, grocery_rows
from benchmarks.ingest.lanes import CATALOG_BATCH
from benchmarks.measure import Goal, argument_parser, require_idle, table, write_result
from deltalake import DeltaTable

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
SETTINGS = Path(__file__).with_name("grocery_store.toml")
FINE_CLASSES, COARSE_CLASSES = 81, 43
FINE, COARSE = 80.0, 90.0
MINUTES = 60.0
QUICK = {"epochs": 1, "image_side": 64, "test_image_side": 0}
CONTROL = {"weights": "none", "backbone_rate": 1.0}


@dataclass(frozen=True)
class Model:
    """A trained model: its figures on the test split, by name, and how it was trained."""

    name: str
    figures: dict[str, tuple[float, float | None, float | None]]
    """Value and, where it has one, its interval of 95 %."""

    seconds: float
    """Of the whole command."""

    images_per_second: float
    """Of the median epoch, over all workers."""

    wait_share: float

    def percent(self, figure: str) -> float:
        return 100 * self.figures[figure][0]


def figure_names(paths: Iterable[str]) -> dict[str, str]:
    """Return what the accuracy over fine and over coarse classes is called.

    Raises:
        ValueError: When the paths are not department, coarse class and fine class.
    """
    parts = {tuple(path.split("/")) for path in paths}
    coarse = {prefix[:2] for prefix in parts}
    found = (len(parts), len(coarse), {len(prefix) for prefix in parts})
    if found != (FINE_CLASSES, COARSE_CLASSES, {3}):
        raise ValueError(
            f"{found[0]} fine and {found[1]} coarse classes at depths {found[2]}, where "
            f"{FINE_CLASSES} and {COARSE_CLASSES} at depth 3 belong. Check classes.csv."
        )
    return {"fine": "accuracy", "coarse": "accuracy_level_2"}


def write_manifest(dataset: Path, path: Path) -> list[str]:
    """Write the manifest; return the path of each photo's category."""
    rows = list(grocery_rows(dataset))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return [row["category"] for row in rows]


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a file's section ``[train]``."""
    with path.open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)["train"]
    return settings


def overrides(settings: dict[str, Any]) -> list[str]:
    """Return settings of ``train`` as options of the command line."""
    return [f"--set=train.{name}={value}" for name, value in settings.items()]


def run(verb: str, warehouse: Path, *options: str) -> Finished:
    """Run a verb of ``catalog-batch`` as a user would."""
    finished = run_command([CATALOG_BATCH, verb, *options, "-w", str(warehouse)])
    counts = finished.status.get("counts", "")
    print(f"{verb}: {finished.seconds:.0f} s {counts}", flush=True)
    return finished


def train(name: str, warehouse: Path, settings: dict[str, Any]) -> Model:
    """Train a model, and read its figures from the tables it fills."""
    options = [f"--run-name={name}", *overrides({**settings, "model_name": name})]
    finished = run("train", warehouse, *options)
    lines = (warehouse / "_runs" / name / "events.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [event for event in map(json.loads, lines) if event["event"] == "epoch"]
    return Model(
        name,
        read_figures(warehouse, name),
        finished.seconds,
        statistics.median(epoch["images_per_second"] for epoch in epochs),
        statistics.median(epoch["wait_share"] for epoch in epochs),
    )


def read_figures(warehouse: Path, name: str) -> dict[str, tuple[float, float | None, float | None]]:
    """Return the figures on the test split of the only version of a model."""
    of_model = (ds.field("model_name") == name) & (ds.field("split") == "test")
    metrics = DeltaTable(str(warehouse / "evaluation_metrics")).to_pyarrow_dataset()
    rows = metrics.to_table(filter=of_model).to_pylist()
    return {row["name"]: (row["value"], row["low"], row["high"]) for row in rows}


def goals_of(model: Model, names: dict[str, str]) -> list[Goal]:
    return [
        Goal("grocery_store_fine_percent", model.percent(names["fine"]), FINE),
        Goal("grocery_store_coarse_percent", model.percent(names["coarse"]), COARSE),
        Goal("grocery_store_training_minutes", model.seconds / 60, MINUTES, at_most=True),
    ]


def page_of(models: Sequence[Model], names: dict[str, str], settings: dict[str, Any]) -> str:
    intro = __doc__.partition("[--skip-control]")[2].strip()
    header = ("model", "fine % (95 %)", "coarse % (95 %)", "minutes", "images/s", "waiting")
    lines = [
        [
            model.name,
            *(_percent(model.figures[names[level]]) for level in ("fine", "coarse")),
            f"{model.seconds / 60:.1f}",
            f"{model.images_per_second:.1f}",
            f"{model.wait_share:.1%}",
        ]
        for model in models
    ]
    known = ", ".join(f"`{name} = {value!r}`" for name, value in settings.items())
    return f"# Grocery Store\n\n{intro}\n\n{table(header, lines)}\nSettings: {known}.\n\n"


def _percent(figure: tuple[float, float | None, float | None]) -> str:
    value, low, high = figure
    interval = (
        f" ({100 * low:.1f}-{100 * high:.1f})" if low is not None and high is not None else ""
    )
    return f"{100 * value:.1f}{interval}"


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser("Train on the Grocery Store photos, official train to test.")
    parser.add_argument(
        "--dataset", type=Path, default=SHARED / "data" / "grocery-store" / "dataset"
    )
    parser.add_argument(
        "--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet.pth"
    )
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="TOML with a section train")
    parser.add_argument("--skip-control", action="store_true", help="train the one model alone")
    return parser.parse_args()


def main() -> None:
    given = parse_arguments()
    for path in (given.dataset / "classes.csv", given.weights):
        if not path.is_file():
            print(f"Skipped: {path.name} is not there. Give --dataset and --weights.")
            return
    settings = read_settings(given.settings) | (QUICK if given.quick else {})
    idle = require_idle(given.force)
    work = given.data.resolve() / "grocery-store"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    manifest, warehouse = work / "manifest.csv", work / "warehouse"
    names = figure_names(write_manifest(given.dataset, manifest))
    run("ingest", warehouse, str(manifest), f"--images={given.dataset.resolve()}")
    counts = run("build-training-set", warehouse).status["counts"]
    starts = {"grocery-store": {"weights": str(given.weights.resolve())}}
    if not (given.skip_control or given.quick):
        starts["grocery-store-control"] = CONTROL
    models = [train(name, warehouse, settings | start) for name, start in starts.items()]
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "rows": counts,
        "settings": settings,
        "weights": given.weights.name,
        "models": [asdict(model) for model in models],
    }
    # One short epoch of small pictures shows that all runs, and not how good it gets.
    goals = [] if given.quick else goals_of(models[0], names)
    page = page_of(models, names, settings)
    command = "python -m benchmarks.training.grocery_store"
    command += " --skip-control" if given.skip_control else ""
    write_result("training-grocery-store", result, page, goals, command)


if __name__ == "__main__":
    main()

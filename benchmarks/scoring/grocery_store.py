"""Do the published predictions of real photos hold what the model's report promised?

    python -m benchmarks.scoring.grocery_store [--quick] [--data DIR] [--dataset DIR]
        [--weights FILE]

The Grocery Store photos are ingested, the head of a small network is trained on the official
training split, all photos are scored, and SQL over the published tables counts, on the test
split, what ``evaluation_metrics`` says of the model: accuracy of the images, the share of the
products that got a category, and how many of these are right. They may be half a point apart:
scoring leaves out categories of an image with a confidence below 0.01, and evaluation none.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.ingest.lanes import CATALOG_BATCH
from benchmarks.measure import Goal, argument_parser, require_idle, table, write_result
from benchmarks.training.grocery_store import SHARED, overrides, read_figures, run, write_manifest

SETTINGS = {
    "architecture": "mobilenet_v2",
    "freeze": "backbone",
    "augmentation": "none",
    "epochs": 40,
    "optimizer": "adamw",
    "target_precision": 0.9,
}
QUICK = {"image_side": 96, "epochs": 10}
MODEL = "groceries"
APART = 0.5
"""Percentage points."""

OF_TEST_SPLIT = """
WITH known AS (SELECT * FROM training_examples WHERE split = 'test'),
products AS (
  SELECT p.decision, p.category_id <=> known.category_id AS right
  FROM (SELECT DISTINCT product_id, category_id FROM known) known
  JOIN product_predictions p USING (product_id)
),
images AS (
  SELECT get(top_k, 0).category_id <=> category_id AS right
  FROM known JOIN image_predictions USING (image_id)
)
SELECT (SELECT avg(CAST(right AS INT)) FROM images) AS accuracy,
       (SELECT avg(CAST(decision = 'accepted' AS INT)) FROM products) AS accepted_share,
       (SELECT avg(CAST(right AS INT)) FROM products WHERE decision = 'accepted')
         AS accepted_precision,
       (SELECT avg(CAST(decision = 'backed_off' AS INT)) FROM products) AS backed_off_share
"""


def figures_in_sql(warehouse: Path) -> dict[str, float]:
    """Ask the published tables, as an analyst would."""
    command = [CATALOG_BATCH, "sql", OF_TEST_SPLIT, "--format", "json", "-w", str(warehouse)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float | None] = json.loads(answer.stdout)
    # Without accepted products there is no precision of them, here and in the report.
    return {name: value for name, value in found.items() if value is not None}


def page_of(promised: dict[str, float], found: dict[str, float]) -> str:
    """Return the page, as Markdown."""
    rows = [
        [name.replace("_", " "), f"{100 * promised[name]:.2f}", f"{100 * value:.2f}"]
        for name, value in found.items()
    ]
    intro = __doc__.partition("[--weights FILE]")[2].strip()
    lines = table(("of the test split", "report %", "SQL over published tables %"), rows)
    return f"# Published predictions of Grocery Store against the report\n\n{intro}\n\n{lines}\n"


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser("Compare published predictions of Grocery Store with the report.")
    photos = SHARED / "data" / "grocery-store" / "dataset"
    weights = SHARED / "weights" / "mobilenet_v2_imagenet.pth"
    parser.add_argument("--dataset", type=Path, default=photos)
    parser.add_argument("--weights", type=Path, default=weights)
    return parser.parse_args()


def main() -> None:
    given = parse_arguments()
    for path in (given.dataset / "classes.csv", given.weights):
        if not path.is_file():
            print(f"Skipped: {path.name} is not there. Give --dataset and --weights.")
            return
    work = given.data.resolve() / "scoring-grocery-store"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    manifest, warehouse = work / "manifest.csv", work / "warehouse"
    write_manifest(given.dataset, manifest)
    run("ingest", warehouse, str(manifest), f"--images={given.dataset.resolve()}")
    run("build-training-set", warehouse)
    settings = {
        **SETTINGS,
        **(QUICK if given.quick else {}),
        "weights": str(given.weights.resolve()),
        "model_name": MODEL,
    }
    run("train", warehouse, *overrides(settings))
    scored = run("score", warehouse, f"--model={MODEL}@champion")
    promised = {name: value for name, (value, _, _) in read_figures(warehouse, MODEL).items()}
    found = figures_in_sql(warehouse)
    apart = max(abs(100 * (found[name] - promised[name])) for name in found)
    result = {
        "quick": given.quick,
        "idle_before": require_idle(force=True),  # told as everywhere; no time is measured here
        "settings": {**settings, "weights": given.weights.name},
        "counts": scored.status["counts"],
        "report": {name: promised[name] for name in found},
        "sql": found,
    }
    goals = [Goal("published_against_report_points", apart, APART, at_most=True)]
    command = "python -m benchmarks.scoring.grocery_store"
    write_result("scoring-grocery-store", result, page_of(promised, found), goals, command)


if __name__ == "__main__":
    main()

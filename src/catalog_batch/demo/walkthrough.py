"""The whole line on a synthetic catalogue, told step by step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from catalog_batch.config import Settings
from catalog_batch.demo.catalogue import generate_catalogue
from catalog_batch.demo.summary import CatalogueSummary
from catalog_batch.ingest.pipeline import Request, ingest_catalogue
from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.progress import counts_table, progress_bar
from catalog_batch.queries import format_rows, run_query
from catalog_batch.runs import Clock, Run, open_run
from catalog_batch.score.pipeline import score_catalogue
from catalog_batch.train.pipeline import TrainSummary, train_and_register
from catalog_batch.training_set.pipeline import build_training_set
from catalog_batch.warehouse import Warehouse, open_warehouse

TRAINING_RUN = "demo"
PREDICTIONS = """
SELECT category_path, decision, count(*) AS products, round(avg(confidence), 3) AS confidence,
       round(avg(int(category_path = seller_category_path)), 3) AS agrees_with_seller
FROM current_predictions
GROUP BY 1, 2
ORDER BY 1, 2
"""


def demo_overrides() -> list[str]:
    """Return what the demo sets: small pictures, no download, few epochs."""
    return [
        "train.weights=none",
        "train.image_side=96",
        "train.batch_size=16",
        "train.epochs=10",
        "train.model_name=demo",
        "score.model=demo@champion",
        "ingest.rows_per_task=200",
    ]


def run_demo(
    folder: Path, products: int, seed: int, settings: Settings, clock: Clock
) -> dict[str, float]:
    """Draw, ingest, build, train, score and query; return the seconds each step took.

    Run again it finds everything done: the same catalogue, no changed row, the same model.

    Args:
        folder: Everything is left here: ``catalogue`` and the warehouse.
        products: How many to draw.
        seed: Of the catalogue.
        settings: With the warehouse inside ``folder``.
        clock: Tells the time.
    """
    out = Console()
    seconds: dict[str, float] = {}
    catalogue = folder / "catalogue"

    @contextmanager
    def step(name: str, title: str) -> Iterator[None]:
        out.print(f"\n[bold]{len(seconds) + 1}. {title}[/]")
        started = time.monotonic()
        yield
        seconds[name] = time.monotonic() - started

    with step("draw", f"Draw {products:,} products"):
        summary = _draw(catalogue, products, seed)
        out.print(
            f"{summary.manifest_rows:,} images in {catalogue}/images, {catalogue}/manifest.csv"
        )
    with open_warehouse(settings, "demo") as warehouse:
        with step("ingest", "Ingest: check, decode, resize, store once"):
            _ingest(warehouse, catalogue, settings, clock, out)
        with step("training set", "Build the training set: one pinned table version"):
            run = _job(
                "build-training-set",
                settings,
                clock,
                lambda run: build_training_set(warehouse, settings.training_set, run),
            )
            out.print(counts_table("images by split", run.counts))
        with step("train", f"Train {settings.train.architecture} on Ray, reading with Petastorm"):
            trained = _train(settings, clock, out)
        with step("score", "Score every product"):
            _score(warehouse, trained, settings, clock, out)
        with step("query", "Ask in SQL"):
            out.print(PREDICTIONS.strip(), highlight=False, style="dim", soft_wrap=True)
            print(format_rows(*run_query(warehouse, PREDICTIONS), "table"))
    out.print("\n[bold]Time by step[/]")
    for name, taken in seconds.items():
        out.print(f"  {name:14} {taken:6.1f} s", highlight=False)
    out.print(f"  {'all':14} {sum(seconds.values()):6.1f} s", highlight=False)
    _suggest_next(folder, out)
    return seconds


def _draw(catalogue: Path, products: int, seed: int) -> CatalogueSummary:
    with progress_bar("drawing products", products) as advance:
        return generate_catalogue(catalogue, products, seed, on_progress=advance)


def _job(name: str, settings: Settings, clock: Clock, work: Callable[[Run], object]) -> Run:
    with open_run(name, settings, clock) as run:
        work(run)
    return run


def _ingest(
    warehouse: Warehouse, catalogue: Path, settings: Settings, clock: Clock, out: Console
) -> None:
    manifest, images = str(catalogue / "manifest.csv"), str(catalogue / "images")
    request = Request(manifest, str(Path(images).absolute()), clock().date(), is_full=True)
    run = _job(
        "ingest",
        settings,
        clock,
        lambda run: ingest_catalogue(warehouse, request, settings.ingest, run),
    )
    out.print(counts_table(f"{run.rows_in:,} rows by outcome", run.counts))
    out.print(counts_table("rejected by reason", dict(sorted(run.rejected.items()))))


def _train(settings: Settings, clock: Clock, out: Console) -> TrainSummary:
    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            out.print(
                f"  epoch {event['epoch'] + 1}: loss {event['train_loss']:.3f}, validation "
                f"accuracy {event['validation_accuracy']:.3f}, "
                f"{event['images_per_second']:.0f} images/s",
                highlight=False,
            )

    with open_run("train", settings, clock) as run:
        summary = train_and_register(settings, run, None, TRAINING_RUN, tell)
    model, metrics = summary.model, summary.trained.metrics
    out.print(
        f"{model.model_name}/{model.version} is {model.alias}: test accuracy "
        f"[bold]{metrics.get('test_accuracy', 0.0):.3f}[/] on "
        f"{int(metrics.get('test_rows', 0))} images"
    )
    return summary


def _score(
    warehouse: Warehouse, trained: TrainSummary, settings: Settings, clock: Clock, out: Console
) -> None:
    spec = check_bundle(trained.model.bundle_folder)
    run = _job(
        "score",
        settings,
        clock,
        lambda run: score_catalogue(warehouse, trained.model, spec, settings.score, run),
    )
    out.print(counts_table("images scored, products by decision", run.counts))


def _suggest_next(folder: Path, out: Console) -> None:
    warehouse = f"--warehouse {folder}/warehouse"
    out.print("\n[bold]What to run next[/]")
    for command in (
        f'catalog-batch sql "SELECT * FROM review_queue LIMIT 10" {warehouse}',
        f'catalog-batch sql "SELECT * FROM rejections_by_reason" {warehouse}',
        f"catalog-batch ingest {folder}/catalogue/manifest.csv "
        f"--images {folder}/catalogue/images {warehouse}   # nothing new: exit code 10",
        "catalog-batch manifest YOUR_PHOTOS/ --output manifest.csv",
    ):
        out.print(f"  {command}", highlight=False, soft_wrap=True)

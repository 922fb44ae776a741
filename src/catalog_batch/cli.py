"""The command line: every verb, its options and its exit code.

Standard output carries results alone: a query's rows, or the one JSON status line of a job.
Everything for a person goes to standard error.
"""

import difflib
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

from catalog_batch import logs
from catalog_batch.config import Settings, load_settings
from catalog_batch.errors import CatalogBatchError, ConfigError
from catalog_batch.locations import plain_path
from catalog_batch.progress import console, counts_table, progress_bar, training_bar
from catalog_batch.resources import resource_folder
from catalog_batch.runs import Run, Status, open_run
from catalog_batch.stopping import listen, stoppable

if TYPE_CHECKING:  # they import torch
    from catalog_batch.compress.findings import Finding
    from catalog_batch.evaluate.gate import Check
    from catalog_batch.train.search import SearchSummary

logger = logging.getLogger(__name__)


def _examples(*commands: str, more: str = "") -> str:
    """Return a help's last paragraph, with a line for each command."""
    lines = [f"catalog-batch {command}" for command in commands]
    # Typer makes one line break of two, and a space of one.
    return "\n\n".join(
        ["Examples:" if commands[1:] else "Example:", *lines, *([more] if more else [])]
    )


app = typer.Typer(
    name="catalog-batch",
    help="Give millions of product photos a category by the morning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 published, 10 nothing to do, 20 bad input, 30 gate refused, "
    "40 model refused, 75 another run holds the lock, 1 crash, 2 wrong usage, "
    "130 and 143 stopped by Ctrl-C and SIGTERM.",
)


class BareRetry(TyperCommand):
    """Lets ``--retry-rejected`` stand without a reason, for all of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``all`` after a bare option."""
        option, ends = "--retry-rejected", [*args, "--"][1:]
        whole = [
            f"{word}=all" if word == option and following.startswith("-") else word
            for word, following in zip(args, ends, strict=True)
        ]
        return super().parse_args(ctx, whole)


Warehouse = Annotated[
    str | None,
    typer.Option("--warehouse", "-w", help="Folder or URI of the tables.", metavar="DIR"),
]
Profile = Annotated[
    str, typer.Option(help="Settings file of conf/ to use: local or production.", metavar="NAME")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, as section.key=value.", metavar="KEY=VALUE"),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of settings, over those of the profile; a search's best.toml is one.",
        metavar="FILE",
    ),
]
LogFormat = Annotated[
    Literal["auto", "text", "json"],
    typer.Option(help="How to log to standard error; auto is text on a terminal."),
]


def main(verb: str | None = None) -> None:
    """Run the command line and leave the process; a job script passes its verb."""
    listen()
    code: int | str | None = 0
    try:
        app([verb, *sys.argv[1:]] if verb else None)
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    # The run is over and logged. Tearing the interpreter down may still abort in delta-rs or Ray,
    # and a scheduler would take a published run for a crash.
    os._exit(code if isinstance(code, int) else 1)


@app.command(
    cls=BareRetry,
    epilog=_examples(
        "ingest manifest.csv --images photos/ --dry-run",
        "ingest all.parquet --images s3://shop/photos --full --night 2026-11-24",
        "ingest manifest.csv --images photos/ --retry-rejected unreadable",
    ),
)
def ingest(
    manifest: Annotated[
        str, typer.Argument(help="CSV, JSON Lines or Parquet file, or Delta folder.")
    ],
    images: Annotated[str, typer.Option(help="Folder or URI that every image lies under.")],
    night: Annotated[
        datetime | None,
        typer.Option(
            help="Night that the manifest describes; today unless given. A manifest of an older "
            "night than the newest one only adds.",
            formats=["%Y-%m-%d"],
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The whole catalogue: delist what it does not name.")
    ] = False,
    retry_rejected: Annotated[
        list[str] | None,
        typer.Option(
            help="Try rejected images again though their files did not change: those of a reason, "
            "or all of them.",
            metavar="[REASON]",
        ),
    ] = None,
    accept_columns: Annotated[
        bool,
        typer.Option(
            "--accept-columns", help="Accept that the manifest lost or retyped known columns."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan in counts; read and change nothing.")
    ] = False,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Read, check and store the images of a manifest; every row gets one outcome."""

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.ingest.pipeline import Request, ingest_catalogue, plan_ingest
        from catalog_batch.warehouse import open_warehouse

        request = Request(
            manifest,
            _absolute(images),
            utc_now().date(),
            night=night.date() if night else None,
            is_full=full,
            retried=reasons_to_retry(retry_rejected or []),
            accept_columns=accept_columns,
        )
        with open_warehouse(settings, "ingest") as tables:
            if dry_run:
                run.counts = plan_ingest(tables, request, settings.ingest, run.run_id)
            else:
                ingest_catalogue(tables, request, settings.ingest, run)

    if dry_run:
        _run_dry("ingest", work, warehouse, profile, overrides, log_format)
    _run_job("ingest", work, warehouse, profile, overrides, log_format)


@app.command(epilog=_examples("build-training-set --set training_set.seed=3"))
def build_training_set(
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Join labels with images, split them by product, and write one table version."""

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.training_set.pipeline import build_training_set
        from catalog_batch.warehouse import open_warehouse

        with open_warehouse(settings, "build-training-set") as tables:
            build_training_set(tables, settings.training_set, run)

    _run_job("build-training-set", work, warehouse, profile, overrides, log_format)


@app.command(
    epilog=_examples(
        "train --set train.architecture=mobilenet_v2 "
        "--set train.weights=mobilenet_v2.pth --set train.epochs=5",
        "train --set train.architecture=vgg16 --set train.head=article --set train.freeze=backbone",
        "train --set train.optimizer=adamw --set train.schedule=cosine "
        "--set train.warmup_epochs=1 --set train.backbone_rate=0.1",
        "train --config warehouse/_runs/first/best.toml",
        more="Every setting, with its bounds and what it does: catalog-batch settings train. "
        "docs/training.md has recipes.",
    )
)
def train(
    table_version: Annotated[
        int | None,
        typer.Option(
            help="Version of training_examples; unless given, the newest, or the one that a run "
            "to go on with was started on."
        ),
    ] = None,
    run_name: Annotated[
        str | None, typer.Option(help="Training run to start, or to go on with.", metavar="NAME")
    ] = None,
    config: Config = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Fine-tune a classifier over Ray workers, evaluate it, write its report and register it.

    The first model of a name becomes champion, later ones challenger. The same command with the
    same --run-name goes on where the run stopped.

    In _runs/NAME of the warehouse it leaves report.html, for people, and the bundle; the figures
    are in the tables evaluation_metrics and class_metrics. What does not fit is refused before Ray
    starts (exit code 20), weights that are not the network's too (40).
    """

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.train.pipeline import train_and_register

        with training_bar() as show:

            def tell(event: dict[str, Any]) -> None:
                show(event)
                tell_epoch(event)

            train_and_register(settings, run, table_version, run_name, tell, utc_now)

    _run_job("train", work, warehouse, profile, overrides, log_format, config)


@app.command(
    epilog=_examples(
        "search conf/search/first.toml --name first",
        "search conf/search/first.toml --name first --at-once 4 "
        "--set train.num_workers=1 --set train.epochs=9",
        "train --config warehouse/_runs/first/best.toml",
        more="docs/training.md says what a space looks like.",
    )
)
def search(
    space: Annotated[
        Path, typer.Argument(help="TOML file: the method, and the settings to search.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Search to start, or to go on with.", metavar="NAME")
    ] = None,
    table_version: Annotated[
        int | None,
        typer.Option(
            help="Version of training_examples; unless given, the newest, or the one that a search "
            "to go on with was started on."
        ),
    ] = None,
    at_once: Annotated[
        int,
        typer.Option(
            help="Trials that run at the same time, each with train.num_workers workers.", min=1
        ),
    ] = 1,
    config: Config = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Search for the best settings: by grid, at random, or stopping bad trials early (ASHA).

    Each trial is a training run, compared by its validation rows. The same --name again goes on
    where the search stopped. Leaves results.csv, results.png and best.toml.
    """

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.train.search import search_settings

        tell_results(
            search_settings(
                settings, run, space, table_version, name, at_once, tell_epoch, utc_now
            ),
            settings.warehouse,
        )

    _run_job("search", work, warehouse, profile, overrides, log_format, config)


@app.command(
    epilog=_examples(
        "promote",
        "promote catalogue/7 --set promote.min_improvement=0.01",
        "promote catalogue/7 --force",
    )
)
def promote(
    model: Annotated[
        str | None,
        typer.Argument(
            help="NAME@ALIAS or NAME/VERSION; the challenger of train.model_name unless given.",
            metavar="[MODEL]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote it whatever the comparison says; it is recorded."),
    ] = False,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Make a challenger champion if it is good enough on the same test rows; else exit 30."""

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.promotion.pipeline import promote_model

        reference = model or f"{settings.train.model_name}@challenger"
        promote_model(settings, run, reference, force, tell_checks, utc_now)

    _run_job("promote", work, warehouse, profile, overrides, log_format)


@app.command(
    epilog=_examples(
        "optimise",
        "optimise catalogue/7 --set optimise.variants=onnx-fp32,openvino-int8",
        "optimise catalogue@challenger --set optimise.threads=2",
        more="A kept variant is the model's next version, a challenger: promote lets it score. "
        "The table model_variants has what each showed.",
    )
)
def optimise(
    model: Annotated[
        str | None,
        typer.Argument(
            help="NAME@ALIAS or NAME/VERSION, as trained; score.model unless given.",
            metavar="[MODEL]",
            show_default=False,
        ),
    ] = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Make a model faster on this machine: try its variants, register the fastest that agrees.

    Run it on a machine like those that score. Exits with 10 when no variant is worth keeping, or
    when the one that is was registered before.
    """

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.compress.pipeline import optimise_model

        optimise_model(settings, run, model or settings.score.model, tell_findings, utc_now)

    _run_job("optimise", work, warehouse, profile, overrides, log_format)


@app.command(epilog=_examples("rollback", "rollback catalogue"))
def rollback(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Registered model; train.model_name unless given.",
            metavar="[NAME]",
            show_default=False,
        ),
    ] = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Make the champion before the present one champion again: undo the last promotion."""

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.promotion.pipeline import rollback_model

        rollback_model(settings, run, name or settings.train.model_name, utc_now)

    _run_job("rollback", work, warehouse, profile, overrides, log_format)


@app.command(
    epilog=_examples(
        "score",
        "score --model catalogue/3 --max-images 200000",
        "score --products returned.txt --rescore",
        "score --model catalogue@challenger --shadow",
    )
)
def score(
    model: Annotated[
        str | None, typer.Option(help="NAME@ALIAS or NAME/VERSION.", metavar="MODEL")
    ] = None,
    max_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most images to score, the newest first; the next run goes on.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            help="Only images that were stored then or later, UTC.",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            show_default=False,
        ),
    ] = None,
    products: Annotated[
        Path | None,
        typer.Option(
            help="Only the products that a text file names, one id a line.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score images again that the model has scored.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Score only images again that could not be scored.")
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Write decisions to shadow_predictions, beside the published ones."
        ),
    ] = False,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Predict a category for every product; only images new to the model are scored.

    A product that shows an image which the model has not scored yet keeps the prediction it had.
    """
    if rescore and failed:
        raise typer.BadParameter("--rescore takes every image and --failed some: give one of them.")

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch import ledger
        from catalog_batch.score import DAEMON
        from catalog_batch.score.selection import Scope, read_product_ids, require_shadow
        from catalog_batch.spark import begin_session

        named = read_product_ids(products) if products else None
        start = since and since.replace(tzinfo=UTC)
        scope = Scope(max_images, start, named, rescore, shadow, failed)
        require_shadow(settings.score.model, scope)

        ledger.require(settings.warehouse, "images")
        # A model that is refused does not wait for Spark, which takes its time to start.
        session = begin_session(settings.spark, "catalog-batch score", DAEMON)
        from catalog_batch.modeling.spec import check_bundle, refuse_embeddings
        from catalog_batch.modeling.variants import VARIANTS, require_engine
        from catalog_batch.models_table import require_same_registry
        from catalog_batch.registry import Registry
        from catalog_batch.score.fingerprint import is_done
        from catalog_batch.score.pipeline import score_catalogue
        from catalog_batch.warehouse import open_warehouse

        registry = Registry(settings.registry_folder)
        resolved = registry.resolve(settings.score.model)
        run.details = {"model": resolved.reference}
        require_same_registry(settings.warehouse, registry, resolved.model_name)
        spec = check_bundle(resolved.bundle_folder)
        require_engine(VARIANTS[spec.variant])
        if settings.score.keep_embeddings:
            refuse_embeddings(spec)
        if scope.is_only_new and is_done(settings.warehouse, run.job, resolved, settings.score):
            run.finish(Status.NOTHING_TO_DO)
            return
        with open_warehouse(settings, "score", session) as tables:
            score_catalogue(tables, resolved, spec, settings.score, run, scope)

    named = [f"score.model={model}"] if model else []
    _run_job("score", work, warehouse, profile, [*(overrides or []), *named], log_format)


@app.command(
    epilog=_examples(
        "migrate-taxonomy autumn.csv --dry-run",
        more="The file has the columns old_path and new_path. What lies below a path moves with "
        "it; several rows with one old path are a split, an empty new path withdraws it.",
    )
)
def migrate_taxonomy(
    mapping: Annotated[Path, typer.Argument(help="CSV file of old and new paths.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would move, and change nothing.")
    ] = False,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Move categories and published predictions to a new tree, without a model.

    Products whose category was split or withdrawn keep their prediction; the view
    predictions_to_rescore lists them.
    """

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.migration.mapping import read_mapping
        from catalog_batch.migration.pipeline import migrate_taxonomy
        from catalog_batch.warehouse import open_warehouse

        wanted = read_mapping(mapping)  # One that is refused does not wait for Spark.
        with open_warehouse(settings, "migrate-taxonomy") as tables:
            migrate_taxonomy(tables, wanted, run, dry_run)

    if dry_run:
        _run_dry("migrate-taxonomy", work, warehouse, profile, overrides, log_format)
    _run_job("migrate-taxonomy", work, warehouse, profile, overrides, log_format)


@app.command(
    "settings",
    epilog=_examples("settings train", "settings --profile production"),
)
def show_settings(
    section: Annotated[
        str, typer.Argument(help="ingest, train, score, ...; all unless given.")
    ] = "",
    config: Config = None,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Show every setting: its value here, what it may be, and what it does."""

    def work() -> None:
        from catalog_batch.settings_page import settings_page

        print(settings_page(_settings(warehouse, profile, overrides, config), section))

    _run_plain(work, log_format)


@app.command(
    epilog=_examples(
        'sql "SELECT category_path, count(*) FROM current_predictions GROUP BY 1 ORDER BY 2 DESC"'
    )
)
def sql(
    query: Annotated[str, typer.Argument(help="One reading statement; every table has its name.")],
    style: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print the rows.")
    ] = "table",
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Query the warehouse in SQL."""

    def work() -> None:
        from catalog_batch.queries import format_rows, run_query
        from catalog_batch.warehouse import open_warehouse

        settings = _settings(warehouse, profile, overrides)
        with open_warehouse(settings, "sql") as tables:
            print(format_rows(*run_query(tables, query), style))

    _run_plain(work, log_format)


@app.command(epilog=_examples("maintain-tables products images --dry-run"))
def maintain_tables(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Tables to care for; all unless given.", metavar="TABLE"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Merge small files and delete old ones; exit 75 while a job writes tables."""

    def work(settings: Settings, run: Run) -> None:
        from catalog_batch.maintenance.pipeline import maintain_tables, tables_named
        from catalog_batch.warehouse import open_warehouse

        wanted = tables_named(names or [])
        with open_warehouse(settings, "maintain-tables") as tables:
            maintain_tables(tables, settings.maintenance, run, wanted, dry_run)

    if dry_run:
        _run_dry("maintain-tables", work, warehouse, profile, overrides, log_format)
    _run_job("maintain-tables", work, warehouse, profile, overrides, log_format)


@app.command(epilog=_examples("manifest photos/ --output manifest.csv"))
def manifest(
    folder: Annotated[
        Path, typer.Argument(help="Class folders, tar shards, or files and metadata.csv.")
    ],
    output: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("manifest.csv"),
    log_format: LogFormat = "auto",
) -> None:
    """Make a manifest from class folders, or from metadata.csv or metadata.jsonl."""

    def work() -> None:
        from catalog_batch.ingest.manifest_files import write_manifest

        rows = write_manifest(folder, output)
        console().print(f"{rows:,} rows in {output}.")
        _tell_next("ingest", output, "--images", folder)

    _run_plain(work, log_format)


@app.command(epilog=_examples("generate catalogue/ --products 1000 --seed 7"))
def generate(
    folder: Annotated[
        Path, typer.Argument(help="Folder to make; refused if it holds other files.")
    ],
    products: Annotated[int, typer.Option(help="Products to draw, 1 to 3 images each.", min=1)] = (
        1000
    ),
    seed: Annotated[int, typer.Option(help="The same seed draws the same files.", min=0)] = 7,
    workers: Annotated[
        int | None, typer.Option(help="Processes that draw; all cores unless given.", min=1)
    ] = None,
    log_format: LogFormat = "auto",
) -> None:
    """Draw a synthetic catalogue with known labels, bad images and duplicates."""

    def work() -> None:
        from catalog_batch.demo.catalogue import generate_catalogue

        with progress_bar("drawing products", products) as advance:
            summary = generate_catalogue(
                folder, products, seed, workers=workers, on_progress=advance
            )
        console().print(
            f"{summary.products:,} products, {summary.manifest_rows:,} images in {folder}."
        )
        _tell_next("ingest", f"{folder}/manifest.csv", "--images", f"{folder}/images")

    _run_plain(work, log_format)


@app.command(epilog=_examples("demo --products 300"))
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is left.")] = Path("demo"),
    products: Annotated[int, typer.Option(help="Products to draw.", min=50)] = 800,
    seed: Annotated[int, typer.Option(help="Of the catalogue.", min=0)] = 7,
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Run the whole line on a synthetic catalogue: draw, ingest, train, score, query."""

    def work() -> None:
        from catalog_batch.demo.walkthrough import demo_overrides, run_demo

        settings = _settings(
            str(folder / "warehouse"), "local", [*demo_overrides(), *(overrides or [])]
        )
        run_demo(folder, products, seed, settings, utc_now)

    _run_plain(work, log_format)


@app.command(epilog=_examples("doctor --prepare"))
def doctor(
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Fetch Delta's JARs if they are missing, and archive Spark's classes: that takes "
            "a minute, and some seconds off each start.",
        ),
    ] = False,
    warehouse: Warehouse = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    log_format: LogFormat = "auto",
) -> None:
    """Check this machine and say how to mend what is wrong; exit 20 if anything is."""

    def work() -> None:
        from catalog_batch import doctor as machine

        settings = _settings(warehouse, profile, overrides)
        if prepare:
            machine.prepare(settings.spark)
        if not machine.examine(settings, console()):
            raise typer.Exit(20)

    _run_plain(work, log_format)


def reasons_to_retry(names: list[str]) -> frozenset[str]:
    """Return the reasons that ``--retry-rejected`` names.

    Raises:
        ConfigError: When one of them is no reason.
    """
    from catalog_batch.imaging import Reason

    known = {str(reason) for reason in Reason}
    if "all" in names:
        return frozenset(known)
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(
                f"--retry-rejected {name!r} is no reason of rejection.{hint} "
                f"Reasons: all, {', '.join(sorted(known))}."
            )
    return frozenset(names)


def utc_now() -> datetime:
    """Return the time, UTC; the one place that reads the clock."""
    return datetime.now(UTC)


def tell_epoch(event: dict[str, Any]) -> None:
    """Print one line an epoch, and one for the end of each trial; the rest is for a bar."""
    if event["event"] == "epoch":
        trial = f"{event['trial']}, " if "trial" in event else ""
        console().print(
            f"{trial}epoch {event['epoch'] + 1}: "
            f"loss {event['train_loss']:.3f}, validation loss {event['validation_loss']:.3f}, "
            f"validation accuracy {event['validation_accuracy']:.3f}, "
            f"{event['images_per_second']:.0f} images/s, "
            f"{event['wait_share']:.0%} waiting" + (" (kept)" if event["improved"] else ""),
            highlight=False,
            soft_wrap=True,
        )
    elif event["event"] == "trial":
        error = f": {event['error']}" if event["error"] else ""
        console().print(
            f"{event['trial']}: {event['outcome']}{error}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    elif event["event"] == "checkpoint_refused":
        logger.warning(
            "checkpoint %s is damaged (%s): training goes on from the one before, if there is one",
            event["checkpoint"],
            event["problem"],
        )
    elif event["event"] not in ("progress", "system"):
        logger.info("training: %s", event)


def tell_results(summary: "SearchSummary", warehouse: str) -> None:
    """Print a search's trials, best first, on a terminal."""
    from catalog_batch.train.search_report import results_table

    if console().is_terminal:
        console().print(results_table(summary.space, summary.results))
        _tell_next("train", "--config", f"{summary.folder}/best.toml", "--warehouse", warehouse)


def _tell_next(*words: object) -> None:
    """Show the command to go on with on one line, however long, so that it can be copied."""
    command = shlex.join(["catalog-batch", *map(str, words)])
    console().print(f"Next: {command}", markup=False, highlight=False, soft_wrap=True)


def tell_checks(checks: Sequence["Check"]) -> None:
    """Print the bounds with the figures they were compared with, on a terminal."""
    from catalog_batch.promotion.contest import checks_table

    if checks and console().is_terminal:
        console().print(checks_table(checks))


def tell_findings(findings: Sequence["Finding"]) -> None:
    """Show what each variant showed, a line each, to whoever watches a terminal."""
    from catalog_batch.compress.findings import findings_table

    if console().is_terminal:
        console().print(findings_table(findings))


def _settings(
    warehouse: str | None,
    profile: str,
    overrides: list[str] | None,
    config: Path | None = None,
) -> Settings:
    folder = resource_folder("conf")
    named = [f"warehouse={warehouse}"] if warehouse else []
    settings = load_settings(
        [folder / "base.toml", folder / f"{profile}.toml", *([config] if config else [])],
        os.environ,
        [*(overrides or []), *named],
    )
    return settings.model_copy(update={"warehouse": _absolute(plain_path(settings.warehouse))})


def _absolute(location: str) -> str:
    """Make a local path absolute: executors and Ray workers work in folders of their own."""
    return location if "://" in location else os.path.abspath(location)


def _run_job(
    job: str,
    work: Callable[[Settings, Run], None],
    warehouse: str | None,
    profile: str,
    overrides: list[str] | None,
    log_format: str,
    config: Path | None = None,
) -> None:
    """Run a job inside its run; print its status line; exit with its code."""
    _configure_logs(log_format)
    run = Run(run_id="", job=job, started_at=utc_now(), config_hash="")
    try:
        settings = _settings(warehouse, profile, overrides, config)
        with open_run(job, settings, utc_now) as run, stoppable():
            work(settings, run)
    except CatalogBatchError as error:
        _refuse(error, run)
    except SystemExit as error:
        run.finish(Status.STOPPED)
        run.exit_code = error.code if isinstance(error.code, int) else run.exit_code
        print(run.status_line(), flush=True)
        raise typer.Exit(run.exit_code) from None
    except Exception:
        logger.exception("%s crashed", job)
        run.finish(Status.FAILED)
        run.error = run.error or "crashed before it began"
    if console().is_terminal:
        figures = {**run.counts, **run.rejected, **run.measures}
        console().print(counts_table(f"{job}: {run.status}", figures))
    print(run.status_line(), flush=True)
    raise typer.Exit(run.exit_code)


def _run_dry(
    job: str,
    work: Callable[[Settings, Run], None],
    warehouse: str | None,
    profile: str,
    overrides: list[str] | None,
    log_format: str,
) -> NoReturn:
    """Run the planning of a job: no lock, no row in ``run_log``, the counts as one line of JSON."""
    _configure_logs(log_format)
    now = utc_now()
    run = Run(f"plan-{now:%Y%m%dT%H%M%S}-{os.getpid()}", job, started_at=now, config_hash="")
    try:
        with stoppable():
            work(_settings(warehouse, profile, overrides), run)
    except CatalogBatchError as error:
        _refuse(error, run)
        raise typer.Exit(error.exit_code) from error
    if console().is_terminal:
        console().print(counts_table(f"{job}: the plan", run.counts))
    plan = {"job": job, "status": "planned", "exit_code": 0, "counts": run.counts, **run.details}
    print(json.dumps(plan))
    raise typer.Exit(0)


def _refuse(error: CatalogBatchError, run: Run) -> None:
    console().print(f"[bold red]{type(error).__name__}[/]: ", end="")
    console().print(str(error), markup=False, highlight=False, soft_wrap=True)
    run.exit_code = error.exit_code
    run.status = Status.FAILED if error.exit_code == 1 else Status.REFUSED
    run.error = run.error or str(error).splitlines()[0]


def _run_plain(work: Callable[[], None], log_format: str) -> None:
    """Run a verb that is no job: no lock, no row, no status line."""
    _configure_logs(log_format)
    try:
        with stoppable():
            work()
    except CatalogBatchError as error:
        _refuse(error, Run(run_id="", job="", started_at=utc_now(), config_hash=""))
        raise typer.Exit(error.exit_code) from error


def _configure_logs(log_format: str) -> None:
    is_json = log_format == "json" or (log_format == "auto" and not console().is_terminal)
    logs.configure(json_lines=is_json)

"""Train, evaluate, bundle and register a classifier: the job, without a JVM."""

import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog_batch import ledger, promotions_table
from catalog_batch.config import Settings
from catalog_batch.errors import ConfigError, MissingTableError
from catalog_batch.evaluate.judgement import Judgement
from catalog_batch.evaluate.rows import EVALUATION_TABLES, evaluation_rows
from catalog_batch.leases import held_lease
from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.modeling.manifest import SPEC
from catalog_batch.models_table import TABLE as MODELS
from catalog_batch.models_table import held_aliases, publish_models, require_same_registry
from catalog_batch.promotions_table import Action, Entry
from catalog_batch.registry import DOUBT, NAME, ModelVersion, Registry
from catalog_batch.resources import resource_folder
from catalog_batch.runs import Clock, Run, Status
from catalog_batch.train.events import PASSING, OnEvent
from catalog_batch.train.run_report import write_run_report
from catalog_batch.train.tracking.trackers import Trackers, open_trackers, require_trackers
from catalog_batch.train.trainer import (
    LOCK,
    TrainedModel,
    plan_training,
    refuse_search,
    train_planned,
)

JOB = "train"
logger = logging.getLogger(__name__)
TABLE = "training_examples"


@dataclass(frozen=True)
class TrainSummary:
    """The registered model and what was measured."""

    model: ModelVersion
    trained: TrainedModel


def train_and_register(
    settings: Settings,
    run: Run,
    version: int | None = None,
    training_run: str | None = None,
    on_event: OnEvent = lambda event: None,
    clock: Clock = lambda: datetime.now(UTC),
) -> TrainSummary:
    """Train on a pinned version of ``training_examples`` and register the bundle.

    Args:
        settings: Of the whole package.
        run: Filled in with rows, metrics and versions.
        version: Of the training table; None takes the newest, or the one an unfinished run pinned.
        training_run: Name of a training run to go on with, or to find finished; a new one unless
            given.
        on_event: Called from a thread for each epoch and each step worth telling
            (``train.events``).
        clock: Tells until when the table's files are leased, UTC.

    Raises:
        BadInputError: When the table or the settings cannot be trained with.
        ModelRefusedError: When the weights to start from are damaged, or the registry is not the
            one that the warehouse knows.
        LockHeldError: When somebody else, a search perhaps, trains in the run's folder.
    """
    name = run_name(run.run_id if training_run is None else training_run)
    require_trackers(settings.train)
    require_tables(settings.warehouse)
    registry = Registry(settings.registry_folder)
    require_same_registry(settings.warehouse, registry, settings.train.model_name)
    lease_hours = settings.maintenance.lease_hours
    commit = git_commit()
    refuse_search(settings.runs_folder / name)  # which may hold a lease of that name
    with held_lease(settings.warehouse, TABLE, version, name, lease_hours, clock) as renew:
        table, runs = f"{settings.warehouse}/{TABLE}", settings.runs_folder
        # Before any tracker hears of it: what is refused is no part of the run.
        planned = plan_training(table, version, settings.train, runs, name)
        with (
            ledger.held_lock(planned.folder / LOCK, wait=False),
            _tracked(settings, name, commit) as trackers,
        ):
            tell = _telling(renew, trackers, on_event)
            trained = train_planned(planned, commit, run.started_at.isoformat(), tell)
            model, is_new = _registered(settings, registry, name, trained, run, clock)
            is_new |= publish_evaluation(settings.warehouse, model, trained.judgement)
            report = _reported(settings, registry, model, trained)
            trackers.log_artefacts([Path(report), trained.bundle_folder / SPEC])
            trackers.end(trained.metrics)
    run.finish(Status.PUBLISHED if is_new else Status.NOTHING_TO_DO)
    run.rows_in = run.rows_out = trained.history[-1].train_rows
    run.table_versions = {TABLE: trained.snapshot_version}
    run.details = {
        "model": f"{model.model_name}/{model.version}",
        "alias": model.alias,
        "report": report,
        "metrics": {key: round(value, 4) for key, value in trained.metrics.items()},
    }
    return TrainSummary(model, trained)


def run_name(name: str) -> str:
    """Return a name that can be a folder's.

    Raises:
        ConfigError: For any other.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"Run name {name!r} is refused: use letters, digits, '_' and '-', beginning with a "
            "letter or digit."
        )
    return name


def require_tables(root: str) -> None:
    """Check that there are the tables that a training fills at its end, before it begins.

    Raises:
        MissingTableError: Naming those that are not there.
    """
    filled = (MODELS, promotions_table.TABLE, *EVALUATION_TABLES)
    missing = [name for name in filled if not ledger.exists(root, name)]
    if missing:
        raise MissingTableError(
            f"The warehouse {root!r} has no tables {missing}, which training fills at its end. Run "
            "ingest, which creates what is missing, or check --warehouse."
        )


def publish_evaluation(root: str, model: ModelVersion, judgement: Judgement) -> bool:
    """Bring a model version's rows in the tables of evaluation up to date; others stay.

    Returns:
        Whether they were others before.
    """
    of_model: dict[str, str | int] = {
        "model_name": model.model_name,
        "model_version": model.version,
    }
    lineage = {**of_model, "run_id": model.tags["training_run"]}
    changed = [
        ledger.replace_rows(root, table, [{**lineage, **row} for row in rows], of_model)
        for table, rows in evaluation_rows(judgement).items()
    ]
    return any(changed)


def _registered(
    settings: Settings,
    registry: Registry,
    name: str,
    trained: TrainedModel,
    run: Run,
    clock: Clock,
) -> tuple[ModelVersion, bool]:
    """Register the bundle and tell the tables; return the version and whether it is a new one."""

    def record_first(first: ModelVersion) -> None:
        entry = Entry(clock(), first.model_name, Action.FIRST, first.version, None, run.run_id)
        promotions_table.record(settings.warehouse, entry, champion=None)
        accuracy, least = trained.metrics.get("test_accuracy"), settings.promote.min_accuracy
        if accuracy is None or accuracy < least:
            logger.warning(
                "%s becomes champion, as the first of its name: its accuracy on test rows is %s, "
                "and promote.min_accuracy %g. Look at its report before score publishes answers",
                first.reference,
                "unknown" if accuracy is None else f"{accuracy:.3f}",
                least,
            )

    with held_aliases(settings.warehouse):
        versions_before = len(registry.list_versions())
        model = registry.register(
            settings.train.model_name,
            trained.bundle_folder,
            trained.metrics,
            _tags(name, trained),
            record_first,
        )
        publish_models(settings.warehouse, registry)
        return model, len(registry.list_versions()) > versions_before


def _reported(
    settings: Settings, registry: Registry, model: ModelVersion, trained: TrainedModel
) -> str:
    """Write the report and return its path; the model stands, whatever is wrong with the page."""
    try:
        return str(write_run_report(settings, registry, model, trained))
    except Exception:
        logger.exception("the report of %s/%d is not written", model.model_name, model.version)
        return ""


def git_commit() -> str:
    """Return the commit this code was checked out at, or ``unknown`` outside a checkout."""
    checkout = resource_folder("conf").parent
    if not (checkout / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"  # A machine without git.
    return finished.stdout.strip() or "unknown"


def _tags(name: str, trained: TrainedModel) -> dict[str, str]:
    """Return what the ``models`` table says of a version, so that no bundle is opened for it."""
    spec = check_bundle(trained.bundle_folder)
    return {
        "training_run": name,
        "architecture": spec.architecture,
        "training_table_version": str(spec.training_table_version),
        "taxonomy_version": str(spec.taxonomy_version),
        "git_commit": spec.git_commit,
        **({DOUBT: trained.doubt} if trained.doubt else {}),
    }


def _telling(renew: Callable[[], None], trackers: Trackers, on_event: OnEvent) -> OnEvent:
    """Renew the lease with what happens once an epoch, and tell the trackers and the caller."""

    def tell(event: dict[str, Any]) -> None:
        if event["event"] not in PASSING:
            renew()
        trackers.log_event(event)
        on_event(event)

    return tell


@contextmanager
def _tracked(settings: Settings, name: str, commit: str) -> Iterator[Trackers]:
    """Open the run's trackers; a run that is not ended in the block has failed."""
    trackers = open_trackers(settings, name, commit)
    try:
        yield trackers
    finally:
        trackers.end({}, succeeded=False)

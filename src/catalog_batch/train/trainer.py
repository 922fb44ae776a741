"""Training a classifier on a version of the table, from the settings to a model bundle."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalog_batch import ledger
from catalog_batch.config import TrainSettings
from catalog_batch.errors import BadInputError, CatalogBatchError, ConfigError
from catalog_batch.evaluate.judgement import Decider, Judgement, fit_decider, judge
from catalog_batch.evaluate.predictions import SPLITS, Predictions, file_name, load_predictions
from catalog_batch.modeling.bundle import (
    BundleSpec,
    ClassLabel,
    check_bundle,
    load_bundle,
    write_bundle,
)
from catalog_batch.modeling.freezing import Freezing
from catalog_batch.modeling.networks import build_network, refuse_untrainable, require_one_network
from catalog_batch.modeling.starting import is_bundle
from catalog_batch.train import checkpoints, events
from catalog_batch.train.cluster import expected_device, run_workers
from catalog_batch.train.readers import preprocessing_for, scoring_preprocessing_for
from catalog_batch.train.recipe import refuse_unfit
from catalog_batch.train.reports import EpochReport
from catalog_batch.train.seen_rows import doubt_of_start
from catalog_batch.train.snapshot import Snapshot, resolve_snapshot
from catalog_batch.train.worker import network_for, recipe_settings, without_weights

logger = logging.getLogger(__name__)

RUN = "run.json"
SEARCH = "search.json"
BUNDLE = "bundle"
DOUBT = "doubt"
"""Why figures may be too good, in ``run.json``: as it was when the run began."""

LOCK = ".lock"
"""Of a run's folder: held by whoever trains in it."""

MAY_CHANGE = {
    "ray_address",
    "num_workers",
    "cpus_per_worker",
    "device",
    "keep_memory",
    "max_failures",
    "checkpoint_minutes",
    "reader_threads",
    "decode_threads",
    "stall_seconds",
    "trackers",
    "mlflow_uri",
    "wandb_mode",
    "watchdog_minutes",
}
"""Settings of where a run happens and is followed: another machine may finish it."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained, evaluated model in its bundle."""

    bundle_folder: Path
    digest: str
    snapshot_version: int
    metrics: dict[str, float]
    """``validation_accuracy``, ``test_macro_f1``, ...: by split and figure."""

    judgement: Judgement
    """Temperature, thresholds and every figure, by split."""

    history: list[EpochReport]

    doubt: str = ""
    """Why the figures may be too good, for people; empty when nothing speaks for it."""


def train_classifier(
    table_uri: str,
    version: int | None,
    settings: TrainSettings,
    runs_folder: Path,
    run_id: str,
    git_commit: str,
    created_at: str,
    on_event: events.OnEvent = lambda event: None,
) -> TrainedModel:
    """Train, evaluate and bundle a classifier; the same run again goes on where it stopped.

    Args:
        table_uri: The Delta table ``training_examples``.
        version: Its version; None takes the newest, or the one an unfinished run pinned.
        settings: Of the run; checked, with the data, before Ray starts.
        runs_folder: Holds one folder per run; on a cluster, on storage that all nodes mount.
        run_id: Names the run's folder.
        git_commit: Of the code, for the bundle.
        created_at: ISO 8601 time for the bundle.
        on_event: Called from a thread for each epoch and each step worth telling.

    Raises:
        BadInputError: For a table, version or setting that cannot be trained with.
        ReconciliationError: When the workers did not see exactly the snapshot's rows.
        CatalogBatchError: When training failed more often than ``max_failures``.
    """
    planned = plan_training(table_uri, version, settings, runs_folder, run_id)
    # Of a search that was killed and started again a trial may still be about to end.
    with ledger.held_lock(planned.folder / LOCK, wait=True):
        return train_planned(planned, git_commit, created_at, on_event)


@dataclass(frozen=True)
class PlannedTraining:
    """A run that was begun or found: its settings and data are checked, and it has its folder."""

    folder: Path
    settings: TrainSettings
    snapshot: Snapshot

    doubt: str
    """As of ``TrainedModel``."""


def plan_training(
    table_uri: str,
    version: int | None,
    settings: TrainSettings,
    runs_folder: Path,
    run_id: str,
) -> PlannedTraining:
    """Check all that can be checked before anything starts, and write down what the run is.

    Raises:
        BadInputError: For a table, version or setting that cannot be trained with, or that is not
            the one the run was started with.
    """
    folder = (runs_folder / run_id).resolve()
    settings = settings.model_copy(update={"weights": absolute_weights(settings.weights)})
    snapshot = resolve_snapshot(table_uri, _pinned_version(folder, version))
    snapshot.require_shards(max(1, settings.num_workers))
    refuse_search(folder)
    fixed = _fixed(settings, snapshot)
    before = checkpoints.read_json(folder, RUN) if (folder / RUN).is_file() else {}
    if before:
        _refuse_change(folder.name, before, fixed)
    goes_on = checkpoints.newest_whole(folder)[0] is not None
    # The weights that a run was started from may be gone by then.
    require_network(without_weights(settings) if goes_on else settings, snapshot)
    _warn_of_empty_splits(snapshot)
    # Of a run that goes on, the bundle that it started from may be gone by now.
    known = str(before[DOUBT]) if DOUBT in before else None
    doubt = doubt_of_start(settings.weights, snapshot) if known is None else known
    if not before:
        _begin(folder, {**fixed, DOUBT: doubt})
    if doubt:
        logger.warning("%s", doubt)
    if is_bundle(settings.weights):
        _tell_start(settings, snapshot)
    return PlannedTraining(folder, settings, snapshot, doubt)


def _begin(folder: Path, run: Mapping[str, Any]) -> None:
    """Make a run's folder, and write down there what the run is.

    Raises:
        ConfigError: When nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(folder, RUN, run)
    except OSError as error:
        raise ConfigError(
            f"The run's folder {str(folder)!r} cannot be written ({error.strerror}). Make it "
            "writable, or keep runs in another folder: --set runs=DIR."
        ) from error


def _warn_of_empty_splits(snapshot: Snapshot) -> None:
    """Say what a run goes without; shares of 0 are allowed, to train on all there is."""
    costs = {
        "validation": "the weights kept and early stopping go by the training loss, and there is "
        "no temperature and no threshold",
        "test": "no figure is of rows that nothing was fitted on, and promote refuses the model "
        "without --force",
    }
    for split, cost in costs.items():
        if not snapshot.rows(split):
            logger.warning(
                "version %d of %s has no %s rows: %s. Raise training_set.%s_share, or label more "
                "products, and build the training set again",
                snapshot.version,
                snapshot.table_uri,
                split,
                cost,
                split,
            )


def train_planned(
    planned: PlannedTraining,
    git_commit: str,
    created_at: str,
    on_event: events.OnEvent = lambda event: None,
) -> TrainedModel:
    """Do what is planned, under the folder's ``LOCK``; the rest as of ``train_classifier``."""
    folder, settings, snapshot = planned.folder, planned.settings, planned.snapshot
    with events.following(folder, on_event):
        final = _final_checkpoint(folder)
        if final is None:
            run_workers(settings, snapshot, folder)
            final = _final_checkpoint(folder)
    if final is None:
        raise CatalogBatchError(
            f"Training ended without an evaluated checkpoint in {folder}. Run again with "
            f"--run-name {folder.name} to go on from the last whole one."
        )
    return _bundled(planned, final, git_commit, created_at)


def _tell_start(settings: TrainSettings, snapshot: Snapshot) -> None:
    old = [label.category_id for label in check_bundle(Path(settings.weights)).classes]
    known = {snapshot.renamed.get(category, category) for category in old}
    logger.info(
        "%d of %d classes begin with what the bundle knows of them",
        sum(category in known for category, _ in snapshot.classes),
        len(snapshot.classes),
    )
    steps, scoring = preprocessing_for(settings), scoring_preprocessing_for(settings)
    logger.info(
        "going on from bundle %s, whose mean, deviation and interpolation stay: pictures of side "
        "%d out of %d, in scoring %d out of %d, mean %s, deviation %s, %s",
        settings.weights,
        steps.side,
        steps.resize_side,
        scoring.side,
        scoring.resize_side,
        steps.mean,
        steps.std,
        steps.interpolation,
    )


def absolute_weights(weights: str) -> str:
    """Return the weights by an absolute path: Ray workers have a working directory of their own."""
    return weights if weights in ("imagenet", "none") else str(Path(weights).resolve())


def _pinned_version(folder: Path, version: int | None) -> int | None:
    if version is None and (folder / RUN).is_file():
        return int(checkpoints.read_json(folder, RUN)["table_version"])
    return version


def require_network(settings: TrainSettings, snapshot: Snapshot) -> None:
    """Refuse settings that do not go together, layers and weights, before Ray starts.

    Weights are downloaded, if they are to be, once nothing else is left to refuse.

    Raises:
        BadInputError: Naming what does not fit.
    """
    require_layers(settings, snapshot)
    require_weights(settings, snapshot)


def require_weights(settings: TrainSettings, snapshot: Snapshot) -> None:
    """Refuse weights that are not there, or not those of the network; download them if need be.

    Raises:
        BadInputError, ModelRefusedError: Naming what does not fit.
    """
    network_for(settings, snapshot)


def require_layers(settings: TrainSettings, snapshot: Snapshot) -> None:
    """Refuse what ``require_network`` refuses without a look at the weights.

    Raises:
        BadInputError: Naming what does not fit.
    """
    require_recipe(settings)
    classes = len(snapshot.classes)
    side = preprocessing_for(settings).side
    test_side = scoring_preprocessing_for(settings).side
    require_one_network(settings.architecture, side, test_side)
    for each in sorted({side, test_side}):
        refuse_untrainable(settings.architecture, classes, settings.batch_size, each, settings.head)
    if settings.freeze not in ("none", "backbone"):
        network = build_network(settings.architecture, classes, image_side=side, head=settings.head)
        Freezing(network, settings.freeze)


def require_recipe(settings: TrainSettings) -> None:
    """Refuse settings of the steps that do not go together, or with the device.

    Raises:
        BadInputError: Naming them.
    """
    kind = expected_device(settings)
    refuse_contradictions(settings)
    refuse_unfit(recipe_settings(settings), "cuda" if kind == "gpu" else "cpu")


def refuse_contradictions(settings: TrainSettings) -> None:
    """Check that no setting makes another one pointless.

    Raises:
        BadInputError: Naming the two, their values, and what to set.
    """
    problem = ""
    if settings.unfreeze_every and settings.freeze == "none":
        problem = (
            f"unfreeze_every is {settings.unfreeze_every} and freeze is 'none': there is nothing "
            "to unfreeze. Set freeze to 'backbone' or a layer, or unfreeze_every to 0"
        )
    elif settings.mixing != "none" and settings.batch_size == 1:
        problem = (
            f"mixing is {settings.mixing!r} and batch_size is 1: a picture would be mixed with "
            "itself. Set batch_size to 2 or more, or mixing to 'none'"
        )
    elif settings.sampling == "balanced" and settings.class_weights == "balanced":
        problem = (
            "sampling and class_weights are both 'balanced': rare classes would count twice over. "
            "Set one of them to its default, 'natural' or 'none'"
        )
    elif settings.weights_sha256 and settings.weights == "none":
        problem = (
            f"weights_sha256 is {settings.weights_sha256!r} and weights is 'none': nothing is "
            "checked. Set weights to the file or bundle that it belongs to, or weights_sha256 to ''"
        )
    if problem:
        raise BadInputError(f"train.{problem}.")


def refuse_search(folder: Path) -> None:
    """Check that a training run's folder is not that of a search.

    Raises:
        ConfigError: When it is.
    """
    if (folder / SEARCH).is_file():
        raise ConfigError(
            f"{folder.name!r} is a search. Give the training another run name; "
            f"{folder.name}-0001, ... are the search's trials."
        )


def _fixed(settings: TrainSettings, snapshot: Snapshot) -> dict[str, Any]:
    """Return what a run may not change once it is begun, as it is read back from ``RUN``."""
    fixed = {
        "table": snapshot.table_uri,
        "table_version": snapshot.version,
        "table_id": snapshot.table_id,
        **settings.model_dump(exclude=MAY_CHANGE),
        # Of the bundle that is gone on with, where another one may lie by the next start.
        "preprocessing": preprocessing_for(settings).to_json(),
    }
    return dict(json.loads(json.dumps(fixed)))


def _refuse_change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if added := sorted(set(now) - set(before)):
        raise ConfigError(
            f"Run {name!r} was started by another release, which had no settings {added}. "
            "Give a new --run-name."
        )
    changed = {key: (before[key], value) for key, value in now.items() if before[key] != value}
    if "table_id" in changed:
        raise ConfigError(
            f"Run {name!r} was started on a table that was dropped and built again since: version "
            f"{now['table_version']} has other rows now. Give a new --run-name."
        )
    weights = str(now["weights"])
    if changed.keys() == {"preprocessing"} and not Path(weights).exists():
        raise ConfigError(
            f"Run {name!r} was started from the bundle {weights!r}, which says how pictures are "
            "prepared, and that is not there any more. Put it back, or give a new --run-name."
        )
    if len(changed) > 1:
        changed.pop("preprocessing", None)  # It follows from the others, and is no setting.
    if changed:
        raise ConfigError(
            f"Run {name!r} was started with other settings; name: (then, now) {changed}. "
            "Take them back to go on with it, or give a new --run-name."
        )


def _final_checkpoint(folder: Path) -> Path | None:
    newest, _ = checkpoints.newest_whole(folder)
    return newest if newest is not None and checkpoints.is_final(newest) else None


def _bundled(
    planned: PlannedTraining, final: Path, git_commit: str, created_at: str
) -> TrainedModel:
    folder, settings, snapshot = planned.folder, planned.settings, planned.snapshot
    predictions = {split: _copied_predictions(final, folder, split) for split in SPLITS}
    decider = _decider(folder / BUNDLE, predictions["validation"], settings.target_precision)
    judgement = judge(predictions, decider, settings.seed)
    metrics = judgement.metrics()
    if not (folder / BUNDLE).exists():
        spec = BundleSpec(
            architecture=settings.architecture,
            classes=tuple(ClassLabel(category, path) for category, path in snapshot.classes),
            preprocessing=scoring_preprocessing_for(settings),
            taxonomy_version=snapshot.taxonomy_version,
            training_table=snapshot.table_uri,
            training_table_version=snapshot.version,
            git_commit=git_commit,
            metrics=metrics,
            thresholds=decider.thresholds,
            created_at=created_at,
            head=settings.head,
            temperature=decider.temperature,
            node_thresholds=decider.node_thresholds,
            energy_limit=decider.energy_limit,
            training_table_id=snapshot.table_id,
            doubt=planned.doubt,
        )
        network = build_network(
            settings.architecture,
            len(snapshot.classes),
            image_side=spec.preprocessing.side,
            head=settings.head,
        )
        network.load_state_dict(checkpoints.read_weights(final, checkpoints.BEST))
        golden = np.load(final / checkpoints.GOLDEN, allow_pickle=False)
        write_bundle(folder / BUNDLE, network, spec, golden)
    return TrainedModel(
        bundle_folder=folder / BUNDLE,
        digest=load_bundle(folder / BUNDLE).digest,
        snapshot_version=snapshot.version,
        metrics=metrics,
        judgement=judgement,
        history=checkpoints.read_state(final).history,
        doubt=planned.doubt,
    )


def _copied_predictions(final: Path, folder: Path, split: str) -> Predictions:
    """Read a split's predictions from the sealed checkpoint, and leave a copy for later readers."""
    predictions = load_predictions(final / file_name(split))
    predictions.save(folder / file_name(split))
    return predictions


def _decider(bundle: Path, validation: Predictions, target_precision: float) -> Decider:
    """Take the temperature and thresholds of a bundle that is there already, or fit them."""
    if bundle.exists():
        return Decider.of(check_bundle(bundle))
    decider = fit_decider(validation, target_precision)
    if decider.reason:
        logger.warning("%s", decider.reason)
    return decider

"""Search settings: every trial an ordinary training run, the best one's settings as a file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from catalog_batch.config import Settings, TrainSettings
from catalog_batch.errors import (
    BadInputError,
    CatalogBatchError,
    ConfigError,
    TrainingDataError,
)
from catalog_batch.leases import held_lease
from catalog_batch.runs import Clock, Run, Status
from catalog_batch.train import checkpoints
from catalog_batch.train.events import OnEvent
from catalog_batch.train.pipeline import TABLE, git_commit, run_name
from catalog_batch.train.search_report import write_best, write_figure, write_table
from catalog_batch.train.search_results import (
    Outcome,
    TrialResult,
    best_of,
    read_results,
    write_results,
)
from catalog_batch.train.search_space import SearchSpace, Trial, load_space
from catalog_batch.train.search_trials import TrialPlan, run_trials
from catalog_batch.train.snapshot import Snapshot, resolve_snapshot
from catalog_batch.train.trainer import (
    MAY_CHANGE,
    RUN,
    SEARCH,
    absolute_weights,
    require_layers,
    require_recipe,
    require_weights,
)

ELSEWHERE = MAY_CHANGE - {"num_workers"}
"""Settings that say nothing of a model; the workers' number is a factor of the batch."""

OF_THE_NETWORK = {
    "architecture",
    "batch_size",
    "freeze",
    "head",
    "image_side",
    "test_image_side",
    "weights",
    "weights_sha256",
}


@dataclass(frozen=True)
class SearchSummary:
    """A search that has a best trial."""

    folder: Path
    """Holds ``results.csv``, ``results.png`` and ``best.toml``."""

    space: SearchSpace
    results: list[TrialResult]
    best: TrialResult


def search_settings(
    settings: Settings,
    run: Run,
    space_file: Path,
    version: int | None = None,
    name: str | None = None,
    at_once: int = 1,
    on_event: OnEvent = lambda event: None,
    clock: Clock = lambda: datetime.now(UTC),
) -> SearchSummary:
    """Try the configurations of a space on one version of ``training_examples``.

    Args:
        settings: Of the whole package; ``settings.train`` says what is not searched.
        run: Filled in with counts, the best figure and versions.
        space_file: TOML file: see ``search_space``.
        version: Of the training table; None takes the newest, or the one the search pinned.
        name: Of a search to start or to go on with; a new one unless given.
        at_once: Trials that run at the same time.
        on_event: Called for each epoch and each trial's end, with the trial's name.
        clock: Tells until when the table's files are leased, UTC.

    Raises:
        BadInputError: When the space, the table or the settings cannot be used, or are not those
            that the search was started with.
        CatalogBatchError: When no trial finished; the results are written all the same.
    """
    name = run_name(run.run_id if name is None else name)
    folder = (settings.runs_folder / name).resolve()
    train = settings.train
    train = train.model_copy(update={"weights": absolute_weights(train.weights)})
    space = load_space(space_file, train, MAY_CHANGE)
    trials = [_with_absolute_weights(trial) for trial in space.trials(name, train)]
    version = _pinned_version(folder, version)
    hours = settings.maintenance.lease_hours
    with held_lease(settings.warehouse, TABLE, version, name, hours, clock) as renew:
        snapshot = resolve_snapshot(f"{settings.warehouse}/{TABLE}", version)
        fixed = _fixed(space, train, snapshot)
        if (folder / SEARCH).is_file():
            _refuse_change(name, checkpoints.read_json(folder, SEARCH), fixed)
        _refuse_unfit(snapshot, trials)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_json(folder, SEARCH, fixed)
        results = read_results(folder, trials)
        ended_before = _ended(results)
        plan = TrialPlan(
            table_uri=snapshot.table_uri,
            version=snapshot.version,
            runs_folder=folder.parent,
            settings={trial.name: trial.settings for trial in trials},
            metric=space.options.metric,
            git_commit=git_commit(),
            created_at=run.started_at.isoformat(),
        )
        if ended_before < len(results):
            on_change = partial(_note, folder, space, results, renew, on_event)
            run_trials(plan, space.options, results, at_once, folder, on_change)
    best = _published(folder, space, results, snapshot)
    run.finish(Status.PUBLISHED if _ended(results) > ended_before else Status.NOTHING_TO_DO)
    _describe(run, folder, space, results, best, snapshot)
    return SearchSummary(folder, space, results, best)


def _with_absolute_weights(trial: Trial) -> Trial:
    weights = absolute_weights(trial.settings.weights)
    return replace(trial, settings=trial.settings.model_copy(update={"weights": weights}))


def _ended(results: Sequence[TrialResult]) -> int:
    return sum(result.outcome.is_final for result in results)


def _pinned_version(folder: Path, version: int | None) -> int | None:
    if (folder / RUN).is_file():
        raise ConfigError(f"{folder.name!r} is a training run. Give the search another --name.")
    if version is None and (folder / SEARCH).is_file():
        return int(checkpoints.read_json(folder, SEARCH)["table_version"])
    return version


def _refuse_unfit(snapshot: Snapshot, trials: Sequence[Trial]) -> None:
    """Refuse before Ray starts what no trial could be trained with, or be chosen by."""
    if snapshot.rows("validation") == 0:
        raise TrainingDataError(
            f"{snapshot.table_uri} version {snapshot.version} has no rows in its validation split, "
            "by which trials are compared. Raise training_set.validation_share and build the "
            "training set again."
        )
    snapshot.require_shards(max(1, trials[0].settings.num_workers))
    for trial in trials:
        try:
            require_recipe(trial.settings)
        except BadInputError as error:
            raise BadInputError(
                f"{trial.name} cannot be trained, with {trial.values}: {error}"
            ) from error
    networks = {
        tuple(sorted(trial.settings.model_dump(include=OF_THE_NETWORK).items())): trial.settings
        for trial in trials
    }
    # All of them before the first download of weights.
    for require in (require_layers, require_weights):
        for settings in networks.values():
            require(settings, snapshot)


def _fixed(space: SearchSpace, train: TrainSettings, snapshot: Snapshot) -> dict[str, Any]:
    """Return what a search may not change once it is begun, as it is read back from ``SEARCH``."""
    fixed = {
        "table": snapshot.table_uri,
        "table_version": snapshot.version,
        "table_id": snapshot.table_id,
        **space.options.model_dump(),
        # What is drawn for a setting depends on those before it.
        "order": list(space.axes),
        **{f"space.{name}": values for name, values in space.written.items()},
        **{
            f"train.{name}": value
            for name, value in train.model_dump(exclude=ELSEWHERE).items()
            if name not in space.axes
        },
    }
    return dict(json.loads(json.dumps(fixed)))


def _refuse_change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    if now["method"] == "grid" or now["trials"] > before.get("trials", 0):
        changed.pop("trials", None)
    if changed:
        raise ConfigError(
            f"Search {name!r} was started otherwise; name: (then, now) {changed}. Take it back to "
            "go on, or give the search another --name. Only trials may be raised."
        )


def _note(
    folder: Path,
    space: SearchSpace,
    results: Sequence[TrialResult],
    renew: Callable[[], None],
    on_event: OnEvent,
    result: TrialResult,
    event: Mapping[str, Any] | None,
) -> None:
    """Write down what is new of a trial, and tell of it."""
    renew()
    write_results(folder, results)
    name = result.trial.name
    if event is not None:
        on_event({**event, "trial": name})
        return
    write_table(folder, space, results)
    on_event({"event": "trial", "trial": name, "outcome": result.outcome, "error": result.error})


def _published(
    folder: Path, space: SearchSpace, results: Sequence[TrialResult], snapshot: Snapshot
) -> TrialResult:
    write_table(folder, space, results)
    best = best_of(results, space.options)
    if best is None:
        failed = [result for result in results if result.outcome == Outcome.FAILED]
        first = f"the first to fail, {failed[0].trial.name}: {failed[0].error}" if failed else ""
        raise CatalogBatchError(
            f"None of the {len(results)} trials of search {folder.name!r} finished; {first}. Mend "
            "that, and run again with the same --name: failed trials are tried again."
        )
    write_figure(folder, space, results, best)
    write_best(folder, space, best, ELSEWHERE, snapshot.version)
    return best


def _describe(
    run: Run,
    folder: Path,
    space: SearchSpace,
    results: Sequence[TrialResult],
    best: TrialResult,
    snapshot: Snapshot,
) -> None:
    run.rows_in = run.rows_out = snapshot.rows("train")
    run.table_versions = {TABLE: snapshot.version}
    by_outcome = {
        outcome.replace(" ", "_"): sum(result.outcome == outcome for result in results)
        for outcome in Outcome
    }
    run.counts = {"trials": len(results), **{key: n for key, n in by_outcome.items() if n}}
    run.measures = {space.options.metric: round(best.figure(space.options.metric) or 0.0, 4)}
    run.details = {
        "best": best.trial.name,
        "settings": best.trial.values,
        "folder": str(folder),
    }

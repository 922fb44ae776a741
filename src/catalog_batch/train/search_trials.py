"""Running a search's trials through Ray Tune: how many at once, and which are stopped early."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

# Read when Tune runs. Its tables would go to standard output, which is kept for results; its
# loggers would write every figure a second time; its own handler would hide Ctrl-C from the run.
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
# The last result of a trial says how it ended, and has no figure.
os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"

import ray
import ray.tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from catalog_batch.config import TrainSettings
from catalog_batch.errors import ConfigError
from catalog_batch.train import checkpoints
from catalog_batch.train.cluster import open_cluster
from catalog_batch.train.events import OnEvent
from catalog_batch.train.search_results import Epoch, Outcome, TrialResult
from catalog_batch.train.search_space import Metric, SearchOptions
from catalog_batch.train.trainer import train_classifier

TUNE = "tune"
"""Folder of Tune's own notes, which nothing is read from: a trial's run folder says all."""

ENDED = "ended"
LONGEST_ERROR = 300

Event = Mapping[str, Any]
OnChange = Callable[[TrialResult, Event | None], None]
"""Gets a trial of which something is new, with the epoch event unless it ended."""


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a search share; goes to every process that runs one."""

    table_uri: str
    version: int
    runs_folder: Path
    settings: Mapping[str, TrainSettings]
    """By trial."""

    metric: Metric
    git_commit: str
    created_at: str

    def train(self, name: str, on_event: OnEvent) -> None:
        """Train a trial, as an ordinary run: it goes on where it stopped."""
        settings = self.settings[name]
        # Set, where it may be the default: without workers a trial shares the machine all the same.
        of_trial = {"cpus_per_worker": settings.cpus_per_worker}
        train_classifier(
            self.table_uri,
            self.version,
            settings.model_copy(update=of_trial),
            self.runs_folder,
            name,
            self.git_commit,
            self.created_at,
            on_event,
        )


def run_trials(
    plan: TrialPlan,
    options: SearchOptions,
    results: Sequence[TrialResult],
    at_once: int,
    folder: Path,
    on_change: OnChange,
) -> None:
    """Run the trials that have not ended, and fill in what came of them.

    Args:
        plan: What they share.
        options: The method, and the figure that is to be best.
        results: Of all trials; those that ended say what a new one is compared with.
        at_once: Trials that run at the same time.
        folder: Of the search, on storage that all nodes mount.
        on_change: Called for each epoch, and for each trial that ends.

    Raises:
        ConfigError: When the cluster is too small for as many trials.
    """
    waiting = [result for result in results if not result.outcome.is_final]
    for result in waiting:
        result.outcome, result.error = Outcome.UNFINISHED, ""
    train = plan.settings[waiting[0].trial.name]
    workers = at_once * max(1, train.num_workers)
    shutil.rmtree(folder / TUNE, ignore_errors=True)
    with open_cluster(train.model_copy(update={"num_workers": workers})):
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(TrialRun, _resources(train, at_once)),
            param_space={
                "trial": ray.tune.grid_search([result.trial.name for result in waiting]),
                "plan": plan,
            },
            tune_config=ray.tune.TuneConfig(
                max_concurrent_trials=at_once,
                scheduler=scheduler_for(options, results),
                # Saves starting a process; not where a stopped trial may still be training in it.
                reuse_actors=options.method != "asha",
            ),
            run_config=ray.tune.RunConfig(
                name=TUNE,
                storage_path=str(folder),
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Listener(waiting, on_change)],
                verbose=0,
            ),
        )
        tuner.fit()
    shutil.rmtree(folder / TUNE, ignore_errors=True)


class TrialRun(ray.tune.Trainable):
    """One trial in Tune's process: trains in a thread, and tells of one epoch at each step.

    A class of Tune's and not a function, because Ray Train takes no report from within a function
    of Tune's, and with ``num_workers`` 0 the training runs in this very process.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start to train the trial that ``config`` names."""
        self._plan: TrialPlan = config["plan"]
        self._score: float | None = None
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._thread = Thread(target=self._train, args=(config["trial"], self._told), daemon=True)
        self._thread.start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, after the one before has ended."""
        self._thread.join()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch, or for the end."""
        while True:
            event = self._told.get()
            if event["event"] == "epoch":
                if event["improved"] or self._score is None:
                    self._score = event[self._plan.metric]
                return {"epochs": event["epoch"] + 1, "score": self._score, "event": event}
            if event["event"] == ENDED:
                return {"done": True, ENDED: event["error"]}

    def _train(self, name: str, told: "SimpleQueue[dict[str, Any]]") -> None:
        error = ""
        try:
            # Of a run that goes on, ASHA asks how it did before.
            for event in _past_epochs(self._plan.runs_folder / name):
                told.put(event)
            self._plan.train(name, told.put)
        except BaseException as raised:  # Whatever it is, somebody waits in step().
            error = f"{type(raised).__name__}: {raised}"
        told.put({"event": ENDED, "error": error})


class _Listener(ray.tune.Callback):
    """Hears in the driver what the trials tell."""

    def __init__(self, waiting: Sequence[TrialResult], on_change: OnChange) -> None:
        self._results = {result.trial.name: result for result in waiting}
        self._on_change = on_change

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restart of its own, which is never asked for.
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: Event, **info: Any
    ) -> None:
        """Note an epoch, and tell of it unless it was told in an earlier start."""
        if "event" in result:
            known, epoch = self._results[trial.config["trial"]], Epoch.of(result["event"])
            is_new = epoch.epoch not in {each.epoch for each in known.epochs}
            known.add(epoch)
            if is_new:
                self._on_change(known, result["event"])

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Note how a trial ended: what did not end by itself was stopped."""
        error = trial.last_result.get(ENDED)
        outcome = Outcome.FAILED if error else Outcome.FINISHED
        self._end(trial, Outcome.STOPPED if error is None else outcome, error or "")

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Note that a trial's process died, and what Ray says of it."""
        # Below a line that numbers the failure. Tune's results would have it too, at the very end.
        _, _, error = Path(str(trial.error_file)).read_text(encoding="utf-8").partition("\n")
        self._end(trial, Outcome.FAILED, error)

    def _end(self, trial: TuneTrial, outcome: Outcome, error: str) -> None:
        result = self._results[trial.config["trial"]]
        result.outcome, result.error = outcome, _in_one_line(error)
        self._on_change(result, None)


def _past_epochs(run_folder: Path) -> Iterator[dict[str, Any]]:
    newest, _ = checkpoints.newest_whole(run_folder)
    if newest is not None:
        for report in checkpoints.read_state(newest).history:
            yield {"event": "epoch", **asdict(report)}


def scheduler_for(options: SearchOptions, results: Sequence[TrialResult]) -> TrialScheduler:
    """Return what stops trials early; it knows those that ended in an earlier start."""
    epochs = max(result.trial.settings.epochs for result in results)
    # Epochs may be drawn, and the most drawn be so few that there is nothing to stop.
    if options.method != "asha" or options.grace_epochs >= epochs:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    scheduler = ASHAScheduler(
        time_attr="epochs",
        metric="score",
        mode=options.mode,
        # The last epoch is no rung: a trial that came so far is evaluated as well.
        max_t=epochs - 1,
        grace_period=options.grace_epochs,
        reduction_factor=options.reduction_factor,
        stop_last_trials=False,
    )
    for result in results:
        if result.outcome.is_final:
            _remember(scheduler, result, options.metric)
    return scheduler


def _remember(scheduler: ASHAScheduler, result: TrialResult, metric: Metric) -> None:
    """Let the scheduler know a trial of an earlier start, which it asks nothing but its id."""
    trial = cast(TuneTrial, SimpleNamespace(trial_id=result.trial.name))
    controller = cast(Any, None)
    scheduler.on_trial_add(controller, trial)
    seen = TrialResult(result.trial)
    for epoch in result.epochs:
        seen.add(epoch)
        score = seen.figure(metric) if seen.kept else getattr(epoch, metric)
        told = {"epochs": epoch.epoch + 1, "score": score}
        scheduler.on_trial_result(controller, trial, told)


def _resources(train: TrainSettings, at_once: int) -> dict[str, float]:
    """Return what Tune reserves for a trial, after checking that there is enough for all."""
    workers = at_once * max(1, train.num_workers)
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    takes_gpus = train.device == "gpu" or (
        train.device == "auto" and gpus >= max(1, train.num_workers)
    )
    wanted = {"CPUs": (workers * train.cpus_per_worker, cpus)}
    if takes_gpus:
        wanted["GPUs"] = (workers, gpus)
    for kind, (needed, available) in wanted.items():
        if needed > available:
            raise ConfigError(
                f"--at-once {at_once} with train.num_workers {train.num_workers} needs "
                f"{needed:g} {kind}, and the cluster has {available:g}. Lower --at-once or "
                "train.num_workers."
            )
    if train.num_workers > 0:
        # The workers reserve what they need. Tune wants a trial to ask for something: a byte.
        return {"memory": 1}
    return {"cpu": train.cpus_per_worker, "gpu": int(takes_gpus)}


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split())[:LONGEST_ERROR]

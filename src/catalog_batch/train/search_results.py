"""What is known of a search's trials, kept in its folder so that a search that was killed goes on.

Only figures of the validation rows: with the test rows, which are to be the honest figure of the
model that is chosen, nothing is chosen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from catalog_batch.train.checkpoints import write_atomically
from catalog_batch.train.search_space import Metric, SearchOptions, Trial

TRIALS = "trials.json"


class Outcome(StrEnum):
    """How far a trial came."""

    FINISHED = "finished"
    STOPPED = "stopped early"
    FAILED = "failed"
    UNFINISHED = "unfinished"

    @property
    def is_final(self) -> bool:
        """Whether the trial is not run again; one that failed is, once something was mended."""
        return self in (Outcome.FINISHED, Outcome.STOPPED)


@dataclass(frozen=True)
class Epoch:
    """What an epoch's report says of the validation rows."""

    epoch: int
    validation_loss: float
    validation_accuracy: float
    improved: bool
    seconds: float

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> "Epoch":
        """Take the figures from an ``epoch`` event."""
        return cls(**{each.name: report[each.name] for each in fields(cls)})


@dataclass
class TrialResult:
    """A trial and what came of it so far."""

    trial: Trial
    outcome: Outcome = Outcome.UNFINISHED
    epochs: list[Epoch] = field(default_factory=list)
    error: str = ""

    def add(self, epoch: Epoch) -> None:
        """Add an epoch; one that was run again after a crash replaces the first."""
        self.epochs = [each for each in self.epochs if each.epoch != epoch.epoch] + [epoch]

    @property
    def kept(self) -> Epoch | None:
        """The epoch whose weights the run keeps, as ``train.keep`` has it."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.improved), None)

    def figure(self, metric: Metric) -> float | None:
        """Return a figure of the weights that are kept; None while there are none."""
        return float(getattr(self.kept, metric)) if self.kept else None

    @property
    def seconds(self) -> float:
        """Time of the training passes."""
        return sum(epoch.seconds for epoch in self.epochs)


def read_results(folder: Path, trials: Sequence[Trial]) -> list[TrialResult]:
    """Read what is known of the trials; of some it may be nothing."""
    path = folder / TRIALS
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [_result(trial, stored.get(trial.name, {})) for trial in trials]


def write_results(folder: Path, results: Sequence[TrialResult]) -> None:
    """Write what is known of the trials."""
    stored = {
        result.trial.name: {
            "outcome": result.outcome,
            "error": result.error,
            "epochs": [asdict(epoch) for epoch in result.epochs],
        }
        for result in results
        if result.epochs or result.outcome != Outcome.UNFINISHED
    }
    write_atomically(folder / TRIALS, json.dumps(stored, indent=1))


def ranked(results: Sequence[TrialResult], options: SearchOptions) -> list[TrialResult]:
    """Order trials: finished ones before stopped ones, each from the best; then all others."""

    def key(result: TrialResult) -> tuple[int, float, str]:
        figure = result.figure(options.metric)
        if figure is None or not result.outcome.is_final:
            return (2, 0.0, result.trial.name)
        is_stopped = result.outcome == Outcome.STOPPED
        return (int(is_stopped), -figure if options.mode == "max" else figure, result.trial.name)

    return sorted(results, key=key)


def best_of(results: Sequence[TrialResult], options: SearchOptions) -> TrialResult | None:
    """Return the best of the trials that finished; the first one when several are equal."""
    finished = [result for result in results if result.outcome == Outcome.FINISHED and result.kept]
    return next(iter(ranked(finished, options)), None)


def _result(trial: Trial, stored: Mapping[str, Any]) -> TrialResult:
    epochs = [Epoch(**epoch) for epoch in stored.get("epochs", [])]
    outcome = Outcome(stored.get("outcome", Outcome.UNFINISHED))
    return TrialResult(trial, outcome, epochs, stored.get("error", ""))

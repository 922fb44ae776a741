"""What the training loop measures and remembers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class EpochTotals:
    """One training epoch's figures over all ranks; the times are this rank's."""

    loss: float
    """Mean loss of the rows, as the recipe has it; 0.0 when there are none."""

    correct: int
    """Rows whose best class is the true one; of a mixed picture, the class with most of it."""

    rows: int
    seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class Progress:
    """How far a training epoch has come; the times are this rank's, from the epoch's beginning."""

    epoch: int
    batches: int
    """Batches of this rank that are done."""

    seconds: float
    wait_seconds: float
    """Of ``seconds``, those spent waiting for batches."""


@dataclass(frozen=True)
class PartialEpoch:
    """How far into an epoch a run has come, after a step of all ranks."""

    batches: int
    """Done by each rank."""

    totals: tuple[tuple[float, ...], ...]
    """For each rank, of its rows so far: sum of losses, mass, right ones, number."""

    seconds: float
    """These two are of the rank that tells."""

    wait_seconds: float

    @property
    def rows(self) -> int:
        """Count the rows that are done, of all ranks."""
        return round(sum(of_rank[-1] for of_rank in self.totals))

    @classmethod
    def none(cls, world_size: int) -> "PartialEpoch":
        """Return how far an epoch is that has not begun."""
        return cls(0, ((0.0,) * 4,) * world_size, 0.0, 0.0)


@dataclass(frozen=True)
class Evaluation:
    """Loss and confusion matrix over all rows of all ranks."""

    loss: float
    """Mean cross entropy, whatever loss is trained with; 0.0 when there are no rows."""

    rows: int

    confusion: Tensor
    """int64 [C, C] on the CPU: rows are true classes, columns predicted ones."""

    @property
    def accuracy(self) -> float:
        """Share of rows whose best class is the true one; 0.0 when there are no rows."""
        return int(self.confusion.diagonal().sum()) / max(self.rows, 1)


@dataclass(frozen=True)
class EpochReport:
    """Figures of one epoch; the same on every rank except the times."""

    epoch: int
    train_loss: float
    train_accuracy: float
    train_rows: int
    validation_loss: float
    validation_accuracy: float
    validation_rows: int

    improved: bool
    """Whether these weights are to be kept: they have the lowest validation loss so far, or the
    last are asked for."""

    learning_rate: float
    """Of the head, after the epoch's last step."""

    seconds: float
    """Time of the training pass, without the validation."""

    images_per_second: float
    """Training rows of all ranks per second."""

    wait_share: float
    """Share of the training pass spent waiting for batches, 0 to 1."""


@dataclass
class FitState:
    """How far a run has come: with the weights and the optimiser's state, all a resume needs."""

    epoch: int = 0
    """The next epoch to run, from 0."""

    best_loss: float = math.inf
    epochs_without_improvement: int = 0
    history: list[EpochReport] = field(default_factory=list)

    partial: PartialEpoch | None = None
    """What is done of that epoch already; ``None`` when it has not begun."""

    rows_before: int = 0
    """Rows of that epoch that the weights have seen before it was begun anew."""

    @property
    def rows_of_epoch(self) -> int:
        """Count the rows of that epoch that the weights have seen, begun anew or not."""
        return self.rows_before + (self.partial.rows if self.partial else 0)

    def begin_anew(self) -> None:
        """Go back to the epoch's first row, with the weights it had reached."""
        self.rows_before = self.rows_of_epoch
        self.partial = None

    def goes_on(self, epochs: int, patience: int) -> bool:
        """Say whether another epoch follows, of so many and with so much patience."""
        return self.epoch < epochs and self.epochs_without_improvement < patience

    def add(self, report: EpochReport) -> None:
        """Move on past the epoch that ``report`` describes."""
        self.epoch = report.epoch + 1
        self.partial = None
        self.rows_before = 0
        self.history.append(report)
        self.best_loss = min(self.best_loss, report.validation_loss)
        self.epochs_without_improvement += 1
        if report.improved:
            self.epochs_without_improvement = 0

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values; an infinite best loss becomes ``None``."""
        best_loss = self.best_loss if math.isfinite(self.best_loss) else None
        return {**asdict(self), "best_loss": best_loss}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FitState":
        """Rebuild a state from ``to_json``'s values."""
        best_loss = math.inf if data["best_loss"] is None else float(data["best_loss"])
        history = [EpochReport(**report) for report in data["history"]]
        waited = data["epochs_without_improvement"]
        state = cls(data["epoch"], best_loss, waited, history)
        if data["partial"] is not None:
            totals = tuple(tuple(of_rank) for of_rank in data["partial"]["totals"])
            state.partial = PartialEpoch(**{**data["partial"], "totals": totals})
        state.rows_before = data["rows_before"]
        return state


def epoch_report(
    state: FitState,
    totals: EpochTotals,
    evaluation: Evaluation,
    learning_rate: float,
    keep_last: bool = False,
) -> EpochReport:
    """Describe the epoch that ``state`` comes to next; training figures stand in for missing ones.

    Args:
        state: As it was before the epoch.
        totals: Of the training pass.
        evaluation: Of the validation rows, of which there may be none.
        learning_rate: After the epoch's last step.
        keep_last: Whether its weights are kept whatever their loss.
    """
    train_accuracy = totals.correct / max(totals.rows, 1)
    has_validation = evaluation.rows > 0
    validation_loss = evaluation.loss if has_validation else totals.loss
    return EpochReport(
        epoch=state.epoch,
        train_loss=totals.loss,
        train_accuracy=train_accuracy,
        train_rows=totals.rows,
        validation_loss=validation_loss,
        validation_accuracy=evaluation.accuracy if has_validation else train_accuracy,
        validation_rows=evaluation.rows,
        improved=keep_last or validation_loss < state.best_loss,
        learning_rate=learning_rate,
        seconds=totals.seconds,
        images_per_second=totals.rows / max(totals.seconds, 1e-9),
        wait_share=min(totals.wait_seconds / max(totals.seconds, 1e-9), 1.0),
    )

"""What every tracker takes, and what it is told at its beginning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

EXPERIMENT = "train_classifier"
"""What the runs are filed under, in MLflow and W&B."""

SYSTEM = "system"
"""Group of the figures of the machine, which have the batch and not the epoch as their step."""


@dataclass(frozen=True)
class TrackedRun:
    """A training run that is to be followed."""

    name: str
    """What it is found by: the same name again adds to the same run."""

    folder: Path
    """Its checkpoints', which need not exist yet."""

    params: Mapping[str, Any]
    """Settings; of a run that is found they stay as they were."""

    git_commit: str


class Tracker(Protocol):
    """One run in one place. Its constructor opens it, and finds it again by its name."""

    def log_lineage(self, lineage: Mapping[str, str]) -> None:
        """Log where the data came from; the same again changes nothing."""

    def go_on_from(self, epoch: int) -> None:
        """Expect this epoch next: what was logged of it and later ones is done again."""

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log a point of each curve; an epoch that is known already adds none."""

    def log_system(self, batch: int, figures: Mapping[str, float]) -> None:
        """Log figures of the machine, by the batches done since the run began."""

    def log_artefact(self, path: Path) -> None:
        """Log a file of the run."""

    def end(self, metrics: Mapping[str, float], succeeded: bool) -> None:
        """Log final figures, and close the run as finished or failed."""

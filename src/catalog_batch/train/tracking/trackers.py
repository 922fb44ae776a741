"""All trackers of a run as one, none of which can cost the training anything."""

import logging
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from catalog_batch.config import Settings, TrainSettings
from catalog_batch.errors import CatalogBatchError
from catalog_batch.train import events
from catalog_batch.train.tracking.mlflow_tracker import MlflowTracker
from catalog_batch.train.tracking.tensorboard_tracker import TensorBoardTracker
from catalog_batch.train.tracking.tracker import TrackedRun, Tracker
from catalog_batch.train.tracking.wandb_tracker import WandbTracker, import_wandb

logger = logging.getLogger(__name__)


def require_trackers(settings: TrainSettings) -> None:
    """Refuse trackers that are not installed, before anything is prepared or downloaded.

    Raises:
        ConfigError: Naming the setting, and what to do.
    """
    if "wandb" in settings.trackers:
        import_wandb()


def open_trackers(settings: Settings, name: str, git_commit: str) -> "Trackers":
    """Open the trackers that the settings name, and tell them of earlier epochs of the run.

    Raises:
        ConfigError: For a tracker that cannot work as it is set up.
        MlflowException: When the registry's own store cannot be opened.
    """
    train = settings.train
    folder = settings.runs_folder / name
    earlier = events.told(folder)
    started = [event for event in earlier if event["event"] == "started"]
    # An epoch that was done twice counts as it was the last time.
    epochs = {event["epoch"]: event for event in earlier if event["event"] == "epoch"}
    run = TrackedRun(name, folder, train.model_dump(), git_commit)
    openers: dict[str, Callable[[], Tracker]] = {
        "mlflow": lambda: MlflowTracker(settings.registry_folder, train.mlflow_uri, run),
        "tensorboard": lambda: TensorBoardTracker(run),
        "wandb": lambda: WandbTracker(train.wandb_mode, run),
    }
    trackers = Trackers(folder)
    try:
        for chosen in dict.fromkeys(train.trackers):
            # Without the registry's store the model could not be registered either.
            is_needed = chosen == "mlflow" and not train.mlflow_uri
            trackers.open(chosen, openers[chosen], is_needed)
    except BaseException:
        trackers.end({}, succeeded=False)
        raise
    for event in (*started[-1:], *epochs.values()):
        trackers.log_event(event)
    return trackers


class Trackers:
    """Tells each tracker what happens; one that fails is told no more, with one warning.

    A later call of the job with the same run name finds the run, also when it is finished, and
    fills in the epochs that the tracker missed.
    """

    def __init__(self, run_folder: Path) -> None:
        """Begin without any.

        Args:
            run_folder: Holds the files that events name.
        """
        self._folder = run_folder
        self._open: dict[str, Tracker] = {}

    def open(self, name: str, opener: Callable[[], Tracker], is_needed: bool = False) -> None:
        """Add a tracker, or warn that it cannot be opened.

        Args:
            name: For messages.
            opener: Opens it.
            is_needed: Whether a failure is raised.

        Raises:
            CatalogBatchError: When it refuses its settings.
        """
        try:
            self._open[name] = opener()
        except CatalogBatchError:
            raise
        except Exception as error:
            if is_needed:
                raise
            self._warn(name, error)

    def log_event(self, event: Mapping[str, Any]) -> None:
        """Tell all of an event of the run (``train.events``) that concerns them."""
        values = {name: value for name, value in event.items() if name != "event"}
        match event["event"]:
            case "started":
                sheet = self._folder / values.pop("sheet")
                lineage = {name: str(value) for name, value in values.items()}
                self._each(lambda tracker: tracker.log_lineage(lineage))
                self.log_artefacts([sheet])
            case "resumed":
                self._each(lambda tracker: tracker.go_on_from(values["epoch"]))
            case "epoch":
                epoch = values.pop("epoch")
                figures = {name: float(value) for name, value in values.items()}
                self._each(lambda tracker: tracker.log_epoch(epoch, figures))
            case "system":
                batch = values.pop("batch")
                self._each(lambda tracker: tracker.log_system(batch, values))

    def log_artefacts(self, paths: Iterable[Path]) -> None:
        """Give all the files among these that exist."""
        for path in paths:
            if path.is_file():
                self._log_artefact(path)

    def end(self, metrics: Mapping[str, float], succeeded: bool = True) -> None:
        """Log final figures and close the run everywhere, as finished or failed."""
        self._each(lambda tracker: tracker.end(metrics, succeeded))
        self._open.clear()

    def _log_artefact(self, path: Path) -> None:
        self._each(lambda tracker: tracker.log_artefact(path))

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                tell(tracker)
            except Exception as error:
                # Servers, disks and three libraries: whatever it is, the training goes on.
                del self._open[name]
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        logger.warning(
            "tracker %r failed and is told no more of run %s, which goes on; the same run name "
            "again, later, fills in what it was not given\n%s",
            name,
            self._folder.name,
            without_passwords("".join(traceback.format_exception(error))),
        )


def without_passwords(text: str) -> str:
    """Return a text in which no address names a user, nor what the user is known by."""
    return re.sub(r"(?<=://)[^/\s@]+@", "", text)

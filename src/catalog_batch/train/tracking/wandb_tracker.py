"""A run in Weights & Biases: as files for ``wandb sync``, or at its server at once."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from catalog_batch.errors import ConfigError
from catalog_batch.train.tracking.tracker import EXPERIMENT, SYSTEM, TrackedRun

logger = logging.getLogger(__name__)

TOLD = "told.txt"
"""File in W&B's folder: what of the run was logged, a line each."""

Mode = Literal["offline", "online"]

SECONDS_TO_REACH = 30.0
"""Longest wait for the server when a run begins, and for its last uploads."""


class WandbTracker:
    """One run in W&B, found again by its id, which is the run's name."""

    def __init__(
        self, mode: Mode, run: TrackedRun, seconds_to_reach: float = SECONDS_TO_REACH
    ) -> None:
        """Open the run; a server that does not answer makes it an offline one.

        Args:
            mode: ``offline`` opens no connection.
            run: What to follow.
            seconds_to_reach: Longest wait for the server.

        Raises:
            ConfigError: When the package or, online, a key is missing.
        """
        self._wandb = import_wandb()
        self._seconds_to_reach = seconds_to_reach
        self._told = run.folder / "wandb" / TOLD
        self._told.parent.mkdir(parents=True, exist_ok=True)
        self._known = set(_lines(self._told))
        self._run = self._begin(mode, run)
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("batch", hidden=True)
        self._run.define_metric(f"{SYSTEM}/*", step_metric="batch")

    def log_lineage(self, lineage: Mapping[str, str]) -> None:
        """Log where the data came from, with the settings."""
        self._run.config.update(dict(lineage), allow_val_change=True)

    def go_on_from(self, epoch: int) -> None:
        """Do nothing: the points of an epoch that is done again stay as they were."""

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log a point of each curve."""
        if self._is_news(f"epoch {epoch}"):
            for name in figures:
                self._run.define_metric(name, step_metric="epoch")
            self._run.log({"epoch": epoch, **figures})
            self._remember(f"epoch {epoch}")

    def log_system(self, batch: int, figures: Mapping[str, float]) -> None:
        """Log figures of the machine; W&B's own look at it is turned off."""
        named = {f"{SYSTEM}/{name}": value for name, value in figures.items()}
        self._run.log({"batch": batch, **named})

    def log_artefact(self, path: Path) -> None:
        """Log a picture as such, once, and another file as it is."""
        if path.suffix == ".png":
            if self._is_news(path.name):
                self._run.log({path.stem: self._wandb.Image(str(path))})
                self._remember(path.name)
        else:
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def end(self, metrics: Mapping[str, float], succeeded: bool) -> None:
        """Log final figures, and close the run; what is not sent in time stays for a sync."""
        self._run.summary.update(dict(metrics))
        self._run.finish(exit_code=0 if succeeded else 1)

    def _is_news(self, item: str) -> bool:
        return item not in self._known

    def _remember(self, item: str) -> None:
        """Write down what was logged: what a run that went on offline has cannot be asked for."""
        self._known.add(item)
        with self._told.open("a", encoding="utf-8") as told:
            told.write(f"{item}\n")

    def _begin(self, mode: Mode, run: TrackedRun) -> Any:
        errors = self._wandb.errors
        try:
            return self._init(mode, run)
        except (errors.UsageError, errors.AuthenticationError) as error:
            raise ConfigError(
                f"train.wandb_mode is {mode!r}, and W&B refuses: {error} Run 'wandb login', set "
                "WANDB_API_KEY, or set train.wandb_mode to 'offline'."
            ) from error
        except (errors.CommError, TimeoutError):
            logger.warning(
                "W&B does not answer: run %s goes on offline. Send it later: wandb sync %s",
                run.name,
                run.folder / "wandb" / f"offline-run-*-{run.name}",
                exc_info=True,
            )
            self._wandb.teardown()  # Its service holds the id for the run that did not begin.
            return self._init("offline", run)

    def _init(self, mode: Mode, run: TrackedRun) -> Any:
        settings = self._wandb.Settings(
            mode=mode,
            root_dir=str(run.folder),
            init_timeout=self._seconds_to_reach,
            finish_timeout=self._seconds_to_reach,
            # Nothing goes out but what is logged here.
            console="off",
            disable_git=True,
            save_code=False,
            symlink=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            quiet=True,
            silent=True,
        )
        return self._wandb.init(
            project=EXPERIMENT,
            id=run.name,
            name=run.name,
            resume="allow",
            config={**run.params, "git_commit": run.git_commit},
            allow_val_change=True,
            settings=settings,
        )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def import_wandb() -> Any:
    """Import the package, which is an extra.

    Raises:
        ConfigError: When it is not installed.
    """
    # Read when a run begins: no report of its own errors is sent.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ConfigError(
            "train.trackers has 'wandb', which is not installed. Run pip install "
            "'catalog-batch[wandb]', or from a checkout pip install '.[wandb]'; or take it out of "
            "train.trackers."
        ) from error
    return wandb

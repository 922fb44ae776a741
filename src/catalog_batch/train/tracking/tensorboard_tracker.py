"""A run as TensorBoard's event files, in the run's folder."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from catalog_batch.train.tracking.tracker import SYSTEM, TrackedRun

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Event files in ``tensorboard/``: curves by epoch, and in ``tensorboard/system`` by batch."""

    def __init__(self, run: TrackedRun) -> None:
        """Open the files; what earlier files say of the curves is replaced.

        Earlier epochs must be logged again, which costs nothing: all was kept in the run's events.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._open: Any = SummaryWriter
        self._folder = run.folder / FOLDER
        self._params = {**run.params, "git_commit": run.git_commit}
        self._curves = self._opened(self._folder, 0)
        self._curves.add_text("settings", _as_table(self._params))
        self._system: Any = None
        self._curves.flush()

    def log_lineage(self, lineage: Mapping[str, str]) -> None:
        """Log where the data came from, as a table."""
        self._params |= lineage
        self._curves.add_text("lineage", _as_table(lineage))

    def go_on_from(self, epoch: int) -> None:
        """Replace what was logged of this epoch and later ones."""
        self._curves.close()
        self._curves = self._opened(self._folder, epoch)

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log a point of each curve."""
        for name, value in figures.items():
            self._curves.add_scalar(_grouped(name), value, epoch)
        self._curves.flush()

    def log_system(self, batch: int, figures: Mapping[str, float]) -> None:
        """Log figures of the machine; what was logged of later batches is replaced."""
        if self._system is None:
            self._system = self._opened(self._folder / SYSTEM, batch)
        for name, value in figures.items():
            self._system.add_scalar(f"{SYSTEM}/{name}", value, batch)
        self._system.flush()

    def log_artefact(self, path: Path) -> None:
        """Log a picture; other files lie beside the event files already."""
        if path.suffix == ".png":
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
            self._curves.add_image(path.stem, pixels, dataformats="HWC")
            self._curves.flush()

    def end(self, metrics: Mapping[str, float], succeeded: bool) -> None:
        """Log final figures with the settings they came of, and close the files."""
        if succeeded:
            params = {name: _plain(value) for name, value in self._params.items()}
            figures = {f"final/{name}": value for name, value in metrics.items()}
            await_a_free_second(self._folder)
            # In the run's own folder: without a name it would look like another run.
            self._curves.add_hparams(params, figures, run_name=".")
        self._curves.close()
        if self._system is not None:
            self._system.close()

    def _opened(self, folder: Path, step: int) -> Any:
        await_a_free_second(folder)
        return self._open(str(folder), purge_step=step)


def await_a_free_second(folder: Path) -> None:
    """Wait, a second at the most, until a new event file comes after those that are there.

    TensorBoard reads files in the order of their names. These begin with the second they were
    opened in, and go on with a number that is compared as text: a tenth file before a ninth.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)


def _grouped(name: str) -> str:
    """Put the losses in one group of charts and the accuracies in another."""
    split, _, figure = name.partition("_")
    return f"{figure}/{split}" if split in ("train", "validation") else f"run/{name}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _as_table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| name | value |", "| --- | --- |", *rows])

"""How far an epoch is and what the machine does, as events of the run."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from catalog_batch.train import events
from catalog_batch.train.reports import Progress
from catalog_batch.train.system import system_figures

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_FIGURES = 15.0
"""Least time between two looks at the machine, except at an epoch's end."""


class Teller:
    """Emits ``progress`` and ``system`` events; for the leading rank, which speaks for all."""

    def __init__(
        self, run_folder: Path, epochs: int, rows: int, batches: int, device: torch.device
    ) -> None:
        """Say what an epoch is.

        Args:
            run_folder: Where the events go.
            epochs: Most epochs of the run.
            rows: Training rows of all ranks.
            batches: Of each rank in an epoch.
            device: Where the network is.
        """
        self._folder = run_folder
        self._epochs = epochs
        self._rows = rows
        self._batches = batches
        self._device = device
        self._looked = time.monotonic()
        self._failed: set[str] = set()
        psutil.cpu_percent()  # Measures from one call to the next: the first says nothing.

    def tell(self, progress: Progress) -> None:
        """Emit the events that are due; one that cannot be emitted is not tried again."""
        self._try("progress", self._tell_progress, progress)
        if progress.batches == self._batches or self._is_time_to_look():
            self._try("system", self._tell_system, progress)

    def _try(self, event: str, tell: Callable[[Progress], None], progress: Progress) -> None:
        if event in self._failed:
            return
        try:
            tell(progress)
        except Exception:
            # A full disk, a GPU without its management library: no reason to stop training.
            self._failed.add(event)
            logger.warning("%s events end here, training goes on", event, exc_info=True)

    def _tell_progress(self, progress: Progress) -> None:
        # The other ranks are as far: all take the same number of steps together.
        images = self._rows * progress.batches // self._batches
        events.emit(
            self._folder,
            "progress",
            epoch=progress.epoch,
            epochs=self._epochs,
            images=images,
            of_images=self._rows,
            images_per_second=images / max(progress.seconds, 1e-9),
            wait_share=min(progress.wait_seconds / max(progress.seconds, 1e-9), 1.0),
        )

    def _is_time_to_look(self) -> bool:
        return time.monotonic() - self._looked >= SECONDS_BETWEEN_FIGURES

    def _tell_system(self, progress: Progress) -> None:
        self._looked = time.monotonic()
        batch = progress.epoch * self._batches + progress.batches
        events.emit(self._folder, "system", batch=batch, **system_figures(self._device))

"""A training run's settings and curves, in the MLflow store that the registry keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog_batch.registry import open_store

EXPERIMENT = "train_classifier"
RUN_TAG = "catalog_batch.run_id"


class Tracker:
    """One run in MLflow; the same run id again adds to the same run."""

    def __init__(self, registry_folder: Path, run_id: str, params: Mapping[str, Any]) -> None:
        """Open the store, and find or create the run.

        Args:
            registry_folder: The registry's folder.
            run_id: Of the training run; the name it is found by.
            params: Settings of a new run, logged as text; a found one keeps its own.
        """
        self._client = open_store(registry_folder)
        self._id = self._find(run_id) or self._create(run_id, params)

    def log_event(self, event: Mapping[str, Any]) -> None:
        """Log an ``epoch`` event's figures as metrics of that step; ignore other events."""
        if event["event"] == "epoch":
            for name, value in event.items():
                if name not in ("event", "epoch"):
                    self._client.log_metric(self._id, name, float(value), step=event["epoch"])

    def end(self, metrics: Mapping[str, float], succeeded: bool = True) -> None:
        """Log final figures and close the run as finished or failed."""
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value)
        self._client.set_terminated(self._id, "FINISHED" if succeeded else "FAILED")

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        return str(found.experiment_id if found else self._client.create_experiment(EXPERIMENT))

    def _find(self, run_id: str) -> str | None:
        tag = f"tags.`{RUN_TAG}` = '{run_id}'"
        runs = self._client.search_runs([self._experiment()], tag, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, run_id: str, params: Mapping[str, Any]) -> str:
        tags = {RUN_TAG: run_id}
        run = self._client.create_run(self._experiment(), tags=tags, run_name=run_id)
        for name, value in params.items():
            self._client.log_param(run.info.run_id, name, value)
        return str(run.info.run_id)

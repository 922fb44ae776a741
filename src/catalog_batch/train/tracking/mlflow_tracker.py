"""A run in MLflow: in the registry's own store, or at any tracking URI."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog_batch.errors import ConfigError
from catalog_batch.registry import open_client, open_store
from catalog_batch.train.tracking.tracker import EXPERIMENT, SYSTEM, TrackedRun

RUN_TAG = "catalog_batch.run_id"
ARTEFACTS = "artefacts"
A_CURVE = "train_loss"
"""A figure that every epoch has: its points are the epochs that are known."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Of requests to a server, in its own variables: its defaults would wait many minutes."""


class MlflowTracker:
    """One run in MLflow; artefacts of the registry's own store lie beside the bundles."""

    def __init__(self, registry_folder: Path, uri: str, run: TrackedRun) -> None:
        """Open the store, and find or create the run.

        Args:
            registry_folder: The registry's folder.
            uri: Of another store; empty takes the registry's.
            run: What to follow.

        Raises:
            ConfigError: When MLflow does not know what to do with the URI.
        """
        self._artefacts = None if uri else (registry_folder / ARTEFACTS).resolve()
        self._client = _open_other(uri) if uri else open_store(registry_folder)
        self._experiment = self._find_experiment() or self._create_experiment()
        self._id = self._find(run.name) or self._create(run)
        self._client.update_run(self._id, status="RUNNING")
        self._known = {int(point.step) for point in self._history(A_CURVE)}

    def log_lineage(self, lineage: Mapping[str, str]) -> None:
        """Log where the data came from, as tags."""
        for name, value in lineage.items():
            self._client.set_tag(self._id, name, value)

    def go_on_from(self, epoch: int) -> None:
        """Do nothing: the points of an epoch that is done again stay as they were."""

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log metrics with the epoch as their step."""
        if epoch not in self._known:
            self._log(figures, epoch)
            self._known.add(epoch)

    def log_system(self, batch: int, figures: Mapping[str, float]) -> None:
        """Log metrics that MLflow shows among those of the system."""
        self._log({f"{SYSTEM}/{name}": value for name, value in figures.items()}, batch)

    def log_artefact(self, path: Path) -> None:
        """Upload a file, or copy it beside the bundles; the one of that name before is replaced."""
        if self._has_place_for_artefacts():
            self._client.log_artifact(self._id, str(path))

    def end(self, metrics: Mapping[str, float], succeeded: bool) -> None:
        """Log final figures, and close the run as finished or failed."""
        before = self._client.get_run(self._id).data.metrics
        self._log({name: value for name, value in metrics.items() if before.get(name) != value}, 0)
        self._client.set_terminated(self._id, "FINISHED" if succeeded else "FAILED")

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step) for name, value in figures.items()]
        self._client.log_batch(self._id, metrics=points)

    def _history(self, name: str) -> list[Any]:
        return list(self._client.get_metric_history(self._id, name))

    def _has_place_for_artefacts(self) -> bool:
        """Tell whether files would go where they belong.

        MLflow remembers an experiment's place as an absolute path: that of a warehouse that was
        moved since is gone, and earlier releases left it to the working directory. The files are
        in the run's folder all the same.
        """
        place = self._client.get_experiment(self._experiment).artifact_location
        return self._artefacts is None or place == self._artefacts.as_uri()

    def _find_experiment(self) -> str | None:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        return str(found.experiment_id) if found else None

    def _create_experiment(self) -> str:
        place = self._artefacts.as_uri() if self._artefacts else None
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=place))

    def _find(self, name: str) -> str | None:
        tag = f"tags.`{RUN_TAG}` = '{name}'"
        runs = self._client.search_runs([self._experiment], tag, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        tags = {RUN_TAG: run.name, "git_commit": run.git_commit}
        created = self._client.create_run(self._experiment, tags=tags, run_name=run.name)
        params = [Param(name, str(value)) for name, value in run.params.items()]
        self._client.log_batch(created.info.run_id, params=params)
        return str(created.info.run_id)


def _open_other(uri: str) -> Any:
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException

    try:
        return open_client(uri)
    except MlflowException:
        # Nothing was asked of a server yet: it is the URI, which the error quotes. It may hold a
        # password.
        raise ConfigError(
            "train.mlflow_uri is no address that MLflow knows. Give that of an MLflow server, such "
            "as http://HOST:5000, or of its database, such as sqlite:////PATH/mlflow.db; or leave "
            "it empty for the registry's own store."
        ) from None

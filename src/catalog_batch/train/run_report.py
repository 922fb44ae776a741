"""The report of a training run, written into its folder."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from catalog_batch.config import Settings
from catalog_batch.errors import CatalogBatchError
from catalog_batch.evaluate.judgement import Decider, judge
from catalog_batch.evaluate.predictions import SPLITS, Predictions, file_name, load_predictions
from catalog_batch.evaluate.report import Champion, ReportInputs, write_report
from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.registry import CHAMPION, ModelVersion, Registry
from catalog_batch.train.photos import photo_source
from catalog_batch.train.trainer import TrainedModel
from catalog_batch.train.worker import SHEET

logger = logging.getLogger(__name__)

REPORT = "report.html"


def write_run_report(
    settings: Settings, registry: Registry, model: ModelVersion, trained: TrainedModel
) -> Path:
    """Write ``report.html`` beside the run's checkpoints; return its path.

    Args:
        settings: That the run was trained with.
        registry: Holds the champion that the model is compared with.
        model: As it was registered.
        trained: What came of the run.
    """
    folder = trained.bundle_folder.parent
    spec = check_bundle(trained.bundle_folder)
    sheet = folder / SHEET
    predictions = {split: load_predictions(folder / file_name(split)) for split in SPLITS}
    inputs = ReportInputs(
        model=_name(model),
        run=folder.name,
        architecture=spec.architecture,
        training_table=spec.training_table,
        training_table_version=spec.training_table_version,
        git_commit=spec.git_commit,
        created_at=spec.created_at,
        settings=settings.train.model_dump(),
        history=[vars(epoch) for epoch in trained.history],
        judgement=trained.judgement,
        predictions=predictions,
        target_precision=settings.train.target_precision,
        photo=photo_source(spec.training_table, spec.training_table_version),
        augmentation_sheet=sheet.read_bytes() if sheet.is_file() else None,
        doubt=trained.doubt,
        champion=_champion(settings, registry, model, predictions),
    )
    write_report(folder / REPORT, inputs)
    return folder / REPORT


def _champion(
    settings: Settings,
    registry: Registry,
    model: ModelVersion,
    predictions: Mapping[str, Predictions],
) -> Champion | None:
    """Return the champion by its predictions for the same rows; None where it has none."""
    for version in registry.list_versions():
        is_other = version.version != model.version
        if version.model_name == model.model_name and CHAMPION in version.aliases and is_other:
            try:
                return judge_champion(settings, version, predictions)
            except CatalogBatchError as error:
                logger.warning("the report does not compare with %s: %s", _name(version), error)
    return None


def judge_champion(
    settings: Settings, champion: ModelVersion, predictions: Mapping[str, Predictions]
) -> Champion | None:
    """Judge a champion by the predictions that its run left, and by today's labels.

    Args:
        settings: That say where runs are.
        champion: As it was registered.
        predictions: Of the model that it is compared with, by split.

    Returns:
        None where its run left no predictions, or those of other rows.

    Raises:
        BadInputError: When rows are labelled now with a class that it does not have.
        ModelRefusedError: When its bundle is damaged.
    """
    folder = settings.runs_folder / champion.tags["training_run"]
    if not all((folder / file_name(split)).is_file() for split in predictions):
        return None
    stored = {split: load_predictions(folder / file_name(split)) for split in predictions}
    # Not by the table's version: of a table that was dropped and built again they start anew.
    if not all(
        np.array_equal(stored[split].image_ids, own.image_ids) for split, own in predictions.items()
    ):
        return None
    others = {split: stored[split].with_labels_of(own) for split, own in predictions.items()}
    decider = Decider.of(check_bundle(champion.bundle_folder))
    return Champion(_name(champion), judge(others, decider, settings.train.seed), others)


def _name(model: ModelVersion) -> str:
    return f"{model.model_name}/{model.version}"

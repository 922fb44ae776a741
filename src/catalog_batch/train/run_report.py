"""The report of a training run, written into its folder."""

from pathlib import Path

from catalog_batch.config import Settings
from catalog_batch.evaluate.judgement import Decider, judge
from catalog_batch.evaluate.predictions import SPLITS, file_name, load_predictions
from catalog_batch.evaluate.report import Champion, ReportInputs, write_report
from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.registry import CHAMPION, ModelVersion, Registry
from catalog_batch.train.photos import photo_source
from catalog_batch.train.trainer import TrainedModel
from catalog_batch.train.worker import SHEET

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
        predictions={split: load_predictions(folder / file_name(split)) for split in SPLITS},
        target_precision=settings.train.target_precision,
        photo=photo_source(spec.training_table, spec.training_table_version),
        augmentation_sheet=sheet.read_bytes() if sheet.is_file() else None,
        champion=_champion(settings, registry, model),
    )
    write_report(folder / REPORT, inputs)
    return folder / REPORT


def _champion(settings: Settings, registry: Registry, model: ModelVersion) -> Champion | None:
    """Return the champion by its predictions for the same rows; None where there are none."""
    champions = [
        version
        for version in registry.list_versions()
        if version.model_name == model.model_name and CHAMPION in version.aliases
    ]
    if not champions or champions[0].version == model.version:
        return None
    champion, table = champions[0], "training_table_version"
    folder = settings.runs_folder / champion.tags["training_run"]
    files = {split: folder / file_name(split) for split in SPLITS}
    is_of_same_rows = champion.tags[table] == model.tags[table]
    if not is_of_same_rows or not all(file.is_file() for file in files.values()):
        return None
    predictions = {split: load_predictions(file) for split, file in files.items()}
    spec = check_bundle(champion.bundle_folder)
    decider = Decider(spec.temperature, spec.thresholds)
    judgement = judge(predictions, decider, settings.train.seed)
    return Champion(_name(champion), judgement, predictions)


def _name(model: ModelVersion) -> str:
    return f"{model.model_name}/{model.version}"

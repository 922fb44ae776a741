"""Whether tonight is as last night was: known from the tables' logs, without Spark."""

import hashlib
import json
from collections.abc import Mapping

from catalog_batch import ledger
from catalog_batch.config import ScoreSettings
from catalog_batch.registry import ModelVersion
from catalog_batch.runs import RUN_LOG

INPUTS = ("images", "product_images", "products", "taxonomy_changes")
OUTPUTS = ("image_predictions", "product_predictions")

Versions = Mapping[str, int | None]


def versions_of(root: str, names: tuple[str, ...]) -> dict[str, int | None]:
    """Return the newest versions of tables by name, None for those that are not there."""
    return {name: ledger.table_version(root, name) for name in names}


def fingerprint(model: ModelVersion, settings: ScoreSettings, versions: Versions) -> str:
    """Return a hash of all that decides what a run has to do.

    Args:
        model: Whose digest counts, and not its alias.
        settings: All of the section, for most of them change a decision.
        versions: Of ``INPUTS`` before the run read them, and of ``OUTPUTS`` after it wrote them.
    """
    parts = {
        "model": [model.model_name, model.version, model.digest],
        "settings": settings.model_dump(mode="json", exclude={"model"}),
        "versions": dict(versions),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def is_done(root: str, job: str, model: ModelVersion, settings: ScoreSettings) -> bool:
    """Return whether a run of before left nothing to do, and nothing has changed since."""
    made_of = fingerprint(model, settings, versions_of(root, INPUTS + OUTPUTS))
    return ledger.has_row(root, RUN_LOG, {"job": job, "made_of": made_of})

"""The registry as the table ``models``, for SQL."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from catalog_batch import ledger
from catalog_batch.modeling.variants import AS_TRAINED
from catalog_batch.registry import ModelVersion, Registry

TABLE = "models"
TRAINING_TABLE = "training_examples"


def publish_models(root: str, registry: Registry) -> None:
    """Bring the table up to date with the registry: call it whenever an alias has moved.

    Args:
        root: Of the warehouse.
        registry: All of whose versions the table shall hold.

    Raises:
        MissingTableError: When no Spark job has created the table yet.
    """
    rows = [_model_row(version) for version in registry.list_versions()]
    ledger.replace_rows(root, TABLE, rows)


def held_aliases(root: str) -> AbstractContextManager[None]:
    """Keep others from moving an alias, or telling the table of one, inside the block.

    It is not the lock of a job: a rollback must not wait until a training or a comparison is over.
    """
    return ledger.held_lock(ledger.lock_folder(root) / "aliases.lock", wait=True)


def _model_row(version: ModelVersion) -> dict[str, Any]:
    tags = version.tags
    return {
        "model_name": version.model_name,
        "version": version.version,
        "alias": version.alias or None,
        "architecture": tags["architecture"],
        "variant": tags.get("variant", AS_TRAINED),
        "metrics": list(version.metrics.items()),
        "training_table": TRAINING_TABLE,
        "training_table_version": int(tags["training_table_version"]),
        "taxonomy_version": int(tags["taxonomy_version"]),
        "git_commit": tags["git_commit"],
        "digest": version.digest,
        "registered_at": datetime.fromtimestamp(version.created_ms / 1000, tz=UTC),
        "run_id": tags["training_run"],
    }

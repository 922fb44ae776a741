"""The registry as the table ``models``, for SQL."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from catalog_batch import ledger
from catalog_batch.errors import ModelRefusedError
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
        ModelRefusedError: From ``require_own_registry``.
    """
    require_own_registry(root, registry)
    rows = [_model_row(version) for version in registry.list_versions()]
    ledger.replace_rows(root, TABLE, rows)


def require_own_registry(root: str, registry: Registry) -> None:
    """Check each model of the registry with ``require_same_registry``.

    Call it before an alias moves or a version is added: ``publish_models`` would refuse what has
    happened by then.
    """
    for name in sorted({version.model_name for version in registry.list_versions()}):
        require_same_registry(root, registry, name)


def require_same_registry(root: str, registry: Registry, model_name: str) -> None:
    """Check that the registry means by a version's number what the warehouse knows by it.

    Predictions and figures are stored under the number: in another registry, or in one that was
    lost and begun anew, another bundle would take them over as its own.

    Args:
        root: Of the warehouse; that it has the table is not asked.
        registry: To go on with.
        model_name: Whose versions are compared.

    Raises:
        ModelRefusedError: When a known version has another digest there, or none is there.
    """
    columns = ("version", "digest")
    known = ledger.find_rows(root, TABLE, columns, {"model_name": model_name})
    digests = {row["version"]: row["digest"] for row in known}
    there = {
        version.version: version.digest
        for version in registry.list_versions()
        if version.model_name == model_name
    }
    others = [number for number in digests if there.get(number, digests[number]) != digests[number]]
    if others:
        differs = f"as version {min(others)} of {model_name!r} another bundle"
    elif digests and not there:
        differs = f"no version of {model_name!r}"
    else:
        return
    raise ModelRefusedError(
        f"The registry {str(registry.folder)!r} has {differs}, and the warehouse {root!r} has "
        f"predictions and figures of version {min(others or digests)}. Give the registry that it "
        "was filled with (--set registry=), or go on under another name (--set train.model_name=)."
    )


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

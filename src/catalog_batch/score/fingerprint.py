"""What an earlier night had done already: known from the tables' logs, without Spark."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from catalog_batch import ledger
from catalog_batch.config import ScoreSettings
from catalog_batch.registry import ModelVersion
from catalog_batch.runs import RUN_LOG

INPUTS = ("taxonomy_changes", "products", "product_images", "images")
"""In the order in which their versions are looked up. An ingest that works meanwhile commits images
first and products last: so each product that is seen has its links, and each link its image."""

OUTPUTS = ("image_predictions", "product_predictions")
DECIDING_NOTHING = {
    "model",
    "batch_size",
    "keep_embeddings",
    "max_abstained_share",
    "max_drift",
    "max_failed_share",
    "min_gate_products",
}
"""Settings by which what was decided, and passed, would be decided alike."""

LINKS = "product_images"
PUBLISHED = "product_predictions"
DECIDED_FROM = (LINKS, "products", "image_predictions")
"""What a product's decision is made of; each row is stamped with the run that wrote it last."""

Versions = Mapping[str, int | None]


def versions_of(root: str, names: tuple[str, ...]) -> dict[str, int | None]:
    """Return the newest versions of tables by name, None for those that are not there."""
    return {name: ledger.table_version(root, name) for name in names}


def fingerprint(model: ModelVersion, settings: ScoreSettings, versions: Versions) -> str:
    """Return a hash of all that decides what a run has to do.

    Args:
        model: Whose digest counts, and not its alias.
        settings: All of the section but ``DECIDING_NOTHING``.
        versions: Of ``INPUTS`` before the run read them, and of ``OUTPUTS`` after it wrote them.
    """
    parts = {
        "model": [model.model_name, model.version, model.digest],
        # Another release may decide otherwise.
        "release": metadata.version("catalog-batch"),
        "settings": settings.model_dump(mode="json", exclude=DECIDING_NOTHING),
        "versions": dict(versions),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def is_done(root: str, job: str, model: ModelVersion, settings: ScoreSettings) -> bool:
    """Return whether a run of before left nothing to do, and no row has changed since."""
    before = _last_complete(root, job, model, settings)
    return before is not None and all(_keeps_rows(root, before, name) for name in before)


def _keeps_rows(root: str, before: Versions, name: str) -> bool:
    now = ledger.table_version(root, name)
    return before[name] == now or (
        now is not None and _writes(root, before, name) == ledger.Writes()
    )


@dataclass(frozen=True)
class Changes:
    """What was written since a run that decided all."""

    runs: frozenset[str]
    """Rows of ``DECIDED_FROM`` and of what is published bear their stamp."""

    links_before: int | None = None
    """A version of ``product_images`` with the links that were deleted; None if there are none."""


def changes_since_last(
    root: str, job: str, model: ModelVersion, settings: ScoreSettings
) -> Changes | None:
    """Return what was written since a run decided all by this model and these settings.

    None where that does not tell what has to be decided anew: there was no such run, what it
    published was changed since by another job, the categories were moved, or rows were deleted that
    nobody can look up.
    """
    before = _last_complete(root, job, model, settings)
    tree = "taxonomy_changes"
    if before is None or before[tree] != ledger.table_version(root, tree):
        return None
    writes = {name: _writes(root, before, name) for name in (*DECIDED_FROM, PUBLISHED)}
    found = {name: of for name, of in writes.items() if of is not None}
    if len(found) < len(writes) or not found[PUBLISHED].jobs <= {job}:
        return None
    deleted = {name for name, of in found.items() if of.has_deleted}
    if deleted - {LINKS}:
        return None
    links_before = before[LINKS] if deleted else None
    if links_before is not None and not ledger.is_readable(root, LINKS, links_before):
        return None
    return Changes(frozenset().union(*(of.runs for of in found.values())), links_before)


def _writes(root: str, before: Versions, name: str) -> ledger.Writes | None:
    version = before[name]
    return None if version is None else ledger.writes_since(root, name, version)


def _last_complete(
    root: str, job: str, model: ModelVersion, settings: ScoreSettings
) -> Versions | None:
    """Return the versions that the last run read and left which decided all by these."""
    columns = ("started_at", "made_of", "table_versions")
    logged = ledger.find_rows(root, RUN_LOG, columns, {"job": job})
    for row in sorted(logged, key=lambda row: row["started_at"], reverse=True):
        known = dict(row["table_versions"] or ())
        versions = {name: known.get(name) for name in INPUTS + OUTPUTS}
        if row["made_of"] == fingerprint(model, settings, versions):
            return versions
    return None

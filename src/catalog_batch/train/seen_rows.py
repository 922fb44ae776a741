"""Rows that a model is judged by, and that the model training starts from has been trained on."""

from datetime import datetime
from pathlib import Path

from deltalake import DeltaTable

from catalog_batch.errors import BadInputError, MissingTableError
from catalog_batch.evaluate.predictions import SPLITS
from catalog_batch.modeling.bundle import check_bundle
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.modeling.starting import is_bundle
from catalog_batch.split_rows import SplitRows
from catalog_batch.train.snapshot import Snapshot, resolve_snapshot


def doubt_of_start(weights: str, snapshot: Snapshot) -> str:
    """Say which rows of validation and test an earlier bundle was trained on.

    Those are its training rows' images and all images of their products, since a split keeps a
    product together. What that bundle had itself started from is not looked at: its own run did,
    and the doubt that it found is inherited.

    Args:
        weights: As of ``starting_network``; of anything but a bundle nothing is known.
        snapshot: That is trained on now.

    Returns:
        A sentence for people; empty when there are none. Another one where the bundle's own table
        version cannot be read any more.
    """
    if not is_bundle(weights):
        return ""
    spec = check_bundle(Path(weights))
    version = f"version {spec.training_table_version} of {spec.training_table!r}"
    try:
        earlier = _snapshot_of(spec)
        if (earlier.table_uri, earlier.version) == (snapshot.table_uri, snapshot.version):
            return spec.doubt
        trained = _rows(earlier, "train")
        counts = {split: _rows(snapshot, split).count_seen(trained) for split in SPLITS}
    except (BadInputError, OSError, ValueError) as error:
        return (
            f"Training started from {weights!r}, which was trained on {version}, and that cannot "
            f"be read any more ({str(error).splitlines()[0]}): nobody knows whether it has seen "
            f"rows of validation and test. Figures may be too good. {spec.doubt}"
        ).strip()
    if not any(counts.values()):
        return spec.doubt
    seen = " and ".join(
        f"{rows:,} of {snapshot.rows(split):,} {split} rows" for split, rows in counts.items()
    )
    return (
        f"Training started from {weights!r}, which was trained on {version}: it has seen the "
        f"products of {seen}, so that figures are too good. Start from other weights, or build "
        f"the training set with the split as it was. {spec.doubt}"
    ).strip()


def _snapshot_of(spec: BundleSpec) -> Snapshot:
    uri, version = spec.training_table, spec.training_table_version
    found = resolve_snapshot(uri, version)
    # Versions of a table that was dropped and built again start anew.
    if spec.training_table_id:
        if found.table_id != spec.training_table_id:
            raise MissingTableError("the table was built anew since")
        return found
    built_ms = DeltaTable(found.table_uri, version=version).metadata().created_time or 0
    if built_ms > 1000 * datetime.fromisoformat(spec.created_at).timestamp():
        raise MissingTableError("the table was built anew since")
    return found


def _rows(snapshot: Snapshot, split: str) -> SplitRows:
    paths = tuple(snapshot.splits[split].paths)
    return SplitRows(snapshot.version, split, paths, snapshot.rows(split))

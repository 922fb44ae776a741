"""What one manifest row becomes, on an executor, without Spark."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog_batch.imaging import DecodePolicy, Reason
from catalog_batch.ingest import decoding
from catalog_batch.ingest.decoding import (
    INPUT_COLUMNS,
    REJECTED,
    STORED,
    UNCHANGED,
    SourcePolicy,
    outcome_of,
    process_batches,
)
from catalog_batch.ingest.sources import ImageRoot, SourceFile

MODIFIED = datetime(2024, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


@pytest.fixture
def policy(tmp_path: Path) -> SourcePolicy:
    return SourcePolicy(str(tmp_path), max_source_bytes=50_000, decode=DecodePolicy(stored_side=32))


@pytest.fixture
def photo(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> bytes:
    """Put a.jpg under the root, dated ``MODIFIED``."""
    return put(tmp_path / "a.jpg", make_jpeg(1))


def put(path: Path, content: bytes) -> bytes:
    path.write_bytes(content)
    os.utime(path, (MODIFIED.timestamp(),) * 2)
    return content


def row(**columns: Any) -> Row:
    return dict.fromkeys(INPUT_COLUMNS) | {"product_id": "p1", "source_uri": "a.jpg"} | columns


def known(content: bytes, **columns: Any) -> Row:
    """Return the row of a.jpg as an earlier run knew it."""
    return row(known_bytes=len(content), known_modified_at=MODIFIED, known_attempts=0) | columns


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def outcome(item: Row, policy: SourcePolicy) -> Row:
    return outcome_of(item, ImageRoot(policy.root), policy)


def test_a_good_image_is_stored_with_what_its_file_was(policy: SourcePolicy, photo: bytes) -> None:
    result = outcome(row(), policy)
    assert result.pop("content").startswith(b"\xff\xd8")
    assert result == {
        "product_id": "p1",
        "source_uri": "a.jpg",
        "outcome": STORED,
        "image_id": sha256(photo),
        "width": 38,
        "height": 32,
        "source_format": "JPEG",
        "source_width": 48,
        "source_height": 40,
        "source_bytes": len(photo),
        "source_modified_at": MODIFIED,
        "is_animated": False,
    }


def test_a_row_with_a_defect_touches_no_file(policy: SourcePolicy, photo: bytes) -> None:
    result = outcome(row(defect="the row has no product_id"), policy)
    assert (result["outcome"], result["reason"]) == (REJECTED, Reason.BAD_ROW)
    assert result["source_bytes"] is None


def test_a_missing_file_is_rejected(policy: SourcePolicy) -> None:
    result = outcome(row(), policy)
    assert (result["outcome"], result["reason"], result["attempts"]) == (REJECTED, "missing", 1)


@pytest.mark.parametrize("upper", [False, True])
def test_a_checksum_that_fits_is_accepted(policy: SourcePolicy, photo: bytes, upper: bool) -> None:
    given = sha256(photo).upper() if upper else sha256(photo)
    assert outcome(row(sha256=given), policy)["outcome"] == STORED
    assert outcome(row(sha256=""), policy)["outcome"] == STORED


def test_a_checksum_that_does_not_fit_is_rejected(policy: SourcePolicy, photo: bytes) -> None:
    assert outcome(row(sha256="0" * 64), policy)["reason"] == Reason.CHECKSUM_MISMATCH


def test_a_file_that_is_too_large_is_not_read(policy: SourcePolicy, tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)  # takes no room, and could not be read into memory
    assert outcome(row(), policy)["reason"] == Reason.TOO_LARGE


def test_an_unchanged_file_is_not_read(policy: SourcePolicy, tmp_path: Path) -> None:
    content = put(tmp_path / "a.jpg", b"no image at all")
    result = outcome(known(content, known_image_id="id"), policy)
    assert (result["outcome"], result["image_id"]) == (UNCHANGED, "id")


def test_a_file_of_other_size_or_time_is_read_again(policy: SourcePolicy, photo: bytes) -> None:
    item = known(photo, known_image_id="another")
    assert outcome(item | {"known_bytes": 1}, policy)["outcome"] == STORED
    earlier = datetime(2023, 1, 1, tzinfo=UTC)
    assert outcome(item | {"known_modified_at": earlier}, policy)["outcome"] == STORED


def test_a_file_that_was_only_touched_is_unchanged(policy: SourcePolicy, photo: bytes) -> None:
    earlier = datetime(2023, 1, 1, tzinfo=UTC)
    item = known(photo, known_image_id=sha256(photo), known_modified_at=earlier)
    result = outcome(item, policy)
    assert (result["outcome"], result["source_modified_at"]) == (UNCHANGED, MODIFIED)


def test_a_known_image_with_another_checksum_in_the_manifest_is_read_again(
    policy: SourcePolicy, photo: bytes
) -> None:
    item = known(photo, known_image_id=sha256(photo), sha256="0" * 64)
    assert outcome(item, policy)["reason"] == Reason.CHECKSUM_MISMATCH


def test_a_bad_file_that_did_not_change_is_not_tried_again(
    policy: SourcePolicy, photo: bytes
) -> None:
    result = outcome(known(photo, known_reason="truncated", known_attempts=1), policy)
    assert (result["outcome"], result["reason"]) == (REJECTED, "truncated")
    assert result["attempts"] is None


def test_a_bad_file_that_changed_is_one_more_attempt(policy: SourcePolicy, tmp_path: Path) -> None:
    content = put(tmp_path / "a.jpg", b"still no image")
    item = known(content + b"!", known_reason="not_an_image", known_attempts=2)
    result = outcome(item, policy)
    assert (result["reason"], result["attempts"]) == ("not_an_image", 3)


@pytest.mark.parametrize("reason", ["unreadable", "missing", "checksum_mismatch", "outside_root"])
def test_what_the_files_content_was_not_to_blame_for_is_tried_again(
    policy: SourcePolicy, photo: bytes, reason: str
) -> None:
    item = known(photo, known_reason=reason, known_attempts=1)
    assert outcome(item, policy)["outcome"] == STORED


def test_a_larger_limit_lets_a_file_in(policy: SourcePolicy, photo: bytes) -> None:
    item = known(photo, known_reason="too_large", known_attempts=1)
    assert outcome(item, policy)["outcome"] == STORED


def test_the_same_finding_about_the_same_file_is_no_new_attempt(
    policy: SourcePolicy, photo: bytes
) -> None:
    item = known(photo, known_reason="checksum_mismatch", known_attempts=1, sha256="0" * 64)
    result = outcome(item, policy)
    assert (result["reason"], result["attempts"]) == ("checksum_mismatch", None)


def test_the_same_finding_without_a_file_is_no_new_attempt(policy: SourcePolicy) -> None:
    item = row(known_reason="missing", known_attempts=1)
    assert outcome(item, policy)["attempts"] is None
    assert outcome(item | {"known_reason": "empty"}, policy)["attempts"] == 2


def test_the_size_is_that_of_the_bytes_that_were_read(policy: SourcePolicy, photo: bytes) -> None:
    # As when an upload goes on between finding and reading.
    stale = SourceFile(str(Path(policy.root) / "a.jpg"), 0, MODIFIED)
    result = decoding._fresh(row(), stale, ImageRoot(policy.root), policy)
    assert (result["outcome"], result["source_bytes"]) == (STORED, len(photo))


def test_a_file_that_vanishes_before_it_is_read_is_missing(policy: SourcePolicy) -> None:
    stale = SourceFile(str(Path(policy.root) / "a.jpg"), 5, MODIFIED)
    result = decoding._fresh(row(), stale, ImageRoot(policy.root), policy)
    assert (result["outcome"], result["reason"]) == (REJECTED, "missing")


def test_every_row_of_every_batch_comes_out_once_in_order(
    policy: SourcePolicy, photo: bytes
) -> None:
    rows = [row(product_id=f"p{n}", source_uri="a.jpg" if n % 2 else "b.jpg") for n in range(150)]
    types = {"known_attempts": pa.int32(), "known_bytes": pa.int64()}
    schema = pa.schema(
        [
            (name, pa.timestamp("us", "UTC") if name == "known_modified_at" else kind)
            for name in INPUT_COLUMNS
            for kind in [types.get(name, pa.string())]
        ]
    )
    batches = pa.Table.from_pylist(rows, schema).to_batches(max_chunksize=7)
    found = list(process_batches(policy, [*batches, batches[0].slice(0, 0)]))
    assert [r["product_id"] for batch in found for r in batch.to_pylist()] == [
        r["product_id"] for r in rows
    ]
    assert max(batch.num_rows for batch in found) <= 64


def test_no_batch_gives_no_batch(policy: SourcePolicy) -> None:
    assert list(process_batches(policy, [])) == []

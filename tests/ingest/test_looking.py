"""What is planned for a manifest row, without opening its image and without Spark."""

import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catalog_batch.imaging import DecodePolicy, Reason
from catalog_batch.ingest.looking import (
    INPUT_COLUMNS,
    PLAN_SCHEMA,
    look_at,
    look_at_batches,
)
from catalog_batch.ingest.policy import REJECTED, TO_DO, UNCHANGED, SourcePolicy
from catalog_batch.ingest.sources import ImageRoot

MODIFIED = datetime(2024, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


@pytest.fixture
def policy(tmp_path: Path) -> SourcePolicy:
    return SourcePolicy(str(tmp_path), max_source_bytes=50_000, decode=DecodePolicy(stored_side=32))


@pytest.fixture
def photo(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> bytes:
    """Put a.jpg under the root, dated ``MODIFIED``."""
    content = make_jpeg(1)
    (tmp_path / "a.jpg").write_bytes(content)
    os.utime(tmp_path / "a.jpg", (MODIFIED.timestamp(),) * 2)
    return content


def row(**columns: Any) -> Row:
    return dict.fromkeys(INPUT_COLUMNS) | {"product_id": "p1", "source_uri": "a.jpg"} | columns


def known(content: bytes, **columns: Any) -> Row:
    """Return the row of a.jpg as an earlier run knew it, shown or refused."""
    return (
        row(
            known_bytes=len(content),
            known_modified_at=MODIFIED,
            refused_bytes=len(content),
            refused_modified_at=MODIFIED,
        )
        | columns
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def look(item: Row, policy: SourcePolicy) -> Row:
    return look_at(item, ImageRoot(policy.root), policy)


def test_a_new_file_is_to_do_and_was_only_looked_at(policy: SourcePolicy, photo: bytes) -> None:
    found = look(row(), policy)
    assert (found["outcome"], found["source_bytes"]) == (TO_DO, len(photo))
    assert found["source_modified_at"] == MODIFIED


def test_a_row_with_a_defect_touches_no_file(policy: SourcePolicy, photo: bytes) -> None:
    found = look(row(defect="the row has no product_id"), policy)
    assert (found["outcome"], found["reason"]) == (REJECTED, Reason.BAD_ROW)
    assert found["source_bytes"] is None


def test_a_missing_file_is_rejected(policy: SourcePolicy) -> None:
    found = look(row(), policy)
    assert (found["outcome"], found["reason"], found["attempts"]) == (REJECTED, "missing", 1)


def test_a_file_that_is_too_large_is_not_to_do(policy: SourcePolicy, tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)  # takes no room, and could not be read into memory
    assert look(row(), policy)["reason"] == Reason.TOO_LARGE


def test_an_unchanged_file_is_not_to_do(policy: SourcePolicy, photo: bytes) -> None:
    found = look(known(photo, known_image_id="id"), policy)
    assert (found["outcome"], found["image_id"]) == (UNCHANGED, "id")


def test_a_file_of_other_size_or_time_is_to_do(policy: SourcePolicy, photo: bytes) -> None:
    item = known(photo, known_image_id="another")
    assert look(item | {"known_bytes": 1}, policy)["outcome"] == TO_DO
    earlier = datetime(2023, 1, 1, tzinfo=UTC)
    assert look(item | {"known_modified_at": earlier}, policy)["outcome"] == TO_DO


@pytest.mark.parametrize("write", [str.lower, str.upper])
def test_a_checksum_of_the_stored_image_says_unchanged_without_a_file(
    policy: SourcePolicy, write: Callable[[str], str]
) -> None:
    item = row(known_image_id=sha256(b"x"), sha256=write(sha256(b"x")), source_uri="gone.jpg")
    assert look(item, policy)["outcome"] == UNCHANGED


def test_a_known_image_with_another_checksum_in_the_manifest_is_to_do(
    policy: SourcePolicy, photo: bytes
) -> None:
    item = known(photo, known_image_id=sha256(photo), sha256="0" * 64)
    assert look(item, policy)["outcome"] == TO_DO


@pytest.mark.parametrize("reason", ["truncated", "unreadable", "timed_out", "too_large", "crashed"])
def test_a_rejected_file_that_did_not_change_is_not_tried_again(
    policy: SourcePolicy, photo: bytes, reason: str
) -> None:
    found = look(known(photo, known_reason=reason, known_attempts=1), policy)
    assert (found["outcome"], found["reason"], found["attempts"]) == (REJECTED, reason, None)


def test_a_refused_version_of_a_shown_image_is_not_tried_again(
    policy: SourcePolicy, photo: bytes
) -> None:
    item = known(photo, known_image_id="old", known_reason="crashed", known_attempts=1)
    refused = look(item | {"known_bytes": 1}, policy)
    assert (refused["outcome"], refused["reason"], refused["attempts"]) == (
        REJECTED,
        "crashed",
        None,
    )
    restored = look(item | {"refused_bytes": 1}, policy)
    assert (restored["outcome"], restored["image_id"]) == (UNCHANGED, "old")
    changed = look(item | {"known_bytes": 1, "refused_bytes": 2}, policy)
    assert (changed["outcome"], changed["known_attempts"]) == (TO_DO, 1)


def test_a_rejected_file_that_changed_is_to_do(policy: SourcePolicy, photo: bytes) -> None:
    item = known(photo + b"!", known_reason="not_an_image", known_attempts=2)
    assert look(item, policy)["outcome"] == TO_DO


def test_a_reason_can_be_tried_again_on_demand(policy: SourcePolicy, photo: bytes) -> None:
    retrying = SourcePolicy(
        policy.root, policy.max_source_bytes, policy.decode, retried=frozenset({"timed_out"})
    )
    timed_out = known(photo, known_reason="timed_out", known_attempts=1)
    assert look(timed_out, retrying)["outcome"] == TO_DO
    assert look(timed_out | {"known_reason": "truncated"}, retrying)["outcome"] == REJECTED


def test_a_mended_checksum_in_the_manifest_is_to_do(policy: SourcePolicy, photo: bytes) -> None:
    item = known(photo, known_reason="checksum_mismatch", known_attempts=1, known_sha256="0" * 64)
    assert look(item | {"sha256": "0" * 64}, policy)["attempts"] is None
    assert look(item | {"sha256": sha256(photo)}, policy)["outcome"] == TO_DO
    assert look(item, policy)["outcome"] == TO_DO


def test_a_file_that_was_missing_and_is_there_is_to_do(policy: SourcePolicy, photo: bytes) -> None:
    assert look(row(known_reason="missing", known_attempts=1), policy)["outcome"] == TO_DO


@pytest.mark.parametrize("reason", ["missing", "outside_root"])
def test_a_file_that_was_away_while_it_was_read_is_to_do(
    policy: SourcePolicy, photo: bytes, reason: str
) -> None:
    """Looked at before, and so known by size and time; then the folder was swapped for a moment."""
    assert look(known(photo, known_reason=reason, known_attempts=1), policy)["outcome"] == TO_DO


def test_the_same_finding_without_a_file_is_no_new_attempt(policy: SourcePolicy) -> None:
    item = row(known_reason="missing", known_attempts=1)
    assert look(item, policy)["attempts"] is None
    assert look(item | {"known_reason": "empty"}, policy)["attempts"] == 2


def test_an_image_in_the_manifest_itself_is_to_do(policy: SourcePolicy) -> None:
    found = look(row(content_file="file:///m.parquet", content_row=7), policy)
    assert (found["outcome"], found["content_row"]) == (TO_DO, 7)


def test_every_row_of_every_batch_comes_out_once_in_order(
    policy: SourcePolicy, photo: bytes
) -> None:
    rows = [row(product_id=f"p{n}", source_uri="a.jpg" if n % 2 else "b.jpg") for n in range(150)]
    types = {field.name: field.type for field in PLAN_SCHEMA} | {
        "known_bytes": pa.int64(),
        "known_modified_at": pa.timestamp("us", "UTC"),
        "refused_bytes": pa.int64(),
        "refused_modified_at": pa.timestamp("us", "UTC"),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in INPUT_COLUMNS])
    batches = pa.Table.from_pylist(rows, schema).to_batches(max_chunksize=7)
    found = list(look_at_batches(policy, [*batches, batches[0].slice(0, 0)]))
    assert [r["product_id"] for batch in found for r in batch.to_pylist()] == [
        r["product_id"] for r in rows
    ]

"""What the bytes of an image become, in the child and around it, without Spark."""

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.ingest.poisoned_decoder import start_poisoned_decoder

from catalog_batch.imaging import DecodePolicy, Reason, Rejection
from catalog_batch.ingest.decoder import Task, decode_task
from catalog_batch.ingest.decoding import (
    OUTCOME_SCHEMA,
    decoded_rows,
    decoder,
    process_batches,
)
from catalog_batch.ingest.isolation import IsolatedWorker, Limits
from catalog_batch.ingest.looking import PLAN_SCHEMA
from catalog_batch.ingest.policy import INGESTED, REJECTED, TO_DO, UNCHANGED, SourcePolicy

MODIFIED = datetime(2024, 1, 1, tzinfo=UTC)
Row = dict[str, Any]


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[SourcePolicy]:
    (tmp_path / "images").mkdir()
    policy = SourcePolicy(
        str(tmp_path / "images"), max_source_bytes=50_000, decode=DecodePolicy(stored_side=32)
    )
    yield policy
    decoder(policy).close()


def put(policy: SourcePolicy, name: str, content: bytes) -> Row:
    """Write an image and return its row of a plan."""
    path = Path(policy.root) / name
    path.write_bytes(content)
    os.utime(path, (MODIFIED.timestamp(),) * 2)
    return dict.fromkeys(PLAN_SCHEMA.names) | {
        "product_id": "p1",
        "source_uri": name,
        "outcome": TO_DO,
        "path": str(path),
        "source_bytes": len(content),
        "source_modified_at": MODIFIED,
    }


def task(**columns: Any) -> Task:
    return Task(**(dict.fromkeys(Task._fields) | columns))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_good_image_is_decoded_and_measured(
    policy: SourcePolicy, make_jpeg: Callable[..., bytes]
) -> None:
    content = make_jpeg(1)
    found = decode_task(task(), content, policy)
    assert (found["outcome"], found["image_id"]) == (INGESTED, sha256(content))
    assert (found["width"], found["height"], found["source_bytes"]) == (38, 32, len(content))
    assert 0 < found["brightness"] < 1
    assert found["decode_ms"] > 0


@pytest.mark.parametrize("write", [str.lower, str.upper])
def test_a_checksum_that_fits_is_accepted(
    policy: SourcePolicy, make_jpeg: Callable[..., bytes], write: Callable[[str], str]
) -> None:
    content = make_jpeg(1)
    found = decode_task(task(sha256=write(sha256(content))), content, policy)
    assert found["outcome"] == INGESTED
    assert decode_task(task(sha256=""), content, policy)["outcome"] == INGESTED


def test_a_checksum_that_does_not_fit_is_rejected(
    policy: SourcePolicy, make_jpeg: Callable[..., bytes]
) -> None:
    found = decode_task(task(sha256="0" * 64), make_jpeg(1), policy)
    assert (found["outcome"], found["reason"]) == (REJECTED, Reason.CHECKSUM_MISMATCH)


def test_a_file_that_was_only_touched_is_unchanged(policy: SourcePolicy) -> None:
    content = b"not even decoded"
    found = decode_task(task(known_image_id=sha256(content)), content, policy)
    assert found["outcome"] == UNCHANGED


def test_what_could_not_be_read_is_rejected_for_that_reason(policy: SourcePolicy) -> None:
    found = decode_task(task(), Rejection(Reason.UNREADABLE, "no permission"), policy)
    assert (found["reason"], found["detail"]) == (Reason.UNREADABLE, "no permission")


def test_every_row_has_an_outcome_and_ingested_ones_an_image_in_the_file(
    policy: SourcePolicy, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    rows = [put(policy, f"{n}.jpg", make_jpeg(n) if n % 3 else b"no image") for n in range(70)]
    rows[1]["path"] = str(tmp_path / "images" / "gone.jpg")
    rows[0]["known_attempts"] = 4
    batches = pa.Table.from_pylist(rows, PLAN_SCHEMA).to_batches(max_chunksize=9)
    found = pa.Table.from_batches(
        process_batches(policy, str(tmp_path / "staging"), batches), OUTCOME_SCHEMA
    ).to_pylist()
    assert [row["source_uri"] for row in found] == [row["source_uri"] for row in rows]
    assert (found[0]["reason"], found[0]["attempts"]) == ("not_an_image", 5)
    assert (found[1]["reason"], found[1]["attempts"]) == ("missing", 1)
    ingested = [row for row in found if row["outcome"] == INGESTED]
    assert len(ingested) == 45
    files = {row["staged_file"] for row in ingested}
    assert len(files) == 1
    staged = pq.read_table(files.pop()).to_pylist()
    assert [row["image_id"] for row in staged] == [row["image_id"] for row in ingested]
    assert all(row["content"].startswith(b"\xff\xd8") for row in staged)


def test_a_task_without_a_good_image_leaves_no_file(policy: SourcePolicy, tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pylist([put(policy, "a.jpg", b"")], schema=PLAN_SCHEMA)
    found = list(process_batches(policy, str(tmp_path / "staging"), [batch]))
    assert found[0]["staged_file"].to_pylist() == [None]
    assert not (tmp_path / "staging").exists()


def test_a_file_that_changes_between_look_and_read_is_rejected(
    policy: SourcePolicy, make_jpeg: Callable[..., bytes]
) -> None:
    row = put(policy, "a.jpg", make_jpeg(1))
    (Path(policy.root) / "a.jpg").write_bytes(make_jpeg(2, width=90))
    found = list(decoded_rows([row], decoder(policy), policy))
    assert found[0]["reason"] == Reason.CHANGED_WHILE_READING


def test_poison_costs_its_own_row_alone(policy: SourcePolicy, tmp_path: Path) -> None:
    rows = [put(policy, name, b"x") for name in ("a", "segfault", "b", "spin", "memory", "c")]
    limits = Limits(memory_bytes=256 * 2**20, cpu_seconds=1, wall_seconds=20)
    with IsolatedWorker(start_poisoned_decoder, limits) as worker:
        found = {row["source_uri"]: row for row in decoded_rows(rows, worker, policy)}
    assert {name: row["reason"] for name, row in found.items()} == {
        "a": None,
        "segfault": Reason.CRASHED,
        "b": None,
        "spin": Reason.TIMED_OUT,
        "memory": Reason.OUT_OF_MEMORY,
        "c": None,
    }
    assert found["segfault"]["attempts"] == 1

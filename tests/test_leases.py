"""Leases are files, so these tests look at a folder."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from catalog_batch import ledger
from catalog_batch.errors import BadInputError
from catalog_batch.leases import Lease, held_lease, live_leases

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLE = "training_examples"


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def leave_lease(root: Path, holder: str, text: str, table: str = TABLE) -> None:
    (root / "_leases").mkdir(exist_ok=True)
    (root / "_leases" / f"{table}-{holder}.json").write_text(text, encoding="utf-8")


def lease_until(until: datetime) -> str:
    return json.dumps({"table": TABLE, "holder": "a", "version": 3, "until": until.isoformat()})


def test_a_lease_is_live_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    with held_lease(str(tmp_path), TABLE, 3, "run-1", 72, lambda: NOW):
        assert live_leases(str(tmp_path), TABLE, NOW) == [Lease(TABLE, "run-1", 3, NOW + hours(72))]
    assert live_leases(str(tmp_path), TABLE, NOW) == []
    assert list((tmp_path / "_leases").iterdir()) == []


def test_a_lease_of_an_unknown_version_is_on_the_whole_table(tmp_path: Path) -> None:
    with held_lease(f"file://{tmp_path}", TABLE, None, "run-1", 1, lambda: NOW):
        [lease] = live_leases(f"file://{tmp_path}", TABLE, NOW)
    assert lease.version is None


def test_a_failed_holder_gives_its_lease_back(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit),
        held_lease(str(tmp_path), TABLE, 3, "run-1", 72, lambda: NOW),
    ):
        raise SystemExit(143)
    assert live_leases(str(tmp_path), TABLE, NOW) == []


def test_renewing_a_lease_makes_it_last_as_long_again(tmp_path: Path) -> None:
    times = iter([NOW, NOW + hours(2)])
    with held_lease(str(tmp_path), TABLE, 3, "run-1", 3, lambda: next(times)) as renew:
        assert live_leases(str(tmp_path), TABLE, NOW + hours(4)) == []
        renew()
        assert len(live_leases(str(tmp_path), TABLE, NOW + hours(4))) == 1


def test_a_dead_holders_lease_ends_with_its_time(tmp_path: Path) -> None:
    leave_lease(tmp_path, "a", lease_until(NOW))
    assert len(live_leases(str(tmp_path), TABLE, NOW - hours(0.1))) == 1
    assert live_leases(str(tmp_path), TABLE, NOW) == []


def test_leases_of_other_tables_do_not_count(tmp_path: Path) -> None:
    leave_lease(tmp_path, "a", lease_until(NOW + hours(1)), table="images")
    assert live_leases(str(tmp_path), "image", NOW) == []
    assert live_leases(str(tmp_path), TABLE, NOW) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", lease_until(datetime(2020, 1, 1)), '{"until": 3}', "\x00"],
    ids=["empty", "cut off", "a list", "no fields", "no time zone", "a number", "NUL"],
)
def test_a_damaged_lease_counts_as_live(text: str, tmp_path: Path) -> None:
    leave_lease(tmp_path, "run-1", text)
    [lease] = live_leases(str(tmp_path), TABLE, NOW)
    assert lease == Lease(TABLE, "run-1", version=None, until=None)


def test_half_written_leases_are_not_read(tmp_path: Path) -> None:
    with held_lease(str(tmp_path), TABLE, 3, "run-1", 1, lambda: NOW):
        (tmp_path / "_leases" / f"{TABLE}-run-2.17.part").write_text("{")
        assert [lease.holder for lease in live_leases(str(tmp_path), TABLE, NOW)] == ["run-1"]


def test_a_lease_waits_for_the_lock_that_ledger_writes_under(tmp_path: Path) -> None:
    lock = ledger.lock_folder(str(tmp_path)) / f"table-{TABLE}.lock"
    with held_lease(str(tmp_path), TABLE, 3, "run-1", 1, lambda: NOW):
        assert lock.exists()
        with ledger.held_lock(lock, wait=False):
            pass  # A holder does not keep it: a build may go on meanwhile.


def test_a_lease_in_a_bucket_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(BadInputError, match="Mount the storage"),
        held_lease("s3a://shop/warehouse", TABLE, 3, "run-1", 1, lambda: NOW),
    ):
        pass

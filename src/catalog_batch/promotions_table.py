"""The table ``promotions``: every promotion, refusal and rollback of a model is a row.

So is a model's first champion, which training makes without a comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from deltalake import DeltaTable

from catalog_batch import ledger
from catalog_batch.errors import MissingTableError
from catalog_batch.evaluate.gate import Check

TABLE = "promotions"

Row = dict[str, Any]


class Action(StrEnum):
    """What a row says happened."""

    FIRST = "first"
    """It was registered while the model had no champion: nothing was compared."""

    PROMOTED = "promoted"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    INTERRUPTED = "interrupted"
    """It was about to happen: the run ended before the alias moved."""


MOVES = (Action.FIRST, Action.PROMOTED, Action.ROLLED_BACK)
"""Actions that make a version champion."""


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    promoted_at: datetime
    model_name: str
    action: Action
    version: int
    previous_version: int | None
    run_id: str
    forced: bool = False
    checks: Sequence[Check] = ()
    training_table_version: int | None = None
    test_rows: int | None = None

    def row(self) -> Row:
        """Return the columns by name."""
        checks = [asdict(check) for check in self.checks]
        return {**vars(self), "action": str(self.action), "checks": checks}


def require_table(root: str) -> None:
    """Refuse a warehouse without the table, before any work is done.

    Raises:
        MissingTableError: When no Spark job has created it yet.
    """
    if not ledger.exists(root, TABLE):
        raise MissingTableError(
            f"Table {TABLE!r} is not in the warehouse {root!r}. Run ingest once, which creates "
            "the tables that this release has added, or check --warehouse."
        )


def record(root: str, entry: Entry, champion: int | None) -> None:
    """Write an entry down; call it before the alias moves, and while no one else moves it.

    The newest move that the table knows of must have made the present champion. If it did not,
    its run was killed before its alias moved, and that row becomes ``interrupted``. A refusal
    that equals the newest row but for time and run is not repeated. An entry is never earlier
    than the newest row: where the clock was set back, it comes a microsecond later.

    Args:
        root: Of the warehouse.
        entry: What is about to happen, or was refused.
        champion: Version that has the alias now, if any.
    """
    rows = read_rows(root, entry.model_name)
    if rows and entry.promoted_at <= (newest := rows[-1]["promoted_at"]):
        # A clock that was set back must not change the order in which things happened.
        entry = replace(entry, promoted_at=newest + timedelta(microseconds=1))
    if entry.action == Action.REFUSED and rows and _told(rows[-1]) == _told(entry.row()):
        return
    moves = [row for row in rows if row["action"] in MOVES]
    if not moves or moves[-1]["version"] == champion:
        ledger.append_rows(root, TABLE, [entry.row()])
        return
    moves[-1]["action"] = str(Action.INTERRUPTED)
    ledger.replace_rows(root, TABLE, [*rows, entry.row()], {"model_name": entry.model_name})


def read_rows(root: str, model_name: str) -> list[Row]:
    """Read a model's rows, oldest first."""
    stored = DeltaTable(f"{root}/{TABLE}").to_pyarrow_table(
        filters=[("model_name", "=", model_name)]
    )
    rows: list[Row] = stored.sort_by("promoted_at").to_pylist()
    return rows


def _told(row: Mapping[str, Any]) -> Row:
    return {name: value for name, value in row.items() if name not in ("promoted_at", "run_id")}

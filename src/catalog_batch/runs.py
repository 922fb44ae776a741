"""One run of a job: its id, its lock, its row in ``run_log``, its status line and exit code."""

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from catalog_batch import ledger
from catalog_batch.config import Settings
from catalog_batch.errors import CatalogBatchError
from catalog_batch.locations import plain_path

logger = logging.getLogger(__name__)

RUN_LOG = "run_log"
FOUNDS = "ingest"
"""The job that creates a warehouse, with all of its tables."""

Clock = Callable[[], datetime]
"""Tells the time, UTC."""


class Status(StrEnum):
    """How a run ended."""

    PUBLISHED = "published"
    NOTHING_TO_DO = "nothing_to_do"
    REFUSED = "refused"
    STOPPED = "stopped"
    FAILED = "failed"


_EXIT_CODES = {Status.PUBLISHED: 0, Status.NOTHING_TO_DO: 10, Status.STOPPED: 143, Status.FAILED: 1}


@dataclass
class Run:
    """What a job fills in while it runs; it becomes one row of ``run_log`` and one line of JSON."""

    run_id: str
    job: str
    started_at: datetime
    config_hash: str
    status: Status = Status.FAILED
    exit_code: int = 1
    rows_in: int | None = None
    rows_out: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    images_per_second: float | None = None
    table_versions: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    finished_at: datetime | None = None
    measures: dict[str, float] = field(default_factory=dict)
    made_of: str | None = None
    """Hash of all that the run went by and led to: as long as that holds there is nothing to do."""

    details: dict[str, Any] = field(default_factory=dict)
    """More for the status line, such as metrics; of it only ``model`` is in ``run_log``."""

    def finish(self, status: Status) -> None:
        """Say how the run ended; without it a run counts as failed."""
        self.status, self.exit_code = status, _EXIT_CODES[status]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds from start to finish."""
        end = self.finished_at or self.started_at
        return (end - self.started_at).total_seconds()

    def status_line(self) -> str:
        """Return the run as one line of JSON, the last line a job prints."""
        known = {
            "job": self.job,
            "status": self.status,
            "exit_code": self.exit_code,
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "counts": self.counts,
            "rejected": self.rejected,
            "images_per_second": self.images_per_second,
            "measures": self.measures,
            "table_versions": self.table_versions,
            "error": self.error,
            **self.details,
        }
        return json.dumps(
            {key: value for key, value in known.items() if value not in (None, {}, "")}
        )

    def row(self) -> dict[str, Any]:
        """Return the run as a row of ``run_log``."""
        not_logged = {"details"}
        logged = {name: value for name, value in vars(self).items() if name not in not_logged}
        return {**logged, "model": self.details.get("model")}


@contextmanager
def open_run(job: str, settings: Settings, clock: Clock) -> Iterator[Run]:
    """Lock the job, yield its run, and log how it ended, whatever happens inside.

    Raises:
        LockHeldError: When another run of the same job works on this warehouse; that attempt is
            not logged, for it did nothing.
    """
    root = settings.warehouse
    now = clock()
    run = Run(
        run_id=f"{job}-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
        job=job,
        started_at=now,
        config_hash=config_hash(settings),
    )
    with _lock(root, job):
        try:
            yield run
        except CatalogBatchError as error:
            run.status, run.exit_code = _refusal(error), error.exit_code
            run.error = _in_one_line(error)
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            run.finish(Status.STOPPED)
            run.exit_code = _signal_code(error)
            run.error = "stopped by a signal"
            raise
        except BaseException as error:
            run.finish(Status.FAILED)
            run.error = f"{type(error).__name__}: {_in_one_line(error)}"
            raise
        finally:
            run.finished_at = clock()
            _log(root, run)


def _lock(root: str, job: str) -> AbstractContextManager[None]:
    """Return the job's lock; none in a folder that is not there, for its name may be mistyped."""
    folder = ledger.lock_folder(root)
    if job != FOUNDS and folder.parent == Path(plain_path(root)) and not folder.parent.is_dir():
        return nullcontext()
    return ledger.held_lock(folder / f"job-{job}.lock", wait=False)


def config_hash(settings: Settings) -> str:
    """Return 16 hexadecimal digits that change with any setting that is reported."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]


def _refusal(error: CatalogBatchError) -> Status:
    return Status.FAILED if error.exit_code == 1 else Status.REFUSED


def _signal_code(error: KeyboardInterrupt | SystemExit) -> int:
    """Return 128 and the signal's number, as shells do; the handler puts it in ``SystemExit``."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else _EXIT_CODES[Status.STOPPED]


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _log(root: str, run: Run) -> None:
    try:
        # Before the first ingest has created the warehouse there is no table to log to.
        if not ledger.exists(root, RUN_LOG):
            logger.warning("no run_log in %s yet, run %s is not logged", root, run.run_id)
            return
        ledger.append_rows(root, RUN_LOG, [run.row()])
    except Exception as error:
        # The tables are as the run left them, but nobody would find it in the log: not a success.
        logger.exception("run %s is not in run_log", run.run_id)
        what = run.error or f"the run ended as {run.status}"
        run.error = f"{what}, and run_log was not written: {_in_one_line(error)}"
        run.exit_code = run.exit_code if run.exit_code not in (0, 10) else 1

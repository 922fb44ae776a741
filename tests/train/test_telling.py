"""What the leading rank tells within an epoch."""

import json
import logging
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from catalog_batch.train import events, telling
from catalog_batch.train.events import EVENTS
from catalog_batch.train.reports import Progress
from catalog_batch.train.system import system_figures
from catalog_batch.train.telling import Teller

CPU = torch.device("cpu")


def told_by(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / EVENTS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_progress_counts_the_images_of_all_ranks_and_the_machine_is_looked_at(
    tmp_path: Path,
) -> None:
    teller = Teller(tmp_path, epochs=3, rows=1000, batches=8, device=CPU)
    teller.tell(Progress(1, 4, seconds=2.0, wait_seconds=0.5))
    teller.tell(Progress(1, 8, seconds=4.0, wait_seconds=0.5))
    first, second, machine = told_by(tmp_path)
    assert first == {
        "event": "progress",
        "epoch": 1,
        "epochs": 3,
        "images": 500,
        "of_images": 1000,
        "images_per_second": 250.0,
        "wait_share": 0.25,
    }
    assert (second["images"], machine["event"], machine["batch"]) == (1000, "system", 16)


def test_the_machine_is_looked_at_within_a_long_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "SECONDS_BETWEEN_FIGURES", 0.0)
    teller = Teller(tmp_path, epochs=1, rows=1000, batches=8, device=CPU)
    teller.tell(Progress(0, 1, 2.0, 0.5))
    assert [event["event"] for event in told_by(tmp_path)] == ["progress", "system"]


def test_what_cannot_be_told_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teller = Teller(tmp_path / "gone", epochs=1, rows=10, batches=4, device=CPU)
    with caplog.at_level(logging.WARNING):
        for batches in (1, 2, 3):
            teller.tell(Progress(0, batches, 1.0, 0.1))
    [record] = caplog.records
    assert "progress events end here" in record.getMessage()
    assert "FileNotFoundError" in caplog.text


def test_the_figures_are_those_of_this_machine() -> None:
    figures = system_figures(CPU)
    rss = psutil.Process().memory_info().rss / 2**30
    assert figures.keys() == {"cpu_percent", "memory_percent", "process_memory_gib"}
    assert 0 < figures["memory_percent"] <= 100
    assert figures["process_memory_gib"] == pytest.approx(rss, rel=0.2)


def test_earlier_events_are_read_without_passing_and_damaged_ones(tmp_path: Path) -> None:
    events.emit(tmp_path, "started", table_version=3)
    events.emit(tmp_path, "progress", epoch=0)
    with (tmp_path / EVENTS).open("a", encoding="utf-8") as file:
        file.write('{"event": "epo')
    assert events.told(tmp_path) == [{"event": "started", "table_version": 3}]
    assert events.told(tmp_path / "none") == []

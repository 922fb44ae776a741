"""What a person sees on a terminal while a job works."""

import io
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from catalog_batch import progress


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Stand in for a wide terminal."""
    output = io.StringIO()
    terminal = Console(file=output, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr(progress, "console", lambda: terminal)
    yield output


def test_a_bar_tells_how_far_it_is_the_rate_and_the_time_left(screen: io.StringIO) -> None:
    with progress.progress_bar("decoding images", 1_000, "images") as advance:
        for _ in range(4):
            advance(100)
    shown = screen.getvalue()
    assert "decoding images" in shown
    assert "400/1000" in shown
    assert "images/s" in shown
    assert "0:00:0" in shown  # elapsed, and what is left


def test_a_polled_bar_follows_what_it_reads(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.001)
    counts = iter(range(0, 1_000_000, 10))
    seen: list[int] = []

    def read() -> int:
        seen.append(next(counts))
        return seen[-1]

    with progress.polled_progress("looking at files", 1_000, read, "files"):
        while len(seen) < 5:
            pass
    assert "looking at files" in screen.getvalue()
    assert " 0/1000" not in screen.getvalue().splitlines()[-1]


def test_a_bar_that_cannot_be_told_how_far_it_is_does_not_end_the_work(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.001)
    asked = list[int]()

    def read() -> int:
        asked.append(1)
        raise ConnectionError

    with progress.polled_progress("looking at files", 1_000, read):
        while len(asked) < 2:
            pass
    assert len(asked) == 2
    assert capfd.readouterr() == ("", "")


def test_a_training_bar_tells_epoch_images_rate_and_the_share_of_waiting(
    screen: io.StringIO,
) -> None:
    with progress.training_bar() as show:
        for epoch in (0, 1):
            show(
                {
                    "event": "progress",
                    "epoch": epoch,
                    "epochs": 2,
                    "images": 1_200 - 400 * epoch,
                    "of_images": 3_000,
                    "images_per_second": 1_234.4,
                    "wait_share": 0.07,
                }
            )
            show({"event": "epoch", "epoch": epoch})
    *_, last = (line for line in screen.getvalue().splitlines() if "epoch" in line)
    assert "epoch 2 of 2" in last
    assert "800/3000" in last
    assert "1,234 images/s, 7% waiting" in last


def test_nothing_is_drawn_where_nobody_looks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "console", lambda: Console(file=io.StringIO()))
    with progress.progress_bar("decoding images", 10) as advance:
        advance(10)
    with progress.polled_progress("looking at files", 10, pytest.fail):
        time.sleep(2 * progress.POLL_SECONDS)
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_a_line_now_and_then_with_the_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "console", lambda: Console(file=io.StringIO()))
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.001)
    caplog.set_level("INFO")
    with progress.polled_progress("scoring", 4_000, lambda: 1_000, "images", is_logged=True):
        while len(caplog.messages) < 2:
            time.sleep(0.01)
    line = r"scoring: 1,000 of 4,000 images, [0-9,]+\.\d a second, 0:00:0\d left"
    assert re.fullmatch(line, caplog.messages[0])
    caplog.clear()
    with progress.polled_progress("counting", None, lambda: 0, "rows", is_logged=True):
        while not caplog.messages:
            time.sleep(0.01)
    assert caplog.messages[0] == "counting: 0 rows"
    caplog.clear()
    with progress.polled_progress("publishing", 9, lambda: 9, "rows", is_logged=True):
        time.sleep(0.1)
    assert not caplog.messages

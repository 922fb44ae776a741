"""What the tests share: one Spark session, a warehouse each, a registry, a clock, pictures."""

import io
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from catalog_batch.config import SparkSettings
from catalog_batch.registry import STORE, open_store
from catalog_batch.runs import Clock, Run
from catalog_batch.spark import build_session
from catalog_batch.warehouse import Warehouse

# Ray's workers are nice and would starve beside another process of tests, which is not.
os.environ.setdefault("RAY_worker_niceness", "0")

START = datetime(2026, 1, 1, tzinfo=UTC)

MakeJpeg = Callable[..., bytes]
MakeRun = Callable[[str], Run]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules of long tests, which pytest's processes take one after another.

    Those of the warehouse that the README's commands make come after all but the first of them:
    while one process makes it, no other is to wait.
    """
    of_line = [item.path for item in items if "line" in getattr(item, "fixturenames", ())]
    later = {*of_line} - {*of_line[:1]}
    items.sort(key=lambda item: (not item.get_closest_marker("end_to_end"), item.path in later))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """Open the one session of all tests, when the first of them asks for it."""
    # For a night of minutes the optimising compiler is not worth its time; tests go on for longer,
    # and their nights take a quarter less with it.
    options = SparkSettings().java_options.replace("-XX:TieredStopAtLevel=1 ", "")
    settings = SparkSettings(
        master="local[2,4]", shuffle_partitions=2, driver_memory="2g", java_options=options
    )
    session = build_session(settings, "catalog-batch tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create MLflow's tables once, which takes seconds, for the tests to copy."""
    folder = tmp_path_factory.mktemp("store")
    open_store(folder).search_registered_models()
    return folder / STORE


@pytest.fixture
def warehouse(spark: SparkSession, tmp_path: Path) -> Warehouse:
    """Open an empty warehouse; a test creates the tables it needs."""
    return Warehouse(spark, str(tmp_path / "warehouse"))


def ticking_clock() -> Clock:
    """Return a clock that is a minute later each time it is asked."""
    minutes = iter(range(1_000_000))
    return lambda: START + timedelta(minutes=next(minutes))


@pytest.fixture(scope="session")
def clock() -> Clock:
    """Tell a time that no test depends on, each time a minute later."""
    return ticking_clock()


@pytest.fixture(scope="session")
def make_run(clock: Clock) -> MakeRun:
    """Return what opens a run of a job without lock and log."""
    numbers = iter(range(1, 1_000_000))

    def make(job: str) -> Run:
        return Run(f"{job}-{next(numbers)}", job, started_at=clock(), config_hash="0" * 16)

    return make


def draw_jpeg(seed: int = 0, width: int = 48, height: int = 40, quality: int = 85) -> bytes:
    """Draw a small picture of soft noise; each seed gives other bytes, always the same ones."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


@pytest.fixture(scope="session")
def make_jpeg() -> MakeJpeg:
    """Return ``draw_jpeg``."""
    return draw_jpeg

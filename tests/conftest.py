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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each module in one of pytest's processes, for what it makes once; long tests go first.

    What is made once for all, the warehouse of the README's commands, each test may have anywhere.
    """
    for item in items:
        if "line" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """Open the one session of all tests, when the first of them asks for it."""
    settings = SparkSettings(master="local[2,4]", shuffle_partitions=2, driver_memory="2g")
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

"""Hostile images: each has one outcome, quickly, in bounded memory, and never an exception."""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.ingest import hostile_images as hostile
from tests.ingest.hostile_images import BLUE, GREEN, RED, YELLOW

from catalog_batch.imaging import DecodePolicy, StoredImage, decode_image

ROOT = Path(__file__).parents[2]
GIBIBYTE = 1024**3
LIMIT_S = 5.0
# Makes, decodes and measures the whole corpus under a limit of 1 GiB more than it began with.
CHILD = """
import json, resource, sys, time, warnings
from catalog_batch.imaging import DecodePolicy, StoredImage, decode_image
from catalog_batch.ingest.quality import measure
from tests.ingest.hostile_images import hostile_images

def outcome_of(content):
    try:
        result = decode_image(content, DecodePolicy())
        if not isinstance(result, StoredImage):
            return result.reason.value
        measure(result.picture)
        return "stored"
    except BaseException as error:
        return f"raised {error!r}"

warnings.simplefilter("error")
pages = int(open("/proc/self/statm").read().split()[5])
allowed = pages * resource.getpagesize() + 1024**3
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for image in hostile_images():
    started = time.process_time()
    outcome = outcome_of(image.content)
    seconds = time.process_time() - started
    expected = sorted(image.expected)
    print(json.dumps([image.name, outcome, expected, seconds]), flush=True)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps(grown * 1024))
"""


@pytest.fixture(scope="module")
def report() -> list[Any]:
    """Return what the child said: a line for each image, and last how far its memory grew."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_image_has_an_outcome_that_is_right_for_it(report: list[Any]) -> None:
    wrong = [
        (n, outcome, expected) for n, outcome, expected, _ in report[:-1] if outcome not in expected
    ]
    assert wrong == []
    assert len(report) > 400


def test_no_image_takes_long(report: list[Any]) -> None:
    assert [(name, seconds) for name, _, _, seconds in report[:-1] if seconds > LIMIT_S] == []


def test_no_image_needs_a_gibibyte(report: list[Any]) -> None:
    assert report[-1] < GIBIBYTE


def test_names_are_distinct(report: list[Any]) -> None:
    names = [line[0] for line in report[:-1]]
    assert len(set(names)) == len(names)


def small_images() -> Iterator[hostile.HostileImage]:
    return chain(
        hostile.not_images(),
        hostile.cut_images(),
        hostile.flipped_images(),
        hostile.bombs_by_header(),
        hostile.odd_modes(),
        hostile.odd_metadata(),
        hostile.polyglots(),
    )


def test_the_same_images_are_made_again() -> None:
    first, second = (
        [(image.name, hashlib.sha256(image.content).digest()) for image in small_images()]
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, (RED, GREEN, BLUE, YELLOW)),
        (2, (GREEN, RED, YELLOW, BLUE)),
        (3, (YELLOW, BLUE, GREEN, RED)),
        (4, (BLUE, YELLOW, RED, GREEN)),
        (5, (RED, BLUE, GREEN, YELLOW)),
        (6, (BLUE, RED, YELLOW, GREEN)),
        (7, (YELLOW, GREEN, BLUE, RED)),
        (8, (GREEN, YELLOW, RED, BLUE)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(96, 64), (1_200, 800)], ids=["small", "shrunk"])
def test_a_turned_picture_is_stored_upright(
    kind: str, orientation: int, expected: tuple[tuple[int, int, int], ...], size: tuple[int, int]
) -> None:
    content = hostile.with_orientation(kind, orientation, *size)
    image = decode_image(content, DecodePolicy())
    assert isinstance(image, StoredImage)
    with Image.open(io.BytesIO(image.content)) as picture:
        pixels = np.asarray(picture).astype(int)
    height, width, _ = pixels.shape
    assert (width < height) == (orientation >= 5)
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    for place, colour in zip(places, expected, strict=True):
        assert np.abs(pixels[place] - colour).max() < 25

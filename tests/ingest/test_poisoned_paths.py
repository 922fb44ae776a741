"""Each poisoned path has one outcome; nothing is opened outside the root, and no socket at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ingest.poisoned_paths import expected, make_folder

# Finds and reads each location of standard input, and tells what Python was asked to open.
CHILD = """
import json, sys
from catalog_batch.imaging import Rejection
from catalog_batch.ingest.sources import ImageRoot

events, recording = [], False

def record(event, arguments):
    if recording and (event == "open" or event.split(".")[0] in WATCHED):
        events.append((event, ascii(arguments[0]) if event != "open" else str(arguments[0])))

WATCHED = ("os", "socket", "subprocess", "shutil", "urllib", "ctypes", "glob", "pathlib", "http")
folder, locations = json.load(sys.stdin)
root = ImageRoot(folder)
root.find("a.jpg")
sys.addaudithook(record)
outcomes = []
for location in locations:
    recording = True
    file = root.find(location)
    content = file if isinstance(file, Rejection) else root.read(file, 1_000_000)
    recording = False
    is_bad = isinstance(content, Rejection)
    outcomes.append(content.reason if is_bad else content.decode())
json.dump([outcomes, events], sys.stdout)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_a_poisoned_path_has_one_outcome_and_opens_nothing_elsewhere(folder: Path) -> None:
    locations = expected()
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([str(folder), list(locations)]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    outcomes, events = json.loads(child.stdout)
    assert dict(zip(locations, outcomes, strict=True)) == locations
    assert {event for event, _ in events} == {"open"}
    opened = {path for _, path in events}
    assert opened and all(path.startswith(f"{folder}/") for path in opened)
    assert opened == {os.path.realpath(path) for path in opened}


def test_the_hook_would_see_what_is_forbidden(folder: Path) -> None:
    guilty = CHILD.replace(
        "    file = root.find(location)",
        "    import socket; socket.socket().close(); open('/dev/null').close()\n"
        "    file = root.find(location)",
    )
    child = subprocess.run(
        [sys.executable, "-c", guilty],
        input=json.dumps([str(folder), ["a.jpg"]]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    events = {event for event, _ in json.loads(child.stdout)[1]}
    assert {"open", "socket.__new__"} <= events

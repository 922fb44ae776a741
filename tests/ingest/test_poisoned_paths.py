"""Each poisoned path has one outcome; nothing is opened outside the root, and no socket at all."""

import json
import os
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import pytest

SECRET = b"not to be read"

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

OUTSIDE = [
    "../../etc/passwd",
    "../secret.jpg",
    "/etc/passwd",
    "//etc/passwd",
    "a/../../b",
    "a.jpg/../../secret.jpg",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/a.jpg",
    "s3://other-bucket/secret.jpg",
    "s3a://other-bucket/secret.jpg",
    "hdfs://other/secret.jpg",
    "jar:file:///tmp/x.jar!/a.jpg",
    "nul\0.jpg",
    "a.jpg\0.png",
    "new\nline.jpg",
    "/dev/zero",
    "/proc/self/environ",
    "..",
    "",
    "leaving.jpg",
    "up/secret.jpg",
    "up/up/secret.jpg",
    "zero.jpg",
    "out.tar/secret.jpg",
    "x.tar/../../secret.jpg",
    "x.tar/../secret.jpg",
    "../x.tar/secret.jpg",
    "up/out.tar/secret.jpg",
]
MISSING = [
    "%2e%2e/secret.jpg",
    "%2e%2e%2fsecret.jpg",
    "..%2fsecret.jpg",
    "..\\secret.jpg",
    "\\\\host\\share",
    "\\\\host\\share\\a.jpg",
    "jar:file:/tmp/x.jar!/a.jpg",
    "file:/etc/passwd",
    "~/secret.jpg",
    "$HOME/secret.jpg",
    "*?[]{}",
    "*.jpg",
    "{a,b}.jpg",
    "a.jpg/b.jpg",
    "x.tar/%2e%2e/secret.jpg",
    "x.tar/etc/passwd",
    "x.tar/secret.jpg",
    "pipe.jpg/a.jpg",
    "pipe.tar/a.jpg",
    "x.TAR/member.jpg",
    "missing.tar/a.jpg",
    f"x.tar/{'n' * 5_000}",
]
UNREADABLE = [
    "loop.jpg",
    "loop/a.jpg",
    "loop.tar/a.jpg",
    "pipe.jpg",
    "folder.jpg",
    "folder.jpg/",
    "n" * 5_000,
    "x.tar/link.jpg",
    "x.tar/device.jpg",
    "broken.tar/a.jpg",
]
READ = {
    "a.jpg": "a",
    "A.JPG": "A",
    "_x.jpg": "_x",
    ".x.jpg": ".x",
    "q*?[]{}.jpg": "*",
    unicodedata.normalize("NFC", "é.jpg"): "nfc",
    unicodedata.normalize("NFD", "é.jpg"): "nfd",
    "x.tar/member.jpg": "member",
    "x.tar/./member.jpg": "member",
    "folder.tar/a.jpg": "in a folder",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the root with all its traps, and secrets beside it."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "folder.tar").mkdir()
    for name, content in READ.items():
        if not name.startswith("x.tar"):
            (folder / name).write_text(content)
    (tmp_path / "secret.jpg").write_bytes(SECRET)
    with tarfile.open(tmp_path / "out.tar", "w") as tar:
        tar.add(tmp_path / "secret.jpg", "secret.jpg")
    write_shard(folder)
    (folder / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "pipe.tar"):
        os.mkfifo(folder / name)
    (folder / "broken.tar").write_bytes(b"\xff" * 2_000)
    links = {
        "leaving.jpg": "../secret.jpg",
        "up": "..",
        "zero.jpg": "/dev/zero",
        "out.tar": "../out.tar",
        "loop.jpg": "loop.jpg",
        "loop": "loop2",
        "loop2": "loop",
        "loop.tar": "loop.tar",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    (folder / "up" / "up").symlink_to(".")
    return folder


def write_shard(folder: Path) -> None:
    (folder / "member").write_text("member")
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.add(folder / "member", "member.jpg")
        tar.add(folder / "member", "../../secret.jpg")
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("device.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)


def expected() -> dict[str, str]:
    return (
        dict.fromkeys(OUTSIDE, "outside_root")
        | dict.fromkeys(MISSING, "missing")
        | dict.fromkeys([f"{'n' * 300}.jpg", *UNREADABLE], "unreadable")
        | READ
    )


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

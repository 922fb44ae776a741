"""Locations that lead elsewhere, and a folder full of traps for them to lead to."""

import os
import tarfile
import unicodedata
from pathlib import Path

SECRET = b"not to be read"

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


def make_folder(parent: Path) -> Path:
    """Make the root with all its traps, and secrets beside it."""
    folder = parent / "images"
    folder.mkdir()
    (folder / "folder.tar").mkdir()
    for name, content in READ.items():
        if not name.startswith("x.tar"):
            (folder / name).write_text(content)
    (parent / "secret.jpg").write_bytes(SECRET)
    with tarfile.open(parent / "out.tar", "w") as tar:
        tar.add(parent / "secret.jpg", "secret.jpg")
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

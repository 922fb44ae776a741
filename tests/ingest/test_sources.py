"""Finding and reading images under one root, whatever a manifest calls them."""

import gzip
import os
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog_batch.errors import BadInputError
from catalog_batch.imaging import Reason, Rejection
from catalog_batch.ingest.sources import ImageRoot, SourceFile

SECRET = b"not to be read"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a root with one file, beside a file that must not be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    (tmp_path / "secret.jpg").write_bytes(SECRET)
    (tmp_path / "images-too").mkdir()
    (tmp_path / "images-too" / "secret.jpg").write_bytes(SECRET)
    return folder


def found(root: ImageRoot, image_uri: str) -> bytes | Reason:
    """Find and read an image; return its bytes, or why there are none."""
    file = root.find(image_uri)
    content = file if isinstance(file, Rejection) else root.read(file)
    return content.reason if isinstance(content, Rejection) else content


@pytest.mark.parametrize(
    "image_uri",
    [
        "../secret.jpg",
        "../../../../../../etc/passwd",
        "sub/../../secret.jpg",
        "a.jpg/../../secret.jpg",
        "/etc/passwd",
        "//etc/passwd",
        "/dev/zero",
        "file:///etc/passwd",
        "file:///dev/zero",
        "http://169.254.169.254/latest/meta-data/",
        "s3://other-bucket/secret.jpg",
        "hdfs://other/secret.jpg",
        "a\0.jpg",
        "a\n.jpg",
        "a.jpg\r",
        "..",
        ".",
        "/",
    ],
)
def test_a_location_outside_the_root_is_refused(folder: Path, image_uri: str) -> None:
    assert found(ImageRoot(str(folder)), image_uri) == Reason.OUTSIDE_ROOT


@pytest.mark.parametrize(
    "image_uri",
    [
        "%2e%2e/secret.jpg",
        "%2e%2e%2fsecret.jpg",
        "..\\secret.jpg",
        "\\\\host\\share\\a.jpg",
        "jar:file:/tmp/x.jar!/a.jpg",
        "file:/etc/passwd",
        "~/secret.jpg",
        "$HOME/secret.jpg",
        "*.jpg",
        "?.jpg",
        "[a].jpg",
        "{a,b}.jpg",
        "a.jpg/b.jpg",
        "A.JPG",
        "a.jpg ",
    ],
)
def test_a_location_that_only_looks_like_another_one_is_missing(
    folder: Path, image_uri: str
) -> None:
    assert found(ImageRoot(str(folder)), image_uri) == Reason.MISSING


def test_a_folder_beside_the_root_with_a_longer_name_is_outside(folder: Path) -> None:
    location = f"{folder}-too/secret.jpg"
    assert found(ImageRoot(str(folder)), location) == Reason.OUTSIDE_ROOT


def test_a_link_that_leaves_the_root_is_refused(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "up").symlink_to(folder.parent)
    root = ImageRoot(str(folder))
    assert found(root, "link.jpg") == Reason.OUTSIDE_ROOT
    assert found(root, "up/secret.jpg") == Reason.OUTSIDE_ROOT
    assert found(root, "up/images/a.jpg") == b"a"


def test_a_link_within_the_root_is_followed(folder: Path) -> None:
    (folder / "link.jpg").symlink_to("a.jpg")
    assert found(ImageRoot(str(folder)), "link.jpg") == b"a"


def test_a_root_that_is_a_link_itself_serves_its_files(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    assert found(ImageRoot(str(folder.parent / "link")), "a.jpg") == b"a"


def test_a_loop_of_links_is_unreadable(folder: Path) -> None:
    (folder / "x.jpg").symlink_to("y.jpg")
    (folder / "y.jpg").symlink_to("x.jpg")
    assert found(ImageRoot(str(folder)), "x.jpg") == Reason.UNREADABLE


def test_what_is_no_file_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "device.jpg").symlink_to("/dev/zero")
    root = ImageRoot(str(folder))
    assert found(root, "pipe.jpg") == Reason.UNREADABLE
    assert found(root, "folder.jpg") == Reason.UNREADABLE
    assert found(root, "device.jpg") == Reason.OUTSIDE_ROOT


def test_a_name_of_5000_characters_is_rejected(folder: Path) -> None:
    root = ImageRoot(str(folder))
    assert found(root, "a" * 5_000) == Reason.UNREADABLE
    assert found(root, "a/" * 2_500 + "a.jpg") in (Reason.UNREADABLE, Reason.MISSING)


@pytest.mark.parametrize(
    "name",
    [
        "*?[]{}.jpg",
        "_x.jpg",
        ".x.jpg",
        "A.JPG",
        "category=x/a.jpg",
        "%2e%2e.jpg",
        "a b'c\"d`e;--.jpg",
        "...jpg",
        "a..b/..c.jpg",
        "=cmd|x.jpg",
        unicodedata.normalize("NFC", "é.jpg"),
        unicodedata.normalize("NFD", "é.jpg"),
        "\u202egpj.exe",
        "日本.jpg",
    ],
)
def test_an_unusual_name_is_a_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(name.encode())
    assert found(ImageRoot(str(folder)), name) == name.encode()


def test_twins_that_differ_in_case_or_normal_form_stay_apart(folder: Path) -> None:
    names = ["a.jpg", "A.JPG", *[unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]]
    for number, name in enumerate(names):
        (folder / name).write_bytes(bytes([number]))
    root = ImageRoot(str(folder))
    assert [found(root, name) for name in names] == [b"\0", b"\1", b"\2", b"\3"]


@pytest.mark.parametrize("image_uri", ["a.jpg", "./a.jpg", ".//a.jpg"])
def test_a_relative_location_lies_under_the_root(folder: Path, image_uri: str) -> None:
    assert found(ImageRoot(str(folder)), image_uri) == b"a"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_absolute_location_under_the_root_is_found(folder: Path, scheme: str) -> None:
    for uri in (f"{scheme}{folder}", f"{scheme}{folder}/"):
        root = ImageRoot(uri)
        assert found(root, f"{scheme}{folder}/a.jpg") == b"a"
        assert found(root, f"{folder}/a.jpg") == b"a"


def test_a_folder_named_like_a_relative_root_is_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "b.jpg").write_bytes(b"b")
    monkeypatch.chdir(folder.parent)
    root = ImageRoot("images")
    assert found(root, "images/b.jpg") == b"b"
    assert found(root, "a.jpg") == b"a"
    assert found(root, "images/a.jpg") == Reason.MISSING


def test_a_packed_file_is_not_unpacked(folder: Path) -> None:
    packed = gzip.compress(b"\0" * 1_000_000)
    (folder / "bomb.jpg.gz").write_bytes(packed)
    assert found(ImageRoot(str(folder)), "bomb.jpg.gz") == packed


def test_size_and_time_are_those_of_the_file(folder: Path) -> None:
    os.utime(folder / "a.jpg", ns=(0, 1_700_000_000_123_456_789))
    assert ImageRoot(str(folder)).find("a.jpg") == SourceFile(
        str(folder / "a.jpg"), 1, datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    )


def test_a_file_that_vanishes_after_it_was_found_is_missing(folder: Path) -> None:
    root = ImageRoot(str(folder))
    file = root.find("a.jpg")
    assert isinstance(file, SourceFile)
    (folder / "a.jpg").unlink()
    content = root.read(file)
    assert isinstance(content, Rejection) and content.reason == Reason.MISSING


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(folder: Path) -> None:
    (folder / "a.jpg").chmod(0)
    assert found(ImageRoot(str(folder)), "a.jpg") == Reason.UNREADABLE


def test_what_is_told_of_a_rejection_names_no_path_outside(folder: Path) -> None:
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "x.jpg").symlink_to("x.jpg")
    root = ImageRoot(str(folder))
    for image_uri in ("link.jpg", "x.jpg", "/etc/passwd", "a" * 5_000):
        rejection = root.find(image_uri)
        assert isinstance(rejection, Rejection)
        assert str(folder.parent) not in rejection.detail
        assert len(rejection.detail) < 200


def test_a_root_that_nothing_serves_is_refused_by_name() -> None:
    with pytest.raises(BadInputError, match="gopher://host/images"):
        ImageRoot("gopher://host/images")

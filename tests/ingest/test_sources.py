"""Finding and reading images under one root, in tar shards and in Parquet rows."""

import gzip
import io
import os
import sys
import tarfile
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog_batch.errors import BadInputError
from catalog_batch.imaging import Reason, Rejection
from catalog_batch.ingest.parquet_rows import ParquetRows
from catalog_batch.ingest.reading import announced, read_ahead
from catalog_batch.ingest.sources import ImageRoot, SourceFile
from catalog_batch.ingest.tar_shards import SHARDS_OPEN

SECRET = b"not to be read"
MAX_BYTES = 2_000_000


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


def file_of(root: ImageRoot, image_uri: str) -> SourceFile:
    """Find an image that is there."""
    file = root.find(image_uri)
    assert isinstance(file, SourceFile), file
    return file


def outcome(content: bytes | Rejection) -> bytes | Reason:
    """Return the bytes, or why there are none."""
    return content.reason if isinstance(content, Rejection) else content


def found(root: ImageRoot, image_uri: str) -> bytes | Reason:
    """Find and read an image; return its bytes, or why there are none."""
    file = root.find(image_uri)
    content = file if isinstance(file, Rejection) else root.read(file, MAX_BYTES)
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
    content = root.read(file, MAX_BYTES)
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


def test_a_file_that_grew_shrank_or_was_written_again_is_rejected_as_changed(folder: Path) -> None:
    root = ImageRoot(str(folder))
    for content, later in ((b"aa", 0), (b"", 0), (b"b", 1)):
        (folder / "a.jpg").write_bytes(b"a")
        file = file_of(root, "a.jpg")
        (folder / "a.jpg").write_bytes(content)
        status = os.stat(folder / "a.jpg")
        os.utime(folder / "a.jpg", ns=(0, status.st_mtime_ns + later * 1_000_000))
        assert outcome(root.read(file, MAX_BYTES)) == Reason.CHANGED_WHILE_READING


def test_a_file_that_becomes_something_else_is_rejected_as_changed(folder: Path) -> None:
    root = ImageRoot(str(folder))
    file = file_of(root, "a.jpg")
    (folder / "a.jpg").unlink()
    os.mkfifo(folder / "a.jpg")
    assert outcome(root.read(file, MAX_BYTES)) == Reason.CHANGED_WHILE_READING


def test_a_link_that_takes_a_files_place_is_not_followed(folder: Path) -> None:
    root = ImageRoot(str(folder))
    file = file_of(root, "a.jpg")
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(folder.parent / "secret.jpg")
    assert outcome(root.read(file, MAX_BYTES)) == Reason.CHANGED_WHILE_READING


def test_a_folder_that_becomes_a_link_out_of_the_root_is_not_entered(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "secret.jpg").write_bytes(SECRET)
    root = ImageRoot(str(folder))
    file = file_of(root, "sub/secret.jpg")
    (folder / "sub").rename(folder / "old")
    (folder / "sub").symlink_to(folder.parent)
    assert outcome(root.read(file, MAX_BYTES)) == Reason.OUTSIDE_ROOT


def test_a_file_larger_than_allowed_is_not_read(folder: Path) -> None:
    root = ImageRoot(str(folder))
    assert outcome(root.read(file_of(root, "a.jpg"), 0)) == Reason.TOO_LARGE
    assert root.read(file_of(root, "a.jpg"), 1) == b"a"


def test_a_time_beyond_the_calendar_is_no_time(folder: Path) -> None:
    os.utime(folder / "a.jpg", (0, 1e12))
    root = ImageRoot(str(folder))
    if os.stat(folder / "a.jpg").st_mtime < 1e11:
        pytest.skip("this file system keeps no such time")
    assert file_of(root, "a.jpg").modified_at is None
    assert found(root, "a.jpg") == b"a"


def test_what_is_told_of_a_root_shows_no_credentials_and_no_query() -> None:
    canary = "s3://KEY:CANARY@bucket/photos?token=CANARY&x=CANARY"
    with pytest.raises(BadInputError, match="s3://bucket/photos'") as refused:
        ImageRoot(canary)
    assert "CANARY" not in str(refused.value)
    assert refused.value.__suppress_context__


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> None:
    """Write a tar of regular files."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shard(folder: Path) -> Path:
    """Put a shard with three members under the root."""
    path = folder / "shards" / "0.tar"
    path.parent.mkdir()
    write_tar(path, {"a.jpg": b"first", "./sub/b.jpg": b"second", "c.jpg": b"third"})
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_of_a_shard_is_found_and_read(folder: Path, form: int) -> None:
    write_tar(folder / "0.tar", {"./a/1.jpg": b"1", "a/é.jpg": b"2", f"b/{'n' * 90}": b"3"}, form)
    root = ImageRoot(str(folder))
    names = ("a/1.jpg", "./a//1.jpg", "a/é.jpg", f"b/{'n' * 90}")
    assert [found(root, f"0.tar/{name}") for name in names] == [b"1", b"1", b"2", b"3"]


def test_a_member_has_the_time_of_its_shard_and_no_size_yet(folder: Path, shard: Path) -> None:
    os.utime(shard, ns=(0, 1_700_000_000_123_456_000))
    assert ImageRoot(str(folder)).find("shards/0.tar/sub/b.jpg") == SourceFile(
        str(shard), None, datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC), "sub/b.jpg"
    )


def test_a_member_that_is_not_there_or_too_large_is_rejected(folder: Path, shard: Path) -> None:
    root = ImageRoot(str(folder))
    assert found(root, "shards/0.tar/x.jpg") == Reason.MISSING
    assert found(root, "shards/1.tar/a.jpg") == Reason.MISSING
    assert outcome(root.read(file_of(root, "shards/0.tar/a.jpg"), 4)) == Reason.TOO_LARGE


def test_a_folder_with_a_shards_name_is_a_folder(folder: Path) -> None:
    (folder / "x.tar").mkdir()
    (folder / "x.tar" / "a.jpg").write_bytes(b"plain")
    write_tar(folder / "x.tar" / "y.tar", {"a.jpg": b"member"})
    root = ImageRoot(str(folder))
    assert found(root, "x.tar/a.jpg") == b"plain"
    assert found(root, "x.tar/y.tar/a.jpg") == b"member"


def test_a_shard_behind_a_link_that_leaves_the_root_is_not_opened(folder: Path) -> None:
    write_tar(folder.parent / "out.tar", {"a.jpg": SECRET})
    (folder / "link.tar").symlink_to(folder.parent / "out.tar")
    assert found(ImageRoot(str(folder)), "link.tar/a.jpg") == Reason.OUTSIDE_ROOT


def test_of_two_members_of_one_name_the_last_counts(folder: Path) -> None:
    write_tar(folder / "0.tar", {"a.jpg": b"old", "./a.jpg": b"new"})
    assert found(ImageRoot(str(folder)), "0.tar/a.jpg") == b"new"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_member_that_is_no_file_is_not_read(folder: Path, kind: bytes) -> None:
    with tarfile.open(folder / "0.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "../secret.jpg"
        tar.addfile(info)
    assert found(ImageRoot(str(folder)), "0.tar/a.jpg") == Reason.UNREADABLE


def test_a_sparse_member_is_not_read(folder: Path) -> None:
    with tarfile.open(folder / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000"}
        tar.addfile(info)
    assert found(ImageRoot(str(folder)), "0.tar/a.jpg") == Reason.UNREADABLE


def test_a_shard_cut_short_serves_what_lies_before_the_cut(folder: Path, shard: Path) -> None:
    whole = shard.read_bytes()
    shard.write_bytes(whole[: whole.index(b"third") + 2])
    root = ImageRoot(str(folder))
    assert found(root, "shards/0.tar/a.jpg") == b"first"
    assert found(root, "shards/0.tar/c.jpg") == Reason.UNREADABLE
    assert found(root, "shards/0.tar/d.jpg") == Reason.UNREADABLE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tar" * 200,
        gzip.compress(b"\0" * 1_000_000),
        b"\xff" * 1024,
    ],
)
def test_what_is_no_tar_is_unreadable(folder: Path, content: bytes) -> None:
    (folder / "0.tar").write_bytes(content)
    assert found(ImageRoot(str(folder)), "0.tar/a.jpg") == Reason.UNREADABLE


def test_a_damaged_header_hides_no_member_silently(folder: Path, shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    start = content.index(b"./sub/b.jpg")
    content[start] ^= 0xFF
    shard.write_bytes(content)
    root = ImageRoot(str(folder))
    assert found(root, "shards/0.tar/a.jpg") == b"first"
    assert found(root, "shards/0.tar/c.jpg") == Reason.UNREADABLE


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", ["-512", "-1024", "-1536", "99999999999999999999"])
def test_a_member_that_lies_about_its_size_leads_nowhere(folder: Path, size: str) -> None:
    with tarfile.open(folder / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"size": size}
        tar.addfile(info)
    content = found(ImageRoot(str(folder)), "0.tar/a.jpg")
    assert content in (Reason.UNREADABLE, Reason.TOO_LARGE)


def test_a_shard_that_was_written_again_is_indexed_again(folder: Path, shard: Path) -> None:
    root = ImageRoot(str(folder))
    old = file_of(root, "shards/0.tar/a.jpg")
    assert root.read(old, MAX_BYTES) == b"first"
    write_tar(shard, {"z.jpg": b"z", "a.jpg": b"later"})
    os.utime(shard, (0, 1))
    assert found(root, "shards/0.tar/a.jpg") == b"later"
    assert outcome(root.read(old, MAX_BYTES)) == Reason.CHANGED_WHILE_READING


def test_few_shards_are_open_at_a_time(folder: Path) -> None:
    root = ImageRoot(str(folder))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3 * SHARDS_OPEN):
        write_tar(folder / f"{number}.tar", {"a.jpg": bytes([number])})
        assert found(root, f"{number}.tar/a.jpg") == bytes([number])
    assert len(os.listdir("/proc/self/fd")) <= before + SHARDS_OPEN


def test_threads_share_the_shards(folder: Path) -> None:
    uris = []
    for number in range(2 * SHARDS_OPEN):
        members = {f"{i}.jpg": f"{number}/{i}".encode() for i in range(20)}
        write_tar(folder / f"{number}.tar", members)
        uris += [f"{number}.tar/{name}" for name in members]
    root = ImageRoot(str(folder))
    uris.sort(key=lambda uri: uri.partition("/")[2])
    results = dict(read_ahead(uris, lambda _: 0, lambda uri: found(root, uri), 8, 1))
    assert all(results[uri] == uri.replace(".tar", "")[:-4].encode() for uri in uris)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Write 100 rows in row groups of 40, in a folder whose name needs percent-encoding."""
    (tmp_path / "of images #1").mkdir()
    path = tmp_path / "of images #1" / "part 0.parquet"
    content = [None if n == 50 else f"image {n}".encode() for n in range(100)]
    table = pa.table({"product_id": [str(n) for n in range(100)], "content": content})
    pq.write_table(table, path, row_group_size=40)
    return path


def test_a_row_of_a_parquet_file_is_read_in_any_order(parquet: Path) -> None:
    rows = ParquetRows()
    order = [0, 1, 17, 39, 40, 99, 98, 3, 3, 0]
    images = [rows.read(parquet.as_uri(), row, MAX_BYTES) for row in order]
    assert images == [f"image {row}".encode() for row in order]


def test_a_row_without_content_or_too_much_or_beyond_the_end_is_rejected(parquet: Path) -> None:
    rows = ParquetRows()
    url = parquet.as_uri()
    assert outcome(rows.read(url, 50, MAX_BYTES)) == Reason.EMPTY
    assert outcome(rows.read(url, 51, 7)) == Reason.TOO_LARGE
    assert outcome(rows.read(url, 100, MAX_BYTES)) == Reason.MISSING
    assert rows.read(url, 99, MAX_BYTES) == b"image 99"


def test_a_parquet_file_that_is_missing_or_damaged_is_a_rejection(parquet: Path) -> None:
    rows = ParquetRows()
    assert outcome(rows.read("file:///nowhere/x.parquet", 0, MAX_BYTES)) == Reason.MISSING
    parquet.write_bytes(parquet.read_bytes()[:-9])
    assert outcome(rows.read(parquet.as_uri(), 0, MAX_BYTES)) == Reason.UNREADABLE
    pq.write_table(pa.table({"picture": [b"a"]}), parquet)
    assert outcome(rows.read(parquet.as_uri(), 0, MAX_BYTES)) == Reason.UNREADABLE


def test_a_row_group_of_large_images_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    schema = pa.schema([("content", pa.binary())])
    images = pa.table([[bytes([n]) * 4_000_000 for n in range(60)]], schema=schema)
    # A page is the least that can be read at a time; by default all these would be one.
    pq.write_table(images, path, use_dictionary=False, write_batch_size=4)
    del images
    before = pa.total_allocated_bytes()
    rows, peak = ParquetRows(), 0
    for row in range(60):
        content = rows.read(path.as_uri(), row, 4_000_000)
        assert isinstance(content, bytes) and content[0] == row
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    assert peak < 60 * 4_000_000 / 3


class Reads:
    """Reads numbers as so many bytes; keeps count of what was read and not yet taken."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ahead = self.count = 0
        self.peak_bytes = self.peak_count = 0

    def __call__(self, size: int) -> bytes:
        with self.lock:
            self.ahead, self.count = self.ahead + size, self.count + 1
            self.peak_bytes = max(self.peak_bytes, self.ahead)
            self.peak_count = max(self.peak_count, self.count)
        time.sleep(0.001)
        return bytes(size)

    def take(self, content: bytes) -> None:
        with self.lock:
            self.ahead, self.count = self.ahead - len(content), self.count - 1


def test_reading_ahead_stays_within_its_bytes_and_reads_and_keeps_the_order() -> None:
    sizes = [1 + (n * 37) % 100 for n in range(300)]
    reads, taken = Reads(), []
    for size, content in read_ahead(sizes, lambda size: size, reads, in_flight=6, max_bytes=250):
        time.sleep(0.0005)
        reads.take(content)
        taken.append((size, len(content)))
    assert taken == [(size, size) for size in sizes]
    # What the consumer holds is one more.
    assert 100 < reads.peak_bytes <= 250 + 100
    assert 1 < reads.peak_count <= 6 + 1


def test_what_is_larger_than_all_that_is_allowed_is_read_alone() -> None:
    reads = Reads()
    for _, content in read_ahead([900] * 5, lambda size: size, reads, in_flight=4, max_bytes=10):
        reads.take(content)
    assert reads.peak_count <= 2


def test_bytes_that_are_read_ahead_do_not_gather_in_memory() -> None:
    size = 1_000_000
    tracemalloc.start()
    for _ in read_ahead(range(60), lambda _: size, lambda _: bytes(size), 4, 3 * size):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * size


def test_an_error_comes_in_its_place() -> None:
    def read(item: int) -> int:
        return 10 // (3 - item)

    for in_flight in (1, 4):
        results: list[int] = []
        with pytest.raises(ZeroDivisionError):
            results.extend(
                result for _, result in read_ahead(range(9), lambda _: 1, read, in_flight, 9)
            )
        ahead = read_ahead(range(9), lambda _: 1, read, in_flight, 9)
        assert [next(ahead) for _ in range(3)] == [(0, 3), (1, 5), (2, 10)]
        ahead.close()  # type: ignore[attr-defined]


def test_no_item_is_drawn_without_room_for_it() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    ahead = read_ahead(items(), lambda _: 1, str, in_flight=3, max_bytes=100)
    next(ahead)
    assert len(drawn) == 4
    ahead.close()  # type: ignore[attr-defined]


def test_one_read_in_flight_needs_no_thread() -> None:
    idents = {ident for _, ident in read_ahead("abc", len, lambda _: threading.get_ident(), 1, 1)}
    assert idents == {threading.get_ident()}


def test_items_are_announced_ahead_and_keep_their_order() -> None:
    told: list[int] = []
    seen = [(item, list(told)) for item in announced(range(5), told.append, places=2)]
    assert [item for item, _ in seen] == [0, 1, 2, 3, 4]
    assert [len(before) for _, before in seen] == [3, 4, 5, 5, 5]


def test_announcing_opens_files_under_the_root_alone(folder: Path) -> None:
    """What is wrong with an announced file is no error before it is read."""
    root = ImageRoot(str(folder))
    (folder / "sub").mkdir()
    (folder / "sub" / "secret.jpg").write_bytes(SECRET)
    files = [file_of(root, uri) for uri in ("a.jpg", "sub/secret.jpg")]
    (folder / "sub" / "secret.jpg").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(folder.parent / "images-too")
    opened: list[str] = []
    _audited.append(opened)
    for file in [*files, SourceFile(f"{folder}/gone.jpg", 1, None)]:
        root.announce(file)
    _audited.clear()
    assert opened == [f"{folder}/a.jpg", f"{folder}/gone.jpg"]


# An audit hook cannot be removed: it tells whoever listens which files are opened.
_audited: list[list[str]] = []
sys.addaudithook(
    lambda event, given: [paths.append(given[0]) for paths in _audited if event == "open"] and None
)


def test_closing_does_not_wait_for_reads_under_way() -> None:
    release = threading.Event()

    def read(item: int) -> int:
        if item:
            release.wait(30)
        return item

    ahead = read_ahead(range(9), lambda _: 1, read, in_flight=4, max_bytes=9)
    assert next(ahead) == (0, 0)
    started = time.monotonic()
    ahead.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 1
    release.set()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("read-ahead") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_found_in_another_process_is_read_here(folder: Path) -> None:
    file = replace(file_of(ImageRoot(str(folder)), "a.jpg"))
    assert ImageRoot(str(folder)).read(file, MAX_BYTES) == b"a"

"""An object store as the image root: a real S3 endpoint, served on loopback by moto."""

import io
import re
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from catalog_batch import ledger
from catalog_batch.config import IngestSettings
from catalog_batch.errors import BadInputError
from catalog_batch.imaging import Reason, Rejection
from catalog_batch.ingest.parquet_rows import ParquetRows
from catalog_batch.ingest.pipeline import Request, ingest_catalogue
from catalog_batch.ingest.reading import read_ahead
from catalog_batch.ingest.sources import ImageRoot, SourceFile
from catalog_batch.runs import Run, Status
from catalog_batch.tables import ALL_TABLES
from catalog_batch.warehouse import Warehouse

CANARY = "CANARYSECRET"
MAX_BYTES = 2_000_000
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Store:
    """The endpoint, its log of requests, and a client to fill it."""

    def __init__(self, port: int, log: Path) -> None:
        self.log = log
        self.endpoint = f"http://127.0.0.1:{port}"
        self.query = f"endpoint_override=127.0.0.1:{port}&scheme=http"
        self.root = f"s3://bucket/photos?{self.query}"
        self.client: Any = boto3.client("s3", endpoint_url=self.endpoint)

    def put(self, key: str, content: bytes, bucket: str = "bucket") -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def requests(self) -> list[str]:
        return re.findall(r'"((?:GET|HEAD) [^"]*) HTTP', self.log.read_text())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Serve two buckets; ``photos/a.jpg`` is in the one, a secret in the other."""
    log = tmp_path_factory.mktemp("moto") / "requests.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        pytest.MonkeyPatch.context() as patch,
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as server,
    ):
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        try:
            wait_until_served(port, server)
            store = Store(port, log)
            for bucket in ("bucket", "other"):
                store.client.create_bucket(Bucket=bucket)
            store.put("photos/a.jpg", b"a")
            store.put("photos/sub/b c.jpg", b"b")
            store.put("beside/secret.jpg", b"secret")
            store.put("photos/secret.jpg", b"secret", bucket="other")
            yield store
            store.client.close()
        finally:
            server.kill()


def test_a_night_from_an_object_store_is_ingested_once_and_tells_no_secret(
    store: Store,
    warehouse: Warehouse,
    tmp_path: Path,
    make_run: Callable[[str], Run],
    make_jpeg: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for seed, name in enumerate(("night/1.jpg", "night/2.jpg")):
        store.put(f"photos/{name}", make_jpeg(seed))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("product_id,image_uri\np1,night/1.jpg\np2,night/2.jpg\np3,night/3.jpg\n")
    # Spark's workers were started before this module set its credentials.
    root = store.root.replace("s3://", f"s3://testing:{CANARY}@")
    request = Request(str(manifest), root, date(2026, 1, 1))
    settings = IngestSettings(stored_side=32, max_rejected_share=1)
    runs = [make_run("ingest"), make_run("ingest")]
    outcomes = [ingest_catalogue(warehouse, request, settings, run) for run in runs]
    assert (outcomes[0].ingested, outcomes[0].rejected) == (2, {"missing": 1})
    assert (outcomes[1].unchanged, runs[1].status) == (2, Status.NOTHING_TO_DO)
    told = [caplog.text, *(run.status_line() for run in runs)]
    told += [str(warehouse.read(table).drop("content").collect()) for table in ALL_TABLES]
    assert not [text for text in told if CANARY in text]


def test_what_is_read_without_spark_may_be_in_an_object_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``score`` asks ``run_log`` before it starts Spark; ``s3a`` is how Spark names such a root."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    runs = pa.table({"run_id": ["r1", "r2", "r3"], "job": ["score", "ingest", "score"]})
    write_deltalake("s3a://bucket/warehouse/run_log", runs)
    root = "s3a://bucket/warehouse"
    of_score = ledger.find_rows(root, "run_log", ("run_id",), {"job": "score"})
    assert {row["run_id"] for row in of_score} == {"r1", "r3"}
    assert ledger.table_version(root, "run_log") == 0
    assert not ledger.is_empty(root, "run_log")
    assert ledger.last_stamp(root, "run_log") == {}


def wait_until_served(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("moto's server did not start")


def found(root: ImageRoot, image_uri: str) -> bytes | Reason:
    file = root.find(image_uri)
    content = file if isinstance(file, Rejection) else root.read(file, MAX_BYTES)
    return content.reason if isinstance(content, Rejection) else content


def file_of(root: ImageRoot, image_uri: str) -> SourceFile:
    file = root.find(image_uri)
    assert isinstance(file, SourceFile), file
    return file


def test_a_prefix_is_a_folder_and_a_missing_one_is_not(store: Store) -> None:
    ImageRoot(store.root).require_folder()
    with pytest.raises(BadInputError, match=r"'s3://bucket/nothing' is no folder"):
        ImageRoot(f"s3://bucket/nothing?{store.query}").require_folder()


@pytest.mark.parametrize(
    "image_uri", ["a.jpg", "./a.jpg", "s3://bucket/photos/a.jpg", "s3a://bucket/photos/a.jpg"]
)
@pytest.mark.parametrize("scheme", ["s3", "s3a"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_location_under_the_root_is_read(
    store: Store, image_uri: str, scheme: str, end: str
) -> None:
    root = ImageRoot(f"{scheme}://bucket/photos{end}?{store.query}")
    assert found(root, image_uri) == b"a"


def test_an_object_has_its_size_its_time_and_a_path_without_query(store: Store) -> None:
    file = file_of(ImageRoot(store.root), "sub/b c.jpg")
    assert (file.path, file.size, file.member) == ("bucket/photos/sub/b c.jpg", 1, None)
    assert file.modified_at is not None
    assert abs(file.modified_at - datetime.now(UTC)) < timedelta(minutes=10)
    assert file == file_of(ImageRoot(store.root), "sub/b c.jpg")


@pytest.mark.parametrize(
    ("image_uri", "reason"),
    [
        ("s3://other/photos/secret.jpg", Reason.OUTSIDE_ROOT),
        ("s3a://other/photos/secret.jpg", Reason.OUTSIDE_ROOT),
        ("s3://bucket/beside/secret.jpg", Reason.OUTSIDE_ROOT),
        ("s3://bucket/photos/../beside/secret.jpg", Reason.OUTSIDE_ROOT),
        ("../beside/secret.jpg", Reason.OUTSIDE_ROOT),
        ("../../other/photos/secret.jpg", Reason.OUTSIDE_ROOT),
        ("/beside/secret.jpg", Reason.OUTSIDE_ROOT),
        ("http://169.254.169.254/latest/meta-data/", Reason.OUTSIDE_ROOT),
        ("file:///etc/passwd", Reason.OUTSIDE_ROOT),
        ("%2e%2e/beside/secret.jpg", Reason.MISSING),
        ("x.tar/../../beside/secret.jpg", Reason.OUTSIDE_ROOT),
        ("missing.jpg", Reason.MISSING),
        ("A.JPG", Reason.MISSING),
        ("a.jpg?versionId=1", Reason.MISSING),
        ("bucket/photos/a.jpg", Reason.MISSING),
        ("sub", Reason.UNREADABLE),
    ],
)
def test_a_location_elsewhere_is_refused(store: Store, image_uri: str, reason: Reason) -> None:
    assert found(ImageRoot(store.root), image_uri) == reason
    asked = [line for line in store.requests() if "other" in line or "/beside" in line]
    assert [line for line in asked if "%252e" not in line and "%25" not in line] == []


def test_an_object_that_changes_or_vanishes_is_rejected(store: Store) -> None:
    root = ImageRoot(store.root)
    store.put("photos/changing.jpg", b"short")
    file = file_of(root, "changing.jpg")
    store.put("photos/changing.jpg", b"much longer")
    longer = root.read(file, MAX_BYTES)
    store.client.delete_object(Bucket="bucket", Key="photos/changing.jpg")
    gone = root.read(file, MAX_BYTES)
    assert isinstance(longer, Rejection) and longer.reason == Reason.CHANGED_WHILE_READING
    assert isinstance(gone, Rejection) and gone.reason == Reason.MISSING


def test_an_object_larger_than_allowed_is_not_asked_for(store: Store) -> None:
    store.put("photos/large.jpg", bytes(1000))
    root = ImageRoot(store.root)
    content = root.read(file_of(root, "large.jpg"), 999)
    assert isinstance(content, Rejection) and content.reason == Reason.TOO_LARGE
    assert not [line for line in store.requests() if "GET" in line and "large.jpg" in line]


def test_members_of_a_shard_are_read_ahead_with_one_look_and_one_index(store: Store) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(40):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 50_000
            tar.addfile(info, io.BytesIO(bytes([number]) * 50_000))
    store.put("photos/shards/0.tar", packed.getvalue())
    root = ImageRoot(store.root)
    files = [file_of(root, f"shards/0.tar/{number}.jpg") for number in range(40)]
    assert {file.size for file in files} == {None}
    before = len(store.requests())
    images = [
        content
        for _, content in read_ahead(
            files, lambda _: 50_000, lambda file: root.read(file, MAX_BYTES), 4, 200_000
        )
    ]
    assert images == [bytes([number]) * 50_000 for number in range(40)]
    # One request each, and a few for the headers of two megabytes.
    assert len(store.requests()) - before <= 40 + 8
    assert found(root, "shards/0.tar/x.jpg") == Reason.MISSING
    assert len([line for line in store.requests() if "HEAD" in line and "0.tar" in line]) <= 4


def test_rows_of_a_parquet_file_are_read(store: Store) -> None:
    packed = io.BytesIO()
    pq.write_table(pa.table({"content": [b"0", b"1", None]}), packed)
    store.put("manifests of today/part 0.parquet", packed.getvalue())
    rows = ParquetRows(store.root)
    url = "s3a://bucket/manifests of today/part 0.parquet"  # as a manifest gives it: unescaped
    assert [rows.read(url, row, MAX_BYTES) for row in (0, 1)] == [b"0", b"1"]
    for row, reason in ((2, Reason.EMPTY), (3, Reason.MISSING)):
        content = rows.read(url, row, MAX_BYTES)
        assert isinstance(content, Rejection) and content.reason == reason


def test_no_error_and_no_detail_shows_a_credential_or_a_query(store: Store) -> None:
    uri = f"s3://KEY:{CANARY}@bucket/photos?{store.query}&region=us-east-1"
    root = ImageRoot(uri)
    assert root.uri == "s3://bucket/photos"
    assert found(root, "a.jpg") == b"a"
    texts = [repr(root.find(name)) for name in ("x.jpg", "sub", "../x", f"{'x' * 3000}.jpg")]
    with pytest.raises(BadInputError) as refused:
        ImageRoot(f"s3://KEY:{CANARY}@bucket/nothing?{store.query}").require_folder()
    texts.append(str(refused.value))
    texts.append(repr(ParquetRows(uri).read(f"s3://KEY:{CANARY}@other/x.parquet", 0, 9)))
    for text in texts:
        assert CANARY not in text and "endpoint_override" not in text and "KEY" not in text


def test_an_endpoint_that_refuses_is_told_without_secrets(store: Store) -> None:
    with socket.socket() as taken:
        # Bound and not listening: every connection is refused.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        uri = f"s3://KEY:{CANARY}@bucket/photos?endpoint_override=127.0.0.1:{port}&scheme=http"
        with pytest.raises(BadInputError, match=r"'s3://bucket/photos' cannot be") as refused:
            ImageRoot(uri).require_folder()
    assert CANARY not in str(refused.value) and str(port) not in str(refused.value)

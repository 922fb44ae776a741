"""Nights in and out of order, whole and partial manifests, gates: one shop a test."""

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from catalog_batch import tables
from catalog_batch.config import IngestSettings
from catalog_batch.errors import GateRefusedError, ManifestError
from catalog_batch.ingest.nights import choose_night
from catalog_batch.ingest.outcomes import Outcomes
from catalog_batch.ingest.pipeline import Request, ingest_catalogue, plan_ingest
from catalog_batch.runs import Run, Status
from catalog_batch.tables import Table
from catalog_batch.warehouse import Warehouse

pytestmark = pytest.mark.end_to_end
LOOSE = IngestSettings(stored_side=32, max_rejected_share=1, max_delisted_share=1)
TODAY = date(2026, 1, 31)
COLUMNS = ["product_id", "image_uri", "category", "title"]


@dataclass
class Shop:
    folder: Path
    warehouse: Warehouse
    make_run: Callable[[str], Run]
    run: Run | None = None

    def request(self, rows: list[list[str]], night: int, **options: Any) -> Request:
        manifest = self.folder / "manifest.csv"
        with manifest.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        images = str(self.folder / "images")
        return Request(str(manifest), images, TODAY, night=date(2026, 1, night), **options)

    def ingest(self, request: Request, settings: IngestSettings = LOOSE) -> Outcomes:
        self.run = self.make_run("ingest")
        return ingest_catalogue(self.warehouse, request, settings, self.run)

    def rows(self, table: Table, *columns: str) -> list[tuple[Any, ...]]:
        return sorted(map(tuple, self.warehouse.read(table).select(*columns).collect()))

    def listed(self, table: Table, *columns: str) -> list[tuple[Any, ...]]:
        frame = self.warehouse.read(table).where("delisted_at IS NULL").select(*columns)
        return sorted(map(tuple, frame.collect()))

    def versions(self) -> dict[str, int]:
        return {table.name: self.warehouse.version(table) for table in tables.ALL_TABLES}


@pytest.fixture(scope="module")
def empty(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create every table once; a Delta table may be copied as a folder."""
    folder = tmp_path_factory.mktemp("empty")
    Warehouse(spark, str(folder)).create(*tables.ALL_TABLES)
    return folder


@pytest.fixture
def shop(
    warehouse: Warehouse,
    empty: Path,
    tmp_path: Path,
    make_run: Callable[[str], Run],
    make_jpeg: Callable[..., bytes],
) -> Shop:
    shutil.copytree(empty, warehouse.root)
    (tmp_path / "images").mkdir()
    for seed, name in enumerate("abcd"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(make_jpeg(seed))
    return Shop(tmp_path, warehouse, make_run)


A = ["p1", "a.jpg", "Fruit/Apple", "Apple"]
B = ["p2", "b.jpg", "Fruit/Pear", "Pear"]
C = ["p3", "c.jpg", "Fruit/Plum", "Plum"]


def test_a_full_manifest_delists_what_it_does_not_name_and_a_later_one_lists_it_again(
    shop: Shop,
) -> None:
    shop.ingest(shop.request([A, B], night=1))
    outcomes = shop.ingest(shop.request([A], night=2, is_full=True))
    assert (outcomes.delisting.products, outcomes.delisting.images) == (1, 1)
    assert shop.listed(tables.PRODUCTS, "product_id") == [("p1",)]
    assert shop.listed(tables.PRODUCT_IMAGES, "source_uri") == [("a.jpg",)]
    assert shop.rows(tables.PRODUCTS, "product_id") == [("p1",), ("p2",)]
    shop.ingest(shop.request([B], night=3))
    assert shop.listed(tables.PRODUCTS, "product_id") == [("p1",), ("p2",)]
    assert shop.listed(tables.PRODUCT_IMAGES, "source_uri") == [("a.jpg",), ("b.jpg",)]


def test_a_full_manifest_forgets_the_rejections_of_what_it_does_not_name(shop: Shop) -> None:
    gone, nameless = ["p8", "gone.jpg", "", ""], ["p9", "", "", ""]
    shop.ingest(shop.request([A, gone, nameless], 1))
    assert {reason for (reason,) in shop.rows(tables.REJECTED_IMAGES, "reason")} == {
        "missing",
        "bad_row",
    }
    shop.ingest(shop.request([A, gone], 2))
    assert len(shop.rows(tables.REJECTED_IMAGES, "reason")) == 2  # A partial manifest only adds.
    shop.ingest(shop.request([A, ["p7", "a.jpg", "x"]], 3, is_full=True))
    assert shop.run is not None
    assert shop.run.details["not_delisted"] == "1 rows cannot be parsed"
    # Nobody knows what the ragged row names; the mended row is not there any more all the same.
    assert shop.rows(tables.REJECTED_IMAGES, "product_id", "reason") == [
        ("p7", "bad_row"),
        ("p8", "missing"),
    ]
    assert shop.rows(tables.MANIFESTS, "night", "is_full")[-1] == (date(2026, 1, 3), False)
    shop.ingest(shop.request([A], 4, is_full=True))
    assert shop.rows(tables.REJECTED_IMAGES, "reason") == []


def test_a_late_manifest_adds_and_changes_nothing_that_is_known(shop: Shop) -> None:
    shop.ingest(shop.request([A, B], night=5, is_full=True))
    old = ["p2", "b.jpg", "Fruit/Quince", "Old title"]
    (shop.folder / "images" / "b.jpg").write_bytes(b"<html>")
    shop.ingest(shop.request([old, C], night=4, is_full=True))
    # What the newer night did not name is known, and not listed.
    assert shop.listed(tables.PRODUCTS, "product_id") == [("p1",), ("p2",)]
    assert shop.rows(tables.PRODUCTS, "product_id") == [("p1",), ("p2",), ("p3",)]
    assert shop.listed(tables.PRODUCT_IMAGES, "source_uri") == [("a.jpg",), ("b.jpg",)]
    assert shop.rows(tables.PRODUCTS, "title") == [("Apple",), ("Pear",), ("Plum",)]
    assert len(shop.rows(tables.LABELS, "product_id", "category_id")) == 3
    before = shop.versions()
    shop.ingest(shop.request([old, C], night=4, is_full=True))
    assert shop.run and shop.run.status == Status.NOTHING_TO_DO
    assert shop.versions() == before


def test_a_gate_blocks_publishing_and_keeps_what_was_found(shop: Shop) -> None:
    shop.ingest(shop.request([A, B, C], night=1))
    before = shop.versions()
    strict = IngestSettings(stored_side=32)
    with pytest.raises(GateRefusedError, match=r"would delist 2 of 3 products.*cut short"):
        shop.ingest(shop.request([A], night=2, is_full=True), strict)
    assert shop.versions() == before
    for name in ("b", "c"):
        (shop.folder / "images" / f"{name}.jpg").write_bytes(b"<html>")
    with pytest.raises(GateRefusedError, match=r"2 of 3 rows are rejected") as refusal:
        shop.ingest(shop.request([A, B, C], night=2), strict)
    assert shop.versions() == before
    kept = str(refusal.value).split("parquet.`")[1].split("`")[0]
    reasons = shop.warehouse.spark.read.parquet(kept).where("reason IS NOT NULL").collect()
    assert [row["reason"] for row in reasons] == ["not_an_image"] * 2
    # The next run of the job leaves it alone, and can go on.
    shop.ingest(shop.request([A], night=2), strict)
    assert shop.warehouse.spark.read.parquet(kept).count() == 3


def test_a_dry_run_counts_and_changes_nothing(shop: Shop) -> None:
    shop.ingest(shop.request([A], night=1))
    before = shop.versions()
    rows = [A, B, ["p9", "nowhere.jpg", "", ""], ["p1", "a.jpg", "", ""]]
    plan = plan_ingest(shop.warehouse, shop.request(rows, night=1), LOOSE, "plan-1")
    assert plan == {"to_do": 1, "unchanged": 1, "rejected": 1, "repeated": 1, "missing": 1}
    assert shop.versions() == before


def test_a_dry_run_makes_no_table(spark: SparkSession, shop: Shop) -> None:
    nowhere = Warehouse(spark, str(shop.folder / "elsewhere"))
    plan = plan_ingest(nowhere, shop.request([A], night=1), LOOSE, "plan-1")
    assert plan == {"to_do": 1, "unchanged": 0, "rejected": 0, "repeated": 0}
    assert not nowhere.exists(tables.PRODUCTS)


def test_what_is_rejected_tells_nothing_of_products_and_is_tried_again_on_demand(
    shop: Shop,
) -> None:
    (shop.folder / "images" / "b.jpg").write_bytes(b"<html>")
    rows = [A, B, ["p4", "c.jpg", "Fruit", "one", "cell too many"]]
    outcomes = shop.ingest(shop.request(rows, night=1))
    assert (outcomes.ingested, outcomes.rejected) == (1, {"not_an_image": 1, "bad_row": 1})
    assert shop.rows(tables.PRODUCTS, "product_id") == [("p1",), ("p2",)]
    [bad, _] = shop.rows(tables.REJECTED_IMAGES, "reason", "detail")
    assert bad[0] == "bad_row" and "line 4" in bad[1]
    shop.ingest(shop.request(rows, night=1))
    assert shop.rows(tables.REJECTED_IMAGES, "reason", "attempts") == [
        ("bad_row", 1),
        ("not_an_image", 1),
    ]
    # The whole catalogue, it says, without p1: but nobody knows what the bad row names.
    retried = frozenset({"not_an_image"})
    shop.ingest(shop.request(rows[1:], night=1, retried=retried, is_full=True))
    assert shop.listed(tables.PRODUCTS, "product_id") == [("p1",), ("p2",)]
    assert ("not_an_image", 2) in shop.rows(tables.REJECTED_IMAGES, "reason", "attempts")


def test_a_known_column_that_is_gone_is_refused_unless_it_is_meant(shop: Shop) -> None:
    shop.ingest(shop.request([A], night=1))
    manifest = shop.folder / "renamed.csv"
    manifest.write_text("product_id,image_uri,category,titel\np1,a.jpg,Fruit/Apple,Apple\n")
    request = Request(str(manifest), str(shop.folder / "images"), TODAY)
    with pytest.raises(ManifestError, match="titel"):
        shop.ingest(request)
    accepted = Request(*list(vars(request).values())[:3], accept_columns=True)
    shop.ingest(accepted)
    assert shop.rows(tables.PRODUCTS, "title", "attributes") == [("Apple", {"titel": "Apple"})]


def test_images_inside_a_parquet_manifest_are_ingested_once(
    shop: Shop, make_jpeg: Callable[..., bytes]
) -> None:
    rows = [
        {"product_id": f"p{n}", "image_uri": f"inline-{n}", "content": make_jpeg(n)}
        for n in range(20)
    ] + [{"product_id": "p20", "image_uri": "inline-20", "content": None}]
    manifest = shop.folder / "a%20b" / "inline #1.parquet"
    manifest.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), manifest, row_group_size=6)
    request = Request(str(manifest), str(shop.folder / "images"), TODAY)
    first = shop.ingest(request)
    assert (first.ingested, first.rejected) == (20, {"empty": 1})
    before = shop.versions()
    again = shop.ingest(request)
    assert again.unchanged == 20
    assert shop.versions() == before


def test_images_in_a_tar_shard_are_ingested_and_then_unchanged(shop: Shop) -> None:
    shutil.make_archive(str(shop.folder / "images" / "000"), "tar", shop.folder / "images", ".")
    rows = [["p1", "000.tar/./a.jpg", "", ""], ["p2", "000.tar/./b.jpg", "", ""]]
    rows.append(["p3", "000.tar/./none.jpg", "", ""])
    first = shop.ingest(shop.request(rows, night=1))
    assert (first.ingested, first.rejected) == (2, {"missing": 1})
    again = shop.ingest(shop.request(rows, night=2))
    assert (again.unchanged, again.rejected) == (2, {"missing": 1})
    assert again.measures["bytes_read"] == 0


def test_near_duplicates_share_a_group_and_the_run_tells_its_figures(
    shop: Shop, make_jpeg: Callable[..., bytes]
) -> None:
    for name, quality in (("a", 85), ("b", 75)):
        photo = make_jpeg(0, width=480, height=400, quality=quality)
        (shop.folder / "images" / f"{name}.jpg").write_bytes(photo)
    measures = shop.ingest(shop.request([A, B], night=1), IngestSettings()).measures
    sizes = [(shop.folder / "images" / f"{name}.jpg").stat().st_size for name in "ab"]
    assert (measures["bytes_read"], measures["images_decoded"]) == (sum(sizes), 2)
    assert 0 < measures["decode_ms_p50"] <= measures["decode_ms_p95"]
    assert shop.run and "decode_ms_p95" in json.loads(shop.run.status_line())["measures"]
    shop.ingest(shop.request([C], night=2))
    groups = shop.rows(tables.IMAGE_DUPLICATES, "duplicate_group", "image_id")
    assert len(groups) == 3
    assert len({group for group, _ in groups}) == 2


def test_a_killed_worker_costs_no_row(shop: Shop, make_jpeg: Callable[..., bytes]) -> None:
    rows = [[f"p{n}", f"many/{n}.jpg", "", ""] for n in range(400)]
    (shop.folder / "images" / "many").mkdir()
    for n in range(400):
        (shop.folder / "images" / "many" / f"{n}.jpg").write_bytes(make_jpeg(n, 640, 480))
    killed: list[int] = []

    def kill_those_that_decode() -> None:
        staging = Path(shop.warehouse.root, "_staging")
        deadline = time.monotonic() + 60
        while not any(staging.glob("*/images/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in spark_workers():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with ThreadPoolExecutor(1) as threads:
        killing = threads.submit(kill_those_that_decode)
        outcomes = shop.ingest(shop.request(rows, 1))
        killing.result()
    assert killed
    assert (outcomes.ingested, outcomes.rejected) == (400, {})
    assert len(set(shop.rows(tables.IMAGES, "image_id"))) == 400


def spark_workers() -> list[int]:
    """Return the Python workers of this process's Spark: forks of its daemon."""
    names, parents = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            names[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes()
            status = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        parents[int(entry)] = int(status.rpartition(")")[2].split()[1])
    daemons = {pid for pid, name in names.items() if b"pyspark.daemon" in name}
    return [pid for pid in daemons if parents[pid] in daemons and is_below(pid, parents)]


def is_below(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def test_secrets_in_a_location_stay_out_of_errors(shop: Shop) -> None:
    request = Request("nowhere://AKIA:CANARY@bucket/m.csv", str(shop.folder / "images"), TODAY)
    with pytest.raises(ManifestError) as refusal:
        shop.ingest(request)
    assert "CANARY" not in str(refusal.value)


def test_a_night_in_the_future_is_refused_and_an_unnamed_one_is_never_late(
    shop: Shop, spark: SparkSession
) -> None:
    past = spark.createDataFrame([(date(2026, 2, 1),)], "night date")
    assert choose_night(past, None, TODAY) == date(2026, 2, 1)
    assert choose_night(past.limit(0), None, TODAY) == TODAY
    assert choose_night(past, date(2026, 1, 3), TODAY) == date(2026, 1, 3)
    with pytest.raises(ManifestError, match="lies in the future"):
        choose_night(past, date(2062, 1, 1), TODAY)

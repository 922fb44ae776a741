"""What a reader opens, how often, and that it leaves nothing open."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from catalog_batch.train import row_groups
from catalog_batch.train.row_groups import ShardRowGroups
from catalog_batch.train.snapshot import resolve_snapshot

COLUMNS = ("image_id", "category_id")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """Collect the files that are opened, and whether their footer was known."""
    found = []

    class Counted(pq.ParquetFile):  # type: ignore[misc]
        def __init__(self, source: Any, metadata: Any = None, **options: Any) -> None:
            found.append((paths.pop(), metadata is not None))
            super().__init__(source, metadata=metadata, **options)

    def open_file(path: str) -> pa.OSFile:
        paths.append(path)
        return pa.OSFile(path)

    paths: list[str] = []
    arrow = SimpleNamespace(OSFile=open_file, Table=pa.Table)
    monkeypatch.setattr(row_groups, "pa", arrow)
    monkeypatch.setattr(row_groups, "pq", SimpleNamespace(ParquetFile=Counted))
    return found


def read(table: Path, threads: int = 1, stop_after: int | None = None) -> list[str]:
    urls = resolve_snapshot(str(table)).splits["train"].urls
    groups = ShardRowGroups(urls, COLUMNS, 0, 1, threads).read(seed=3)
    ids: list[str] = []
    for number, group in enumerate(groups):
        ids += group["image_id"].to_pylist()
        if number == stop_after:
            groups.close()
    return ids


def parquet_files_open() -> list[str]:
    return [file.path for file in psutil.Process().open_files() if file.path.endswith(".parquet")]


@pytest.fixture
def table(tmp_path: Path, write_table: Callable[..., Path]) -> Path:
    """Return a table whose training rows are there twice, in two files."""
    table = write_table(tmp_path / "t")
    [path] = resolve_snapshot(str(table)).splits["train"].paths
    rows = pq.ParquetFile(path).read()
    again = rows.append_column("split", pa.array(["train"] * len(rows)))
    write_deltalake(str(table), again, mode="append", partition_by=["split"])
    return table


def test_a_file_is_opened_and_parsed_once(table: Path, opened: list[tuple[Any, bool]]) -> None:
    ids = read(table)
    files = resolve_snapshot(str(table)).splits["train"].paths
    assert len(files) == 2
    assert Counter(opened) == Counter((str(path), False) for path in files)
    assert set(Counter(ids).values()) == {2}
    assert len(ids) == 96


def test_of_more_files_than_are_kept_open_each_is_parsed_once(
    table: Path, opened: list[tuple[Any, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = read(table)
    opened.clear()
    monkeypatch.setattr(row_groups, "OPEN_FILES", 1)
    assert read(table) == at_once
    files = resolve_snapshot(str(table)).splits["train"].paths
    assert len(opened) > len(files)
    assert sorted(path for path, is_known in opened if not is_known) == sorted(map(str, files))


def test_an_epoch_more_parses_no_footer(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    begin = pq.ParquetFile.__init__

    def noting(file: Any, source: Any, metadata: Any = None, **options: Any) -> None:
        parsed.append(metadata is None)
        begin(file, source, metadata=metadata, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", noting)
    urls = resolve_snapshot(str(table)).splits["train"].urls
    shard = ShardRowGroups(urls, COLUMNS, 0, 1, threads=1)
    first = [group["image_id"].to_pylist() for group in shard.read(seed=3)]
    assert any(parsed)
    parsed.clear()
    again = [group["image_id"].to_pylist() for group in shard.read(seed=3)]
    other = [group["image_id"].to_pylist() for group in shard.read(seed=4)]
    assert parsed == [False] * 4
    assert first == again != other
    assert sorted(first) == sorted(other)


def test_storage_that_fails_for_all_threads_is_an_error_at_once(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, path: str) -> None:
        raise OSError("the storage is gone")

    monkeypatch.setattr(row_groups._OpenFiles, "_opened", fail)
    for threads in (1, 8):
        with pytest.raises(OSError, match="the storage is gone"):
            read(table, threads)


@pytest.mark.parametrize(("threads", "stop_after"), [(1, None), (3, None), (1, 0)])
def test_no_file_is_left_open(table: Path, threads: int, stop_after: int | None) -> None:
    assert read(table, threads, stop_after)
    assert parquet_files_open() == []

"""Every row of a shard exactly once, in batches of one size, with errors instead of waits."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from catalog_batch.config import TrainSettings
from catalog_batch.errors import (
    CatalogBatchError,
    ConfigError,
    ReconciliationError,
    TrainingDataError,
)
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.train.loop import Batch
from catalog_batch.train.prefetch import prefetched
from catalog_batch.train.readers import ShardReader, counted
from catalog_batch.train.snapshot import SplitFiles, resolve_snapshot
from catalog_batch.train.worker import UNSAFE_VARIABLE, refuse_pickled_metadata

Write = Callable[..., Path]


def reader_of(table: Path, rank: int = 0, world_size: int = 1, **settings: Any) -> ShardReader:
    return ShardReader(
        resolve_snapshot(str(table)),
        Preprocessing.for_side(16),
        TrainSettings(**{"batch_size": 8, "shuffle_rows": 6, **settings}),
        rank,
        world_size,
    )


def seen(batches: Iterator[Batch]) -> Counter[bytes]:
    return Counter(
        image.numpy().tobytes()
        for batch in batches
        for image, weight in zip(batch.images, batch.weights, strict=True)
        if weight
    )


def test_two_ranks_see_every_row_exactly_once_in_every_epoch(training_table: Path) -> None:
    whole = seen(reader_of(training_table).evaluation("train"))
    assert whole.total() == 48
    for epoch in range(3):
        halves = [seen(reader_of(training_table, rank, 2).training(epoch)) for rank in range(2)]
        assert [half.total() for half in halves] == [25, 23]
        assert halves[0] + halves[1] == whole


def test_rows_that_are_not_for_training_may_have_another_side(training_table: Path) -> None:
    plain = reader_of(training_table)
    reader = replace(plain, scoring_preprocessing=Preprocessing.for_side(24))
    assert next(reader.training(0)).images.shape[1:] == (16, 16, 3)
    for split in ("validation", "test"):
        assert next(reader.evaluation(split)).images.shape[1:] == (24, 24, 3)
    # What a probe is fitted on is what the network would have been trained on.
    assert seen(reader.evaluation("train")) == seen(plain.evaluation("train"))
    assert reader.first_images("train", 2).shape == (2, 16, 16, 3)
    assert reader.for_scoring.first_images("train", 2).shape == (2, 24, 24, 3)


def test_unequal_shards_give_equal_steps_padded_with_rows_of_no_weight(
    training_table: Path,
) -> None:
    batches = [list(reader_of(training_table, rank, 2).training(0)) for rank in range(2)]
    assert [len(of_rank) for of_rank in batches] == [4, 4]
    assert {len(batch.labels) for of_rank in batches for batch in of_rank} == {8}
    assert [int(batch.weights.sum()) for batch in batches[0]] == [8, 8, 8, 1]
    assert [int(batch.weights.sum()) for batch in batches[1]] == [8, 8, 7, 0]
    assert batches[1][3].images.dtype == torch.uint8
    assert torch.equal(batches[1][3].images[0], batches[1][2].images[0])
    # Padding is of those seen last, each once: copies of one would move a batch norm's statistics.
    assert torch.equal(batches[0][3].images[1:], batches[0][2].images[:7])
    for of_rank in batches:
        for batch in of_rank:
            assert len({image.numpy().tobytes() for image in batch.images}) == 8


def test_a_rank_without_a_row_group_pads_the_steps_of_the_others(training_table: Path) -> None:
    ranks = [list(reader_of(training_table, rank, 4).evaluation("test")) for rank in range(4)]
    assert [int(sum(batch.weights.sum() for batch in of_rank)) for of_rank in ranks] == [5, 5, 2, 0]
    assert {len(of_rank) for of_rank in ranks} == {1}


def test_labels_are_positions_in_the_snapshots_classes(training_table: Path) -> None:
    reader = reader_of(training_table)
    [batch, *_] = reader.evaluation("test")
    categories = [reader.snapshot.classes[label][0] for label in batch.labels[:3]]
    assert categories == ["bags", "lamps", "shoes"]


def test_the_order_depends_on_the_epoch_and_repeats_with_the_seed(training_table: Path) -> None:
    def order(epoch: int, seed: int, threads: int = 1) -> list[bytes]:
        reader = reader_of(training_table, seed=seed, reader_threads=threads)
        return [batch.images.numpy().tobytes() for batch in reader.training(epoch)]

    assert order(0, seed=17) == order(0, seed=17) == order(0, seed=17, threads=3)
    assert order(0, seed=17) != order(1, seed=17)
    assert order(0, seed=17) != order(0, seed=18)


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_an_epoch_goes_on_at_any_batch_as_it_would_have(
    training_table: Path, sampling: str
) -> None:
    reader = reader_of(training_table, 1, 2, sampling=sampling)
    whole = list(reader.training(1))
    assert int(whole[3].weights.sum()) == 0
    for first in (1, 3, 4):
        rest = list(reader.training(1, first))
        for one, other in zip(rest, whole[first:], strict=True):
            assert all(map(torch.equal, one, other))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is locked for a GPU alone")
def test_batches_for_a_gpu_lie_in_locked_memory(training_table: Path) -> None:
    reader = replace(reader_of(training_table), pin_memory=True)
    for batch in reader.training(epoch=0):
        assert all(tensor.is_pinned() for tensor in batch)


def test_evaluation_keeps_the_tables_order(training_table: Path) -> None:
    reader = reader_of(training_table)
    batches = list(reader.evaluation("validation"))
    repeated = list(reader.evaluation("validation"))
    assert all(
        torch.equal(one.images, other.images) for one, other in zip(batches, repeated, strict=True)
    )
    assert batches[0].images[0].numpy().tobytes() == reader.first_images("validation", 1).tobytes()
    assert reader.first_images("validation", 16).shape == (16, 16, 16, 3)


def test_strays_and_a_poisoned_common_metadata_in_the_folder_change_nothing(
    training_table: Path, plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    expected = seen(reader_of(training_table).evaluation("train"))
    plant(training_table, tmp_path / "marker")
    assert seen(reader_of(training_table).evaluation("train")) == expected
    assert not (tmp_path / "marker").exists()


def test_a_pickle_in_a_parquet_files_schema_is_not_loaded(
    tmp_path: Path, make_pickle: Callable[[Path], bytes]
) -> None:
    field = pa.field(
        "content",
        pa.list_(pa.int64()),
        metadata={
            b"ARROW:extension:name": b"ray.data.arrow_tensor",
            b"ARROW:extension:metadata": make_pickle(tmp_path / "marker"),
        },
    )
    file = tmp_path / "claims_a_tensor.parquet"
    pq.write_table(pa.table([[[1, 2]]], schema=pa.schema([field])), file)
    with pytest.raises(ValueError, match=UNSAFE_VARIABLE):
        pq.read_table(file)
    assert not (tmp_path / "marker").exists()


def test_the_variable_that_would_load_such_pickles_is_refused() -> None:
    refuse_pickled_metadata({})
    with pytest.raises(ConfigError, match=f"{UNSAFE_VARIABLE}='1' lets a Parquet file run code"):
        refuse_pickled_metadata({UNSAFE_VARIABLE: "1"})


def test_an_image_that_cannot_be_decoded_is_named(
    tmp_path: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    rows = make_rows()
    rows[7]["content"] = b"no image at all"
    table = write_table(tmp_path / "t", rows)
    with pytest.raises(TrainingDataError, match=f"Image '{rows[7]['image_id']}'"):
        list(reader_of(table).training(0))


def test_a_file_removed_while_training_is_an_error_and_no_hang(
    training_table: Path,
) -> None:
    reader = reader_of(training_table)
    [file] = (training_table / "split=train").glob("*.parquet")
    file.unlink()
    with pytest.raises(TrainingDataError, match=r"version 0 of .* failed.*VACUUM"):
        list(reader.training(0))


def test_rows_that_petastorm_loses_are_an_error_with_both_numbers(training_table: Path) -> None:
    reader = reader_of(training_table)
    files = reader.snapshot.splits["train"]
    more = SplitFiles(files.urls, (*files.row_groups, 5))
    longer = replace(reader.snapshot, splits={**reader.snapshot.splits, "train": more})
    with pytest.raises(ReconciliationError, match="read 48 rows where the snapshot has 53"):
        list(replace(reader, snapshot=longer).training(0))


def test_rows_beyond_the_expected_number_are_an_error() -> None:
    rows = (row for row in [("1", b"", "a"), ("2", b"", "a")])
    with pytest.raises(ReconciliationError, match="read 2 rows where the snapshot has 1"):
        list(counted(rows, 1, "rank 0 of 1"))


def test_a_source_that_stalls_is_an_error_after_stall_seconds() -> None:
    released = threading.Event()

    def stalling() -> Generator[int, None, None]:
        yield 1
        released.wait(30)

    batches = prefetched(stalling(), 0.2, "the train split")
    assert next(batches) == 1
    threading.Timer(0.5, released.set).start()
    with pytest.raises(CatalogBatchError, match=r"No batch of the train split came for 0\.2 s"):
        next(batches)


def test_an_error_in_the_producing_thread_reaches_the_consumer() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise OSError("disk gone")

    batches = prefetched(failing(), 5, "anything")
    assert next(batches) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


def test_a_consumer_that_stops_early_leaves_no_thread_behind(training_table: Path) -> None:
    before = set(threading.enumerate())
    batches = reader_of(training_table, batch_size=2).training(0)
    next(batches)
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 5
    assert set(threading.enumerate()) <= before


def test_a_hundred_epochs_lose_no_row(tmp_path: Path, write_table: Write) -> None:
    reader = reader_of(write_table(tmp_path / "t", rows_per_group=3), reader_threads=2)
    counts = {
        int(sum(batch.weights.sum() for batch in reader.training(epoch))) for epoch in range(100)
    }
    assert counts == {48}

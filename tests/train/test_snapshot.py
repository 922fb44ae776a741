"""A snapshot is exactly the live files of one version, or a refusal that says what to do."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from catalog_batch.errors import MissingTableError, TrainingDataError
from catalog_batch.train.snapshot import Snapshot, SplitFiles, resolve_snapshot

Write = Callable[..., Path]


def snapshot_with_groups(*row_groups: int) -> Snapshot:
    files = SplitFiles(("file:///t/a.parquet",), row_groups)
    return Snapshot("/t", 0, {"train": files}, (("a", "A"), ("b", "B")), 1)


def test_a_snapshot_holds_the_rows_row_groups_and_classes_of_each_split(
    training_table: Path,
) -> None:
    snapshot = resolve_snapshot(str(training_table))
    assert snapshot.version == 0
    assert {split: snapshot.rows(split) for split in snapshot.splits} == {
        "train": 48,
        "validation": 18,
        "test": 12,
    }
    assert snapshot.splits["test"].row_groups == (5, 5, 2)
    assert snapshot.classes == (
        ("bags", "Bags"),
        ("shoes", "Clothing > Shoes"),
        ("lamps", "Home > Lamps"),
    )
    assert snapshot.taxonomy_version == 1


def test_a_snapshot_counts_the_training_rows_of_each_class(
    tmp_path: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    rows = [row for row in make_rows() if row["image_id"] != "train-shoes-0005"]
    snapshot = resolve_snapshot(str(write_table(tmp_path / "t", rows)))
    assert snapshot.class_rows == (16, 15, 16)


def test_an_older_version_keeps_its_own_files_after_an_overwrite(
    training_table: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    before = resolve_snapshot(str(training_table))
    write_table(training_table, make_rows({"train": 9, "validation": 3}))
    assert resolve_snapshot(str(training_table), 0) == before
    newest = resolve_snapshot(training_table.as_uri())
    assert (newest.version, newest.rows("train"), newest.rows("test")) == (1, 9, 0)


def test_files_that_are_not_part_of_the_table_are_not_listed(
    training_table: Path, plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    before = resolve_snapshot(str(training_table))
    plant(training_table, tmp_path / "marker")
    assert resolve_snapshot(str(training_table)) == before
    assert not (tmp_path / "marker").exists()


def test_a_table_in_a_folder_with_a_space_is_found(tmp_path: Path, write_table: Write) -> None:
    table = write_table(tmp_path / "my data" / "training_examples")
    assert resolve_snapshot(table.as_uri()).rows("train") == 48


def test_a_folder_that_petastorm_would_misread_as_a_url_is_refused(
    tmp_path: Path, training_table: Path
) -> None:
    moved = training_table.rename(tmp_path / "n#1")
    with pytest.raises(TrainingDataError, match=r"n#1.*Mount the storage, or move the warehouse"):
        resolve_snapshot(str(moved))


def test_a_snapshot_survives_the_way_to_a_worker(training_table: Path) -> None:
    snapshot = resolve_snapshot(str(training_table))
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


def test_row_groups_are_dealt_in_turn_and_all_ranks_take_the_steps_of_the_longest() -> None:
    snapshot = snapshot_with_groups(5, 5, 5, 3, 7)
    assert [snapshot.rows_of_shard("train", rank, 2) for rank in range(2)] == [17, 8]
    assert snapshot.steps("train", world_size=2, batch_size=4) == 5
    assert snapshot.steps("train", world_size=1, batch_size=25) == 1


def test_ranks_without_a_row_group_read_nothing() -> None:
    snapshot = snapshot_with_groups(5, 5)
    assert [snapshot.rows_of_shard("train", rank, 3) for rank in range(3)] == [5, 5, 0]
    assert snapshot_with_groups().steps("train", world_size=2, batch_size=4) == 0


def test_fewer_row_groups_than_workers_are_refused_with_both_numbers() -> None:
    with pytest.raises(TrainingDataError, match=r"has 2 row groups.*3 workers.*row_group_kib"):
        snapshot_with_groups(5, 5).require_shards(3)


def test_a_missing_table_says_which_job_writes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingTableError, match="Run build-training-set"):
        resolve_snapshot(str(tmp_path / "nowhere"))


def test_a_missing_version_is_refused_with_the_newest(training_table: Path) -> None:
    with pytest.raises(MissingTableError, match="no version 7: the newest is 0"):
        resolve_snapshot(str(training_table), 7)


def test_a_table_without_training_rows_is_refused(
    tmp_path: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    table = write_table(tmp_path / "t", make_rows({"validation": 6}))
    with pytest.raises(TrainingDataError, match="no rows in its train split"):
        resolve_snapshot(str(table))


def test_a_class_without_a_training_image_is_refused_by_name(
    tmp_path: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    rows = [row for row in make_rows() if (row["split"], row["category_id"]) != ("train", "lamps")]
    with pytest.raises(TrainingDataError, match="Home > Lamps"):
        resolve_snapshot(str(write_table(tmp_path / "t", rows)))


def test_two_taxonomy_versions_in_one_table_are_refused(
    tmp_path: Path, write_table: Write, make_rows: Callable[..., list[Any]]
) -> None:
    rows = make_rows()
    rows[0]["taxonomy_version"] = 2
    with pytest.raises(TrainingDataError, match=r"several taxonomy versions \[1, 2\]"):
        resolve_snapshot(str(write_table(tmp_path / "t", rows)))


@pytest.mark.parametrize("what", ["removed", "cut short"])
def test_a_damaged_data_file_is_named(training_table: Path, what: str) -> None:
    [file] = (training_table / "split=validation").glob("*.parquet")
    if what == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(TrainingDataError, match=file.name):
        resolve_snapshot(str(training_table))


@pytest.mark.parametrize(
    ("configuration", "feature"),
    [
        ({"delta.enableDeletionVectors": "true"}, "deletion vectors"),
        ({"delta.columnMapping.mode": "name"}, "column mapping"),
    ],
)
def test_table_features_that_petastorm_would_misread_are_refused(
    training_table: Path, configuration: dict[str, str], feature: str
) -> None:
    log = training_table / "_delta_log" / "00000000000000000000.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        action.get("metaData", {}).update(configuration=configuration)
    log.write_text("\n".join(map(json.dumps, actions)))
    assert DeltaTable(str(training_table)).metadata().configuration == configuration
    with pytest.raises(TrainingDataError, match=feature):
        resolve_snapshot(str(training_table))


def test_a_table_whose_rows_spark_marked_as_deleted_is_refused(
    training_table: Path, spark: SparkSession
) -> None:
    table = f"delta.`{training_table}`"
    switch = f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.enableDeletionVectors' = {{}})"
    spark.sql(switch.format("true"))
    spark.sql(f"DELETE FROM {table} WHERE image_id = 'train-bags-0000'")
    spark.sql(switch.format("false"))  # which leaves the vectors that there are
    assert list(training_table.rglob("deletion_vector_*.bin"))
    with pytest.raises(TrainingDataError, match="deletion vectors"):
        resolve_snapshot(str(training_table))

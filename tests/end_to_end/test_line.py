"""The jobs one after the other, through the console command."""

import csv
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from tests.commands import Line, run_command

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


def truth(line: Line) -> list[dict[str, str]]:
    text = Path(line.folder / "catalogue" / "truth.jsonl").read_text(encoding="utf-8")
    return [json.loads(row) for row in text.splitlines()]


def rows_of(line: Line, table: str, *columns: str) -> list[dict[str, object]]:
    """Read a table with the second implementation of Delta, without Spark."""
    files = DeltaTable(f"{line.warehouse}/{table}").file_uris()
    rows = pa.concat_tables(pq.read_table(file, columns=list(columns)) for file in files)
    return list(rows.to_pylist())


def test_every_bad_image_is_rejected_for_the_right_reason(line: Line) -> None:
    expected = {
        (row["product_id"], row["image_uri"]): row["expected_outcome"]
        for row in truth(line)
        if row["expected_outcome"] != "accepted"
    }
    rejected = rows_of(line, "rejected_images", "product_id", "source_uri", "reason")
    assert {(row["product_id"], row["source_uri"]): row["reason"] for row in rejected} == expected


def test_every_row_of_the_manifest_has_one_outcome(line: Line) -> None:
    status = line.job("ingest").status
    with Path(line.manifest).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert status["rows_in"] == len(rows) == sum(status["counts"].values())
    linked = rows_of(line, "product_images", "product_id", "source_uri") + rows_of(
        line, "rejected_images", "product_id", "source_uri"
    )
    seen = Counter((row["product_id"], row["source_uri"]) for row in linked)
    assert seen == Counter((row["product_id"], row["image_uri"]) for row in rows)


def test_exact_duplicates_share_one_image(line: Line) -> None:
    copies = [row for row in truth(line) if row["duplicate_of"]]
    pairs = rows_of(line, "product_images", "source_uri", "image_id")
    image_of = {row["source_uri"]: row["image_id"] for row in pairs}
    assert copies
    assert all(image_of[row["image_uri"]] == image_of[row["duplicate_of"]] for row in copies)


def test_every_product_has_one_prediction_with_its_lineage(line: Line) -> None:
    predictions = rows_of(
        line,
        "product_predictions",
        "product_id",
        "decision",
        "model_name",
        "model_version",
        "run_id",
    )
    assert len(predictions) == len({row["product_id"] for row in predictions})
    assert {row["product_id"] for row in predictions} == {row["product_id"] for row in truth(line)}
    assert {(row["model_name"], row["model_version"]) for row in predictions} == {("catalogue", 1)}
    assert {row["run_id"] for row in predictions} == {line.job("score").status["run_id"]}


def test_predictions_are_counted_by_category_in_sql(line: Line) -> None:
    query = "SELECT category_path, count(*) AS n FROM current_predictions GROUP BY 1"
    answer = line.run("sql", query, "--format", "json")
    assert answer.exit_code == 0, answer.errors
    rows = [json.loads(row) for row in answer.output.splitlines()]
    assert sum(row["n"] for row in rows) == len({row["product_id"] for row in truth(line)})


def test_every_view_answers(line: Line) -> None:
    views = ["category_counts", "review_queue", "rejections_by_reason", "nightly_runs"]
    union = " UNION ALL ".join(f"SELECT '{view}' AS v, count(*) AS n FROM {view}" for view in views)
    answer = line.run("sql", union, "--format", "csv")
    assert answer.exit_code == 0, answer.errors
    assert {row.split(",")[0] for row in answer.output.splitlines()[1:]} == set(views)


def test_the_runs_tell_which_model_scored_and_what_was_decided(line: Line) -> None:
    query = "SELECT model, counts FROM nightly_runs WHERE job = 'score' ORDER BY started_at"
    first, *_ = line.run("sql", query, "--format", "json").output.splitlines()
    status = line.job("score").status
    assert json.loads(first) == {"model": status["model"], "counts": status["counts"]}


def test_a_second_night_changes_nothing(line: Line) -> None:
    *_, ingested_again, scored_again = line.commands
    assert ingested_again.status["counts"]["ingested"] == 0
    assert ingested_again.status["status"] == scored_again.status["status"] == "nothing_to_do"
    # Known before Spark was asked anything.
    assert not scored_again.status.get("counts")
    once = (
        "products",
        "product_images",
        "images",
        "rejected_images",
        "image_duplicates",
        "manifests",
        "categories",
        "labels",
    )
    versions = {
        name: DeltaTable(f"{line.warehouse}/{name}").version()
        for name in (*once, "training_examples", "image_predictions", "product_predictions")
    }
    assert set(versions.values()) == {1}, versions  # 0 is the empty table


def test_a_night_that_the_gate_refuses_exits_30_and_publishes_nothing(
    line: Line, tmp_path: Path
) -> None:
    ingest = ["catalog-batch", "ingest", line.manifest, "--images", line.images]
    refused = run_command([*ingest, "-w", tmp_path, "--set=ingest.max_rejected_share=0.01"])
    assert (refused.exit_code, refused.status["exit_code"]) == (30, 30)
    assert refused.status["status"] == "refused"
    assert "ingest.max_rejected_share" in refused.status["error"]
    assert refused.status["counts"] == line.job("ingest").status["counts"]
    published = ("products", "product_images", "images", "rejected_images")
    assert [DeltaTable(f"{tmp_path}/{name}").version() for name in published] == [0] * 4
    (kept,) = (tmp_path / "_staging").iterdir()
    found = pq.read_table(kept).num_rows
    assert found == refused.status["rows_in"] - refused.status["counts"]["repeated"]
    (run,) = DeltaTable(f"{tmp_path}/run_log").to_pyarrow_table().to_pylist()
    assert (run["status"], run["exit_code"]) == ("refused", 30)


def test_a_warehouse_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused = run_command(["catalog-batch", "score", "--warehouse", tmp_path / "mistyped"])
    assert refused.exit_code == 20, refused.errors
    assert f"{tmp_path}/mistyped" in refused.errors
    assert "check --warehouse" in refused.errors


def test_a_dry_run_tells_which_rejected_images_would_be_tried_again(line: Line) -> None:
    ingest = ("ingest", str(line.manifest), "--images", str(line.images), "--dry-run")
    planned = line.run(*ingest, "--retry-rejected")
    assert planned.exit_code == 0, planned.errors
    rejected = line.job("ingest").status["counts"]["rejected"]
    counts = planned.status["counts"]
    # A file that is missing or too large is known for it without being opened.
    by_look = {"missing", "too_large"}
    opened = [row for row in truth(line) if row["expected_outcome"] not in {"accepted", *by_look}]
    assert counts["to_do"] == len(opened) > 0
    assert counts["to_do"] + counts["rejected"] == rejected
    assert line.run(*ingest, "--retry-rejected", "truncated").status["counts"]["to_do"] == sum(
        row["expected_outcome"] == "truncated" for row in opened
    )


def test_every_run_is_in_the_run_log(line: Line) -> None:
    logged = rows_of(line, "run_log", "run_id", "status")
    verbs = ("ingest", "build-training-set", "train", "score")
    runs = {line.job(verb).status["run_id"]: "published" for verb in verbs}
    again = {command.status["run_id"]: "nothing_to_do" for command in line.commands[-2:]}
    assert {row["run_id"]: row["status"] for row in logged} == {**runs, **again}


def test_the_second_implementation_reads_the_rows_spark_reads(line: Line) -> None:
    names = ("products", "product_images", "images", "training_examples", "run_log", "models")
    union = " UNION ALL ".join(f"SELECT '{name}' AS t, count(*) AS n FROM {name}" for name in names)
    answer = line.run("sql", union, "--format", "json")
    by_spark = {row["t"]: row["n"] for row in map(json.loads, answer.output.splitlines())}
    assert by_spark == {name: DeltaTable(f"{line.warehouse}/{name}").count() for name in names}


def test_of_two_scorers_at_once_one_publishes_and_the_other_says_so(line: Line) -> None:
    before = DeltaTable(f"{line.warehouse}/image_predictions").version()
    again = ("score", "--rescore", "--max-images", "5")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(line.run, *again) for _ in range(2)]
    published, refused = sorted((run.result() for run in runs), key=lambda run: run.exit_code)
    assert (published.exit_code, refused.exit_code) == (0, 75), published.errors + refused.errors
    assert published.status["counts"]["images_scored"] == 5
    assert (refused.status["status"], refused.status["exit_code"]) == ("refused", 75)
    assert DeltaTable(f"{line.warehouse}/image_predictions").version() == before + 1
    rows = rows_of(line, "image_predictions", "scored_at", "run_id")
    newest = max(rows, key=lambda row: row["scored_at"])
    assert newest["run_id"] == published.status["run_id"]


def test_decisions_that_the_gate_refuses_exit_30_and_the_old_ones_are_served(line: Line) -> None:
    before = DeltaTable(f"{line.warehouse}/product_predictions").version()
    # A bound alone decides nothing anew.
    strict = ("--set=score.max_abstained_share=0", "--set=score.min_confidence=0.51")
    refused = line.run("score", *strict)
    assert (refused.exit_code, refused.status["exit_code"]) == (30, 30), refused.errors
    assert refused.status["status"] == "refused"
    assert "score.max_abstained_share" in refused.status["error"]
    assert refused.status["counts"] == {"images_scored": 0, "images_failed": 0, "images_left": 0}
    assert DeltaTable(f"{line.warehouse}/product_predictions").version() == before
    logged = rows_of(line, "run_log", "run_id", "exit_code")
    assert {"run_id": refused.status["run_id"], "exit_code": 30} in logged


def test_what_is_published_of_the_test_images_is_what_the_report_says(line: Line) -> None:
    said = {
        row["name"]: row["value"]
        for row in rows_of(line, "evaluation_metrics", "split", "name", "value", "model_version")
        if (row["split"], row["model_version"]) == ("test", 1)
    }
    answer = line.run("sql", OF_TEST_IMAGES, "--format", "json")
    assert answer.exit_code == 0, answer.errors
    found = json.loads(answer.output)
    assert found.pop("images") == said["rows"]
    assert found == {"accuracy": pytest.approx(said["accuracy"])}


OF_TEST_IMAGES = """
SELECT count(*) AS images, avg(CAST(get(top_k, 0).category_id <=> category_id AS INT)) AS accuracy
FROM training_examples JOIN image_predictions USING (image_id)
WHERE split = 'test'
"""

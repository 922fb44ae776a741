"""The model's pass over a night's images: dealt out, answered once, checked and merged."""

import math
import time
from collections.abc import Collection

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch import ledger, tables
from catalog_batch.progress import polled_progress
from catalog_batch.score.checks import check_calls, pass_failures
from catalog_batch.score.dealing import deal_out, round_sizes
from catalog_batch.score.night import Night, literals
from catalog_batch.score.selection import (
    contents_of,
    count_by_day,
    first_of,
    select_images,
    stored_on,
)
from catalog_batch.score.udf import Predict
from catalog_batch.spark import configured, task_slots
from catalog_batch.spark_progress import AnsweredRows
from catalog_batch.warehouse import cached

_ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
_SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"

ARROW_BATCH_BYTES = 2**20
"""Images that cross from the JVM to Python at a time: more only wait there, and with fewer a task's
first answers come while the JVM still reads the rest."""

MAX_ARROW_ROWS = 10_000

DEALT_BYTES_PER_CORE = 2**30
"""Images up to this size are dealt out, over the executors' disks. More of them lie in files
enough: one holds 128 MB."""

MAX_SENT_IDS = 1_000_000
"""Ids of wanted images that every executor is sent; more of them are joined by a shuffle, images
and all."""

SHUFFLED_PER_TASK, MOST_SHUFFLE_TASKS = 10_000, 10_000
"""Images of a task after such a shuffle, some minutes' work, to do again when it fails; and most of
these tasks, unless ``spark.shuffle_partitions`` says more."""


def score_images(night: Night, predict: Predict) -> tuple[int, int, int]:
    """Run the model over the images in scope; return how many were scored, failed, and are left."""
    warehouse, run, scope, settings = night.warehouse, night.run, night.scope, night.settings
    at = night.read[tables.IMAGES.name]
    images = warehouse.read(tables.IMAGES, at)
    links = night.listed(tables.PRODUCT_IMAGES)
    with cached(select_images(images, links, night.predictions(), scope)) as wanted:
        days = count_by_day(wanted)
        there = sum(days.values())
        run.rows_in = pending = min(there, scope.max_images or there)
        if not pending:
            return 0, 0, there
        chosen = wanted
        if pending < there:
            chosen = first_of(wanted, pending)
            days = count_by_day(chosen)
        started = time.monotonic()
        size = ledger.bytes_per_row(warehouse.root, tables.IMAGES.name, at)
        sent = F.broadcast(chosen) if pending <= MAX_SENT_IDS else chosen
        contents = contents_of(images, sent, days)
        slots = task_slots(warehouse.spark)
        if pending * size <= DEALT_BYTES_PER_CORE * slots:
            # Those of a night may lie in one file, which one task alone would read.
            rounds = round_sizes(pending, slots, settings.batch_size)
            contents = deal_out(contents, rounds, slots, settings.batch_size)
        tuned = {_ARROW_ROWS: rows_per_arrow_batch(size, settings.batch_size)}
        if pending > MAX_SENT_IDS:
            tasks = min(math.ceil(pending / SHUFFLED_PER_TASK), MOST_SHUFFLE_TASKS)
            at_least = int(warehouse.spark.conf.get(_SHUFFLE_PARTITIONS) or 0)
            tuned[_SHUFFLE_PARTITIONS] = max(tasks, at_least)
        with (
            configured(warehouse.spark, tuned),
            polled_progress(
                "scoring", pending, AnsweredRows(warehouse.spark), "images", is_logged=True
            ),
            warehouse.staged(_predicted(night, contents, predict), run.run_id) as staged,
        ):
            run.images_per_second = round(pending / (time.monotonic() - started), 2)
            failed = check_calls(staged, pending, run)
            if not scope.failed:  # These stay what they are.
                pass_failures(staged, failed, pending, settings)
            if settings.keep_embeddings:
                # Before the predictions: an image that has one is not scored again.
                kept = staged.where("embedding IS NOT NULL")
                with warehouse.alone(tables.IMAGE_EMBEDDINGS, run.run_id):
                    _publish(night, kept, tables.IMAGE_EMBEDDINGS)
            _publish(night, staged, tables.IMAGE_PREDICTIONS, _may_be_of(days))
            run.measures["published_seconds"] = round(time.time() - run.started_at.timestamp(), 2)
    return pending, failed, there - pending


def _publish(
    night: Night, staged: DataFrame, table: tables.Table, among: Column | None = None
) -> None:
    if night.scope.is_again:
        # The time of scoring tells the next run what comes next.
        night.warehouse.upsert(staged, table, restamp=True, shared=night.of_model)
    else:
        night.warehouse.insert_new(staged, table, shared=night.of_model, among=among)


def _may_be_of(days: Collection[int]) -> Column:
    """Return whether a stored prediction may be of an image of these days."""
    came = F.col("target.ingested_at")
    # One without is of a release that did not keep it.
    return came.isNull() | stored_on(days, came)


def rows_per_arrow_batch(bytes_per_row: int, batch_size: int) -> int:
    """Return as many whole batches of the model as fit, one at the least."""
    rows = min(ARROW_BATCH_BYTES // max(bytes_per_row, 1), MAX_ARROW_ROWS)
    return max(rows // batch_size, 1) * batch_size


def _predicted(night: Night, images: DataFrame, predict: Predict) -> DataFrame:
    lineage = {
        **night.of_model,
        "scored_at": night.run.started_at,
        "run_id": night.run.run_id,
    }
    answers = images.select("image_id", "ingested_at", predict("content").alias("prediction"))
    return answers.select("image_id", "ingested_at", "prediction.*", *literals(lineage))

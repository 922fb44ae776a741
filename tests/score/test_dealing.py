"""How images are dealt out to tasks."""

import random
from itertools import pairwise

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from catalog_batch.score.dealing import MOST_ROUNDS, _key_of_partition, deal_out, round_sizes


@pytest.mark.parametrize(
    ("images", "slots", "rounds"),
    [
        (1, 2, [1]),
        (128, 2, [128]),
        (200, 2, [136, 64]),
        (3200, 2, [2400, 600, 136, 64]),
        (3200, 8, [2400, 544, 256]),
        (6400, 2, [2560, 2560, 960, 240, 80]),
    ],
)
def test_a_round_takes_three_quarters_of_what_is_left(
    images: int, slots: int, rounds: list[int]
) -> None:
    assert round_sizes(images, slots, batch_size=32) == rounds


def test_rounds_shrink_from_most_batches_to_least_and_lose_no_image() -> None:
    draw = random.Random(0)
    for _ in range(500):
        images, slots = draw.randint(1, 3_000_000), draw.randint(1, 500)
        rounds = round_sizes(images, slots, batch_size=32)
        assert sum(rounds) == images
        assert min(rounds) >= min(images, 32 * slots)
        assert max(rounds) <= max(40 * 32 * slots, images // MOST_ROUNDS)
        assert all(one >= other for one, other in pairwise(rounds))
        assert len(rounds) < MOST_ROUNDS + 15


def test_a_key_lands_in_its_partition(spark: SparkSession) -> None:
    keys = [(number, _key_of_partition(number)) for number in range(0, 100_000, 7)]
    hashed = spark.createDataFrame(keys, "number int, key int").withColumn("hash", F.hash("key"))
    assert hashed.where("hash <> number").count() == 0


@pytest.mark.parametrize("rounds", [[70], [1000], [4000, 2000, 1000, 900], [1200, 1200, 600]])
def test_tasks_have_the_sizes_of_their_rounds(spark: SparkSession, rounds: list[int]) -> None:
    slots = 3
    image_id = F.sha2(F.col("id").cast("string"), 256).alias("image_id")
    # From one file, as those of a night may come.
    images = spark.range(0, sum(rounds), 1, 1).select(image_id)
    dealt = deal_out(images, rounds, slots, 32)
    assert dealt.rdd.getNumPartitions() == slots * len(rounds)
    counted = dealt.groupBy(F.spark_partition_id().alias("task")).count().collect()
    found = {row["task"]: row["count"] for row in counted}
    assert sum(found.values()) == sum(rounds)
    for task, count in found.items():
        meant = rounds[task // slots] / slots
        # Five standard deviations of chance; a single round is even.
        assert abs(count - meant) <= (5 * meant**0.5 if len(rounds) > 1 else 1)


@pytest.mark.parametrize(("images", "tasks"), [(1, 1), (32, 1), (33, 2), (65, 3), (2000, 63)])
def test_few_images_do_not_have_every_place_load_the_model(
    spark: SparkSession, images: int, tasks: int
) -> None:
    rounds = round_sizes(images, slots=64, batch_size=32)
    dealt = deal_out(spark.range(images).select("id"), rounds, 64, 32)
    assert len(rounds) == 1
    assert dealt.rdd.getNumPartitions() == tasks


def test_a_task_that_is_tried_again_has_the_same_images(spark: SparkSession) -> None:
    images = spark.range(0, 3000, 1, 4).select(F.col("id").cast("string").alias("image_id"))
    same = images.orderBy(F.desc("image_id"))  # read in another order
    at = F.spark_partition_id().alias("task")
    one = deal_out(images, [2000, 1000], 2, 32).select("image_id", at)
    assert one.exceptAll(deal_out(same, [2000, 1000], 2, 32).select("image_id", at)).count() == 0

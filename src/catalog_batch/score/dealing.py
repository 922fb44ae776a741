"""Deal images out to tasks that shrink: few tasks, and every core is busy until the end.

Between two tasks a place loses some 0.1 s, and at the end all wait for the last task. Equal tasks
are too many for the one or too long for the other. So each round of tasks, one for every place,
takes three quarters of what is left: nobody waits for a place that takes a third longer than the
others ("factoring": Hummel, Schonberg and Flynn, Factoring: a method for scheduling parallel loops,
Communications of the ACM 35, 1992).
"""

import math
from itertools import accumulate

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

LEAST_BATCHES, MOST_BATCHES = 1, 40
"""Of a task, but for chance: with less than one most of the model's batches would be small, and
with more much would be lost with a task that fails and is tried again."""

MOST_ROUNDS = 32
"""Of the largest tasks: a night that would need more has larger ones instead."""

_WORD = 2**32
_SPARK_SEED = 42


def round_sizes(images: int, slots: int, batch_size: int) -> list[int]:
    """Return how many images go to each round of ``slots`` tasks."""
    least = LEAST_BATCHES * batch_size * slots
    most = max(MOST_BATCHES * batch_size * slots, images // MOST_ROUNDS)
    sizes, left = list[int](), images
    while left > 2 * least:
        sizes.append(min(most, 3 * left // 4, left - least))
        left -= sizes[-1]
    return [*sizes, left]


def deal_out(images: DataFrame, rounds: list[int], slots: int, batch_size: int) -> DataFrame:
    """Repartition images so that tasks, which start in order, have the sizes of their rounds.

    A hash of ``image_id`` chooses, so sizes are right but for chance, and a task that Spark tries
    again has the same images. Of a single round chance would matter, and all get as many; but there
    are no more tasks than batches, for each worker may have to load the model first.
    """
    if len(rounds) == 1:
        return images.repartition(min(slots, math.ceil(rounds[0] / batch_size)))
    place = F.pmod(F.xxhash64("image_id"), F.lit(sum(rounds)))
    task = F.lit(0)
    for number, (size, end) in enumerate(zip(rounds, accumulate(rounds), strict=True)):
        of_round = F.floor((place - F.lit(end - size)) * slots / size)
        task = F.when(place >= end - size, number * slots + of_round).otherwise(task)
    tasks = slots * len(rounds)
    keys = ", ".join(str(_key_of_partition(number)) for number in range(tasks))
    return images.repartition(tasks, F.get(F.expr(f"array({keys})"), task.cast("int")))


def _key_of_partition(number: int) -> int:
    """Return the integer that Spark's hash partitioning puts into a partition.

    Spark 4.0 has no partitioning by number (4.1 has ``repartitionById``). It takes a key's Murmur3
    hash modulo the partitions, and of one integer that hash can be undone, step by step.
    """
    word = number ^ (number >> 16)
    word = _divide(word, 0xC2B2AE35)
    word ^= (word >> 13) ^ (word >> 26)
    word = _divide(word, 0x85EBCA6B)
    word ^= (word >> 16) ^ 4
    word = _divide(word - 0xE6546B64, 5)
    word = _divide(_rotate_right(word, 13) ^ _SPARK_SEED, 0x1B873593)
    word = _divide(_rotate_right(word, 15), 0xCC9E2D51)
    return word - _WORD if word >= _WORD // 2 else word


def _divide(word: int, by: int) -> int:
    return word * pow(by, -1, _WORD) % _WORD


def _rotate_right(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) % _WORD

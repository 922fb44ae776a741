"""The session's own helpers: steps that go side by side, and the command line's Ctrl-C."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from pyspark.sql import SparkSession
from tests.commands import ROOT

from catalog_batch import spark as spark_module
from catalog_batch.config import SparkSettings
from catalog_batch.spark import (
    build_session,
    cancel_all_jobs,
    configured,
    run_together,
    thread_of_jvm,
    wait_until_idle,
)

PROPERTY = "catalog-batch.test"


def test_spark_submit_is_given_what_a_session_of_our_own_has() -> None:
    lines = (ROOT / "conf" / "spark" / "local.conf").read_text(encoding="utf-8").splitlines()
    given = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert spark_module._LOCAL.items() <= given.items()
    assert given["spark.driver.extraJavaOptions"] == SparkSettings().java_options


def test_a_session_has_other_settings_inside_a_block_alone(spark: SparkSession) -> None:
    known, own = "spark.sql.files.openCostInBytes", "catalog-batch.own"
    before = spark.conf.get(known)
    with pytest.raises(KeyError), configured(spark, {known: 65536, own: "inside"}):
        assert (spark.conf.get(known), spark.conf.get(own)) == ("65536", "inside")
        raise KeyError("of the block")
    assert (spark.conf.get(known), spark.conf.get(own, None)) == (before, None)


def test_results_come_in_the_order_of_the_steps(spark: SparkSession) -> None:
    second_ended = threading.Event()

    def first() -> int:
        assert second_ended.wait(30)
        return spark.range(1).count()

    def second() -> int:
        found = spark.range(2).count()
        second_ended.set()
        return found

    assert run_together(spark, first, second) == [1, 2]


def test_a_step_does_not_see_the_local_properties_of_another(spark: SparkSession) -> None:
    is_set = threading.Event()
    context = spark.sparkContext

    def sets() -> str | None:
        context.setLocalProperty(PROPERTY, "mine")
        is_set.set()
        return context.getLocalProperty(PROPERTY)

    def looks() -> str | None:
        assert is_set.wait(30)
        return context.getLocalProperty(PROPERTY)

    assert run_together(spark, sets, looks) == ["mine", None]


def test_all_steps_end_before_the_first_error_is_raised_and_others_are_logged(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    ended = []

    def slow() -> None:
        time.sleep(0.3)
        ended.append("slow")

    def fails(text: str) -> Callable[[], None]:
        def fail() -> None:
            raise ValueError(text)

        return fail

    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="one"):
        run_together(spark, slow, fails("one"), fails("two"))
    assert ended == ["slow"]
    assert [record.message for record in caplog.records] == ["another step failed too: two"]


def test_a_signal_ends_the_steps_and_their_jobs(spark: SparkSession) -> None:
    finished = []

    def step() -> None:
        begun.set()
        for _ in range(100):
            spark.range(1, numPartitions=1).foreach(lambda _: time.sleep(0.5))
        finished.append("all")

    class StopError(BaseException):
        """Stands for the SystemExit that a signal's handler raises."""

    def interrupt(*_: object) -> None:
        raise StopError

    begun = threading.Event()
    sender = threading.Thread(
        target=lambda: (begun.wait(60), time.sleep(1), os.kill(os.getpid(), signal.SIGUSR1))
    )
    with handled(signal.SIGUSR1, interrupt):
        sender.start()
        with pytest.raises(StopError):
            run_together(spark, step, *[lambda: None] * 2)
    sender.join()
    assert finished == []


def test_a_stop_waits_for_what_the_jvm_still_does_without_tasks(spark: SparkSession) -> None:
    class StopError(BaseException):
        """Stands for the SystemExit that a signal's handler raises."""

    def stop(*_: object) -> None:
        cancel_all_jobs()
        raise StopError

    asked = thread_of_jvm(spark)
    sender = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with handled(signal.SIGUSR1, stop):
        sender.start()
        with pytest.raises(StopError):
            spark._jvm.java.lang.Thread.sleep(3000)  # as a query that is planned for long
    assert asked.isAlive()
    wait_until_idle(spark, asked)
    assert not asked.isAlive()


def test_a_session_that_was_not_stopped_by_a_signal_is_idle(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until_idle(spark, thread_of_jvm(spark))
    assert caplog.records == []


def test_a_session_leaves_the_handler_of_interrupts_that_was_there(spark: SparkSession) -> None:
    with handled(signal.SIGINT, lambda *_: None):
        ours = signal.getsignal(signal.SIGINT)
        build_session(SparkSettings(), "again")
        assert signal.getsignal(signal.SIGINT) is ours


@contextmanager
def handled(number: signal.Signals, handler: Callable[..., object]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)

"""The lanes of the scoring benchmark on a few small pictures: the same answers, not speed."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from benchmarks.commands import Finished
from benchmarks.scoring import bare_loop, compare, growth, spark_usual
from benchmarks.scoring.arithmetic import ARITHMETIC
from benchmarks.scoring.catalogue import Catalogue
from benchmarks.scoring.compare import ScoringRuns
from benchmarks.scoring.lanes import BARE, QUESTIONS, Lane, Question, Size
from benchmarks.scoring.rows import ANSWER, LINEAGE, SCHEMA
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType
from tests.commands import run_command
from tests.score.shop import register

from catalog_batch.modeling.bundle import load_bundle
from catalog_batch.modeling.predictor import Prediction, Predictor
from catalog_batch.score.udf import PREDICTION_DDL
from catalog_batch.tables import IMAGE_PREDICTIONS

COUNT = 70
SIZE = Size(part=100, whole=300, rounds=2)

PUBLISHED = 0.8
"""Part of its time after which a run of ours has published the predictions of images."""

Best = dict[str, str]
"""The best category of each image."""


@pytest.fixture(scope="module")
def photos(make_jpeg: Callable[..., bytes]) -> dict[str, bytes]:
    return {f"image-{number}": make_jpeg(number) for number in range(COUNT)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Path:
    table = tmp_path_factory.mktemp("stored") / "images"
    rows = pa.table({"image_id": list(photos), "content": list(photos.values())})
    write_deltalake(str(table), rows)
    return table


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return register(tmp_path_factory.mktemp("model"), seed=3).bundle_folder


@pytest.fixture(scope="module")
def expected(bundle: Path, photos: dict[str, bytes]) -> dict[str, str]:
    """The best category of each image, by the project's own predictor."""
    results = Predictor(load_bundle(bundle)).predict(list(photos.values()))
    found = [result.top_k[0][0] for result in results if isinstance(result, Prediction)]
    return dict(zip(photos, found, strict=True))


def agreement(found: dict[str, str], expected: dict[str, str]) -> float:
    assert found.keys() == expected.keys()
    return sum(found[image] == best for image, best in expected.items()) / len(expected)


def test_the_bare_loop_answers_for_every_image(
    images: Path, bundle: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    began, rows = bare_loop.score_table(str(images), bundle, tmp_path / "out", "shipped")
    assert began > 0
    assert rows == COUNT
    assert compare.best_categories(tmp_path / "out") == expected


def test_a_lane_that_loses_an_image_has_no_figure(
    photos: dict[str, bytes], bundle: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    catalogue = Catalogue(tmp_path, COUNT)
    catalogue.registry.register("bench", bundle, {})
    rows = pa.table({"image_id": list(photos), "content": list(photos.values())})
    write_deltalake(str(catalogue.images), rows)
    ((run, best),) = compare.run_lanes([BARE], [catalogue])
    assert best == expected
    assert run.status["images"] == COUNT
    assert run.seconds - run.status["seconds"] < run.status[compare.FIRST_ANSWER] < run.seconds
    with pytest.raises(SystemExit, match="bare loop scored 70 of 71 images: no figure"):
        compare.run_lanes([BARE], [Catalogue(tmp_path, COUNT + 1)])


def test_all_lanes_write_what_ours_writes_of_an_image(spark: SparkSession) -> None:
    ours = StructType.fromDDL(PREDICTION_DDL).names
    answers = [name for name in ours if name != "embedding"]
    assert [field.name for field in ANSWER] == answers
    assert StructType.fromDDL(spark_usual.ANSWER_DDL).names == answers
    assert SCHEMA.names == ["image_id", *answers, *LINEAGE]
    assert LINEAGE.keys() < set(IMAGE_PREDICTIONS.columns)


def test_ray_data_answers_for_every_image(
    images: Path, bundle: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    inputs = [str(images), str(bundle), str(output), "shipped"]
    finished = run_command([sys.executable, "-m", "benchmarks.scoring.ray_data", *inputs])
    assert finished.exit_code == 0, finished.errors
    assert finished.status["images"] == COUNT
    assert compare.best_categories(output) == expected


@pytest.mark.parametrize("way", list(spark_usual.WAYS))
def test_the_usual_ways_of_spark_answer_for_every_image(
    spark: SparkSession, images: Path, bundle: Path, expected: dict[str, str], way: str
) -> None:
    rows = spark.read.format("delta").load(str(images))
    answers = spark_usual.WAYS[way](rows, str(bundle)).select("image_id", "answer.*").collect()
    found = {row["image_id"]: row["top_k"][0]["category_id"] for row in answers}
    # Pictures are resized in another way: near ties may fall to the other side.
    assert agreement(found, expected) > 0.9


def test_published_arithmetic_is_another_one_with_nearly_the_same_answers(
    bundle: Path, photos: dict[str, bytes]
) -> None:
    one, other = (
        ARITHMETIC[name](bundle)(list(photos.values())) for name in ("shipped", "published")
    )
    first = [row["top_k"][0]["confidence"] for row in one]
    second = [row["top_k"][0]["confidence"] for row in other]
    assert first != second
    assert first == pytest.approx(second, abs=0.05)


def finished(seconds: float, first: float = 9.0) -> Finished:
    """Return a run at noon: when its first answer came; all were published before the end."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    measures = {"start_up_seconds": first - 1, "published_seconds": seconds * PUBLISHED - 1}
    status = {"started_at": noon.isoformat(), "measures": measures, compare.FIRST_ANSWER: first}
    started_at = noon.timestamp() - 1
    spent = {"driver": seconds / 2}
    return Finished(
        seconds,
        2 * seconds,
        512.0,
        {"driver": 99.0},
        status,
        started_at=started_at,
        cpu_seconds_by_role=spent,
    )


@pytest.fixture(params=QUESTIONS)
def question(request: pytest.FixtureRequest) -> Question:
    return QUESTIONS[request.param]


@pytest.fixture
def found(question: Question) -> dict[str, ScoringRuns]:
    """Give every lane 10 s of start-up and 20 images a second, the bare loop twice that."""
    lanes = {}
    for lane in question.lanes:
        pace = 40 if lane.name == BARE.name else 20
        part, whole = ([finished(10 + count / pace)] * 2 for count in (SIZE.part, SIZE.whole))
        lanes[lane.name] = lanes[lane.night] = ScoringRuns(SIZE, part, whole)
    return lanes


def test_the_steady_state_leaves_start_up_out(
    question: Question, found: dict[str, ScoringRuns]
) -> None:
    bare, other = question.lanes[0], question.lanes[1]
    assert found[other.name].images_per_second == pytest.approx(20)
    assert found[other.name].start_up_seconds == pytest.approx(10)
    assert found[other.name].cpu_ms_per_image == pytest.approx(100)
    assert compare.ratio(found, other, bare) == pytest.approx(0.5)
    noise = ScoringRuns(SIZE, [finished(9)], [finished(8)])
    assert math.isnan(noise.images_per_second)
    slow_start = ScoringRuns(SIZE, [finished(20, 9)], [finished(45, 24)])
    assert slow_start.images_per_second == pytest.approx(20)


def test_in_each_round_a_lane_scores_a_part_then_all_then_the_part_again(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = list[list[tuple[str, int]]]()

    def paced(lanes: Sequence[Lane], of: Sequence[Catalogue]) -> list[tuple[Finished, Best]]:
        scored.append([(lane.name, it.count) for lane, it in zip(lanes, of, strict=True)])
        start_up = 10 if len(scored) > len(question.groups) else 100  # of the warm-up
        return [(finished(start_up + count / 20), {"an image": name}) for name, count in scored[-1]]

    def catalogues_of(
        counts: set[int], data: Path, choices: tuple[tuple[str, ...], ...]
    ) -> dict[int, Catalogue]:
        assert choices == question.variants
        return {count: Catalogue(data, count) for count in counts}

    monkeypatch.setattr(compare, "run_lanes", paced)
    monkeypatch.setattr(compare, "make_catalogues", catalogues_of)
    found = compare.measure_lanes(question, SIZE, tmp_path)

    parts = [[(lane.name, SIZE.part) for lane in group] for group in question.groups]
    wholes = [[(lane.name, lane.images(SIZE)) for lane in group] for group in question.groups]
    one, other = ([part, whole, part] for part, whole in zip(parts, wholes, strict=True))
    assert scored == [*parts, *one, *other, *other, *one]
    for lane in question.lanes:
        runs = found[lane.night if lane in question.own else lane.name]
        assert [run.seconds for run in runs.part] == [10 + SIZE.part / 20] * 4
        assert [run.seconds for run in runs.whole] == [10 + lane.images(SIZE) / 20] * 2
        assert runs.images_per_second == pytest.approx(20)
        assert runs.agreement == (lane is question.lanes[0])
    for lane in question.own:
        assert found[lane.name].images_per_second == pytest.approx(20 / PUBLISHED)


def test_goals_say_what_is_short(question: Question, found: dict[str, ScoringRuns]) -> None:
    lines = [goal.line() for goal in compare.goals_of(question, found)]
    expected = {
        "fp32": "GOAL scoring_fp32_vs_bare 0.50 0.95 short",
        "int8": "GOAL scoring_int8_vs_ray_data 1.00 1.00 ok",
        "usual": "GOAL scoring_first_image_seconds 9.00 15.00 ok",
    }
    assert expected[question.name] in lines
    page = compare.page_of(question, found, "int8: onnx-int8")
    assert page.count("\n| ") == len(question.lanes) + len(question.own) + 2
    assert "catalog-batch" in page.rpartition("first image after 9.0 s")[0]
    assert "CPU ms an image more: driver 25.00." in page
    last = question.lanes[-1]
    assert f"| {last.name} | {last.threads} | 20.0 | 0.50 |" in page
    stored = json.dumps(compare._as_json(last, found[last.name]))
    assert json.loads(stored)["images_per_second"] == 20


def test_engines_are_compared_with_one_model_and_the_usual_ways_with_faster_ones() -> None:
    models = {name: {lane.model for lane in question.lanes} for name, question in QUESTIONS.items()}
    assert models == {
        "fp32": {"as_trained"},
        "int8": {"in_int8"},
        "usual": {"as_trained", "shipped", "whole"},
    }


def test_a_page_has_what_was_tried_and_why_it_was_not_kept() -> None:
    row = {"variant": "onnx-int8", "verdict": "kept", "reason": None, "images_per_second": 76.82}
    kept = {**row, "speed_up": 2.125, "agreement": 0.99518, "accuracy": 0.9976, "accepted": None}
    nothing = dict.fromkeys(kept) | {"variant": "x", "verdict": "not_made", "reason": "no library"}
    page = compare.tried_of([kept, nothing])
    assert "| onnx-int8 | kept | 76.8 | 2.12 | 99.52% | 99.76% | - |  |" in page
    assert "| x | not_made | 0.0 | 0.00 | - | - | - | no library |" in page


def test_answers_are_compared_for_the_images_that_both_lanes_scored() -> None:
    reference = {"a": "bag", "b": "shoe"}
    assert compare.agreement({"a": "bag", "b": "bag", "c": "shoe"}, reference) == 0.5
    with pytest.raises(ValueError, match="no image in common"):
        compare.agreement({"c": "shoe"}, reference)


def test_growth_is_what_an_image_takes_more_in_a_later_step_than_in_an_earlier_one() -> None:
    assert growth.growth([1.2, 0.6, 0.63]) == pytest.approx(1.05)
    assert growth.growth([1.0, 0.8, 1.1]) == pytest.approx(1.375)
    assert growth.growth([1.2, 0.6]) == pytest.approx(0.5)


def test_what_was_run_several_times_counts_by_its_median() -> None:
    few = (finished(9.0), finished(8.0), finished(20.0))
    merges = tuple({"image_predictions": seconds} for seconds in (0.5, 2.0, 0.6))
    small = growth.Nights((finished(30.0), finished(90.0), finished(31.0)), few, merges)
    large = growth.Nights((finished(41.0),), few, merges)
    by_clock, of_core = growth.paces_of({1_000: small, 11_000: large})
    assert by_clock == [pytest.approx(1.0)]
    assert of_core == [pytest.approx(2.0)]
    assert small.few_seconds == 9.0
    assert small.merge_seconds("image_predictions") == 0.6
    assert small.steady_seconds == 22.0


def test_an_image_has_to_cost_as_much_up_to_the_size_that_is_asked_and_a_start_is_no_image() -> (
    None
):
    few, merges = (finished(20.0),), (dict.fromkeys(growth.MERGED, 1.0),)
    seconds = {
        1_000: (30.0, 9.0),
        51_000: (95.0, 24.0),
        100_000: (129.0, 9.0),
        200_000: (249.0, 9.0),
    }
    found = {
        size: growth.Nights((finished(whole, first),), few, merges)
        for size, (whole, first) in seconds.items()
    }
    lines = [goal.line() for goal in growth.goals_of(found, finished(6.0), finished(61.0))]
    assert lines == [
        "GOAL scoring_growth_flat_per_image 1.00 1.15 ok",
        "GOAL scoring_growth_flat_per_image_all_sizes 1.20 1.15 short",
        "GOAL scoring_growth_driver_memory 1.00 1.15 ok",
        "GOAL scoring_growth_of_a_night 1.00 1.50 ok",
        "GOAL scoring_growth_of_merges 1.00 1.50 ok",
        "GOAL scoring_empty_night_seconds 6.00 60.00 ok",
        "GOAL scoring_decided_again_seconds 61.00 60.00 short",
    ]

"""Each lane of the ingest benchmark on a dozen photos: the same rows and columns, not speed."""

import pyarrow as pa
import pytest
from benchmarks.commands import Finished
from benchmarks.ingest.compare import Size, goals_of
from benchmarks.ingest.lanes import BARE, LANES, OURS
from benchmarks.ingest.photos import SMALL, Dataset, encode_photo, make_photos
from benchmarks.measure import Goal, Runs
from deltalake import DeltaTable

pytestmark = pytest.mark.end_to_end
# Facts about the source and the stored image; pixels differ where a lane decodes in full.
COMPARED = ["image_id", "width", "height", "source_format", "source_width", "source_bytes"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_photos(SMALL, 12, tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def stored(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    folder = tmp_path_factory.mktemp("tables")
    for lane in LANES:
        lane.run(photos, folder / lane.name)
    return {
        lane.name: DeltaTable(str(folder / lane.name / lane.table)).to_pyarrow_table()
        for lane in LANES
    }


def test_every_lane_writes_the_same_columns(stored: dict[str, pa.Table]) -> None:
    names = {lane: table.schema.names for lane, table in stored.items()}
    types = {lane: list(map(str, table.schema.types)) for lane, table in stored.items()}
    assert all(columns == names[BARE.name] for columns in names.values())
    assert all(columns == types[BARE.name] for columns in types.values())


def test_every_lane_stores_every_photo_once(stored: dict[str, pa.Table]) -> None:
    facts = {
        lane: table.select(COMPARED).sort_by("image_id").to_pylist()
        for lane, table in stored.items()
    }
    assert len({row["image_id"] for row in facts[BARE.name]}) == 12
    assert all(rows == facts[BARE.name] for rows in facts.values())


def test_a_photo_is_drawn_the_same_again_and_like_no_other(photos: Dataset) -> None:
    contents = [path.read_bytes() for path in photos.files()]
    assert contents[0] == encode_photo(SMALL, 0)
    assert len(set(contents)) == 12
    assert encode_photo(SMALL, 0, revision=1) != contents[0]


def test_the_steady_state_is_what_all_photos_take_more_than_a_part() -> None:
    size = Size(SMALL, part=100, whole=500, rounds=3)
    runs = Runs(size, part=took(11.0, 10.0, 19.0), whole=took(20.0, 12.0, 15.0))
    assert runs.images_per_second == pytest.approx(400 / (15.0 - 11.0))
    assert runs.start_up_seconds == pytest.approx(11.0 - 100 / 100.0)


def test_start_up_that_varies_more_than_the_photos_take_meets_no_goal() -> None:
    size = Size(SMALL, part=100, whole=500, rounds=1)
    found = {
        OURS.name: Runs(size, part=took(30.0), whole=took(29.0)),
        BARE.name: Runs(size, part=took(1.0), whole=took(2.0)),
    }
    assert [goal.is_met for goal in goals_of(size, found)] == [False]


def took(*seconds: float) -> list[Finished]:
    return [Finished(each, 2 * each, 100.0, {}, {}) for each in seconds]


def test_a_goal_says_whether_it_is_met() -> None:
    assert Goal("fast", 0.834, 0.8).line() == "GOAL fast 0.83 0.80 ok"
    assert Goal("small", 70.0, 60.0, at_most=True).line() == "GOAL small 70.00 60.00 short"

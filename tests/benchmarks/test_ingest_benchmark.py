"""Each lane of the ingest benchmark on a dozen photos: the same rows and columns, not speed."""

import pyarrow as pa
import pytest
from benchmarks.ingest.lanes import BARE, LANES
from benchmarks.ingest.measure import Goal
from benchmarks.ingest.photos import SMALL, Dataset, encode_photo, make_photos
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


def test_a_goal_says_whether_it_is_met() -> None:
    assert Goal("fast", 0.834, 0.8).line() == "GOAL fast 0.83 0.80 ok"
    assert Goal("small", 70.0, 60.0, at_most=True).line() == "GOAL small 70.00 60.00 short"

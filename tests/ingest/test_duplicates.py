"""Groups of near duplicates, against a brute force in plain Python; and the views over them."""

import random
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from catalog_batch.ingest import duplicates, joins
from catalog_batch.resources import resource_folder

NEW_DDL = "image_id string, perceptual_hash long"
GROUP_DDL = f"{NEW_DDL}, duplicate_group string"
EDGE_DDL = "node string, lower string"

Images = dict[str, int | None]
Groups = dict[str, str]


def differing_bits(one: int | None, other: int | None) -> float:
    """Count the bits in which two hashes differ; too many when one is missing."""
    if one is None or other is None:
        return float("inf")
    # Of a negative number Python counts the bits of its absolute value.
    return ((one ^ other) % (1 << 64)).bit_count()


def group_by_brute_force(images: Images, distance: int) -> Groups:
    """Compare all pairs, and give each image the lowest image that it can be reached from."""
    group = {image: image for image in images}
    for one, other in combinations(images, 2):
        if differing_bits(images[one], images[other]) <= distance:
            low, high = sorted((group[one], group[other]))
            group = {image: low if name == high else name for image, name in group.items()}
    return group


def draw_images(seed: int, count: int) -> Images:
    """Draw hashes of which many are near an earlier one, some equal to it and some missing."""
    draw = random.Random(seed)
    hashes: list[int | None] = []
    for _ in range(count):
        earlier = [value for value in hashes if value is not None]
        kind = draw.random()
        if kind < 0.1:
            hashes.append(None)
        elif kind < 0.6 and earlier:
            hashes.append(flip(draw.choice(earlier), draw.sample(range(64), draw.randint(0, 6))))
        else:
            hashes.append(signed(draw.getrandbits(64)))
    names = draw.sample([f"{number:04d}" for number in range(count)], count)
    return dict(zip(names, hashes, strict=True))


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def flip(value: int, bits: Iterable[int]) -> int:
    return signed((value % (1 << 64)) ^ sum(1 << bit for bit in bits))


def group_in_increments(spark: SparkSession, parts: list[Images], distance: int) -> Groups:
    """Group part after part, and keep what came out as the table ``image_duplicates`` would."""
    stored: dict[str, tuple[str, int | None, str]] = {}
    for part in parts:
        new = spark.createDataFrame(list(part.items()), NEW_DDL)
        known = spark.createDataFrame(list(stored.values()), GROUP_DDL)
        rows = duplicates.select_duplicate_groups(new, known, distance).collect()
        assert len({row["image_id"] for row in rows}) == len(rows)
        stored |= {row["image_id"]: tuple(row) for row in rows}
    return {image: group for image, _, group in stored.values()}


def groups_of(spark: SparkSession, images: Images, distance: int) -> Groups:
    return group_in_increments(spark, [images], distance)


@pytest.mark.parametrize("distance", [0, 4, 12])
def test_one_batch_equals_the_brute_force(spark: SparkSession, distance: int) -> None:
    images = draw_images(seed=distance, count=150)
    expected = group_by_brute_force(images, distance)
    assert 1 < len(set(expected.values())) < len(images)
    assert groups_of(spark, images, distance) == expected


def test_increments_equal_one_batch(spark: SparkSession) -> None:
    images = list(draw_images(seed=1, count=120).items())
    parts = [dict(images[:70]), dict(images[70:75]), {}, dict(images[75:])]
    found = group_in_increments(spark, parts, distance=4)
    assert found == group_by_brute_force(dict(images), distance=4)


def test_an_image_within_the_distance_joins_and_one_beyond_does_not(spark: SparkSession) -> None:
    near, far = flip(0, [3, 20, 41, 63]), flip(-1, [3, 20, 41, 62, 63])
    found = groups_of(spark, {"a": 0, "b": near, "c": -1, "d": far}, 4)
    assert found == {"a": "a", "b": "a", "c": "c", "d": "d"}


def test_images_without_a_hash_are_alone(spark: SparkSession) -> None:
    assert groups_of(spark, {"a": None, "b": None, "c": 5}, 4) == {"a": "a", "b": "b", "c": "c"}


def test_a_new_image_between_two_groups_makes_them_one(spark: SparkSession) -> None:
    ends = [("b", 0, "b"), ("b2", 0, "b"), ("c", 0b11111111, "c"), ("d", 1 << 40, "b")]
    known = spark.createDataFrame(ends, GROUP_DDL)
    new = spark.createDataFrame([("e", 0b1111)], NEW_DDL)
    found = duplicates.select_duplicate_groups(new, known, 4)
    expected = [("e", 0b1111, "b"), ("c", 0b11111111, "b")]
    assertDataFrameEqual(found, spark.createDataFrame(expected, GROUP_DDL))


def test_a_lower_image_of_a_known_hash_renames_its_group(spark: SparkSession) -> None:
    known = spark.createDataFrame([("b", 7, "b"), ("c", 6, "b"), ("z", None, "z")], GROUP_DDL)
    new = spark.createDataFrame([("a", 7)], NEW_DDL)
    found = duplicates.select_duplicate_groups(new, known, 4)
    expected = [("a", 7, "a"), ("b", 7, "a"), ("c", 6, "a")]
    assertDataFrameEqual(found, spark.createDataFrame(expected, GROUP_DDL))


def test_known_images_are_left_alone_where_nothing_new_is_near(spark: SparkSession) -> None:
    known = spark.createDataFrame([("a", 0, "a"), ("b", 1, "a")], GROUP_DDL)
    new = spark.createDataFrame([("c", -1)], NEW_DDL)
    found = duplicates.select_duplicate_groups(new, known, 4)
    assertDataFrameEqual(found, spark.createDataFrame([("c", -1, "c")], GROUP_DDL))


def test_equal_hashes_are_compared_once(spark: SparkSession) -> None:
    new = spark.range(20_000).selectExpr("cast(id AS string) AS image_id", "7L AS perceptual_hash")
    hashes = duplicates.select_hashes(new, spark.createDataFrame([], GROUP_DDL))
    assert [tuple(row) for row in hashes.collect()] == [(7, "0", None)]


@pytest.mark.parametrize("distance", [1, 4, 12])
def test_near_hashes_agree_in_a_pair_of_blocks_and_in_each_cut_of_it(distance: int) -> None:
    draw = random.Random(distance)
    masks = duplicates.pair_masks(range(64), distance)
    finer = duplicates.finer_masks(masks, distance)
    for _ in range(50):
        differing = flip(0, draw.sample(range(64), distance))
        agreeing = {mask for mask in masks if not mask & differing}
        assert agreeing
        assert agreeing == {mask for mask, cut in finer if not cut & differing}


def test_cutting_large_buckets_loses_no_pair(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    # Alike in all but 16 bits, so that almost every bucket is large.
    draw = random.Random(0)
    values = sorted({draw.getrandbits(16) * (1 << 24) for _ in range(200)})
    hashes = spark.createDataFrame(
        [(value, str(value), None) for value in values],
        "perceptual_hash long, new_image string, known_group string",
    )
    with caplog.at_level("INFO", logger="catalog_batch"):
        found = duplicates.select_near_pairs(hashes, 3, large_bucket=10).collect()
    expected = [pair for pair in combinations(values, 2) if differing_bits(*pair) <= 3]
    assert sorted(tuple(row) for row in found) == expected
    assert "hold more than 10" in caplog.text


def test_many_new_hashes_find_the_same_pairs_as_few(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw_images(seed=5, count=80)
    monkeypatch.setattr(duplicates, "BROADCAST_ROWS", 0)
    monkeypatch.setattr(joins, "BROADCAST_ROWS", 0)
    assert groups_of(spark, images, 4) == group_by_brute_force(images, 4)


def rounds(edges: DataFrame) -> tuple[int, DataFrame]:
    """Return how many rounds it takes until each node knows the lowest one, and the result."""
    count = 0
    while not duplicates.is_star_forest(edges):
        edges = edges.transform(duplicates.with_large_stars).transform(duplicates.with_small_stars)
        edges, count = edges.localCheckpoint(), count + 1
    return count, edges


def test_a_chain_of_60_takes_about_log2_rounds(spark: SparkSession) -> None:
    names = random.Random(3).sample([f"{number:02d}" for number in range(60)], 60)
    chain = [tuple(sorted(pair, reverse=True)) for pair in pairwise(names)]
    count, edges = rounds(spark.createDataFrame(chain, EDGE_DDL))
    assert count <= 6
    assert sorted(tuple(row) for row in edges.collect()) == [
        (f"{number:02d}", "00") for number in range(1, 60)
    ]


def test_pairs_and_stars_need_no_round(spark: SparkSession) -> None:
    stars = [("b", "a"), ("c", "a"), ("e", "d")]
    assert duplicates.is_star_forest(spark.createDataFrame(stars, EDGE_DDL))
    assert duplicates.is_star_forest(spark.createDataFrame([], EDGE_DDL))
    assert not duplicates.is_star_forest(spark.createDataFrame([*stars, ("d", "c")], EDGE_DDL))
    assert not duplicates.is_star_forest(spark.createDataFrame([*stars, ("c", "b")], EDGE_DDL))


def test_a_triangle_takes_one_round(spark: SparkSession) -> None:
    triangle = spark.createDataFrame([("b", "a"), ("c", "a"), ("c", "b")], EDGE_DDL)
    count, edges = rounds(triangle)
    assert count == 1
    assertDataFrameEqual(edges, spark.createDataFrame([("b", "a"), ("c", "a")], EDGE_DDL))


@pytest.fixture(autouse=True, scope="module")
def no_view_stays(spark: SparkSession) -> Iterator[None]:
    """Drop the views named as tables are: other tests of the session mean the tables."""
    yield
    for name in ("image_duplicates", "product_images", "images"):
        spark.catalog.dropTempView(name)


def view(spark: SparkSession, name: str) -> DataFrame:
    text = (resource_folder("schemas") / "views" / f"{name}.sql").read_text("utf-8")
    assert text.startswith("-- ")
    return spark.sql(text)


def test_duplicate_images_are_listed_once_with_their_group(spark: SparkSession) -> None:
    groups = [("a", "a"), ("b", "a"), ("c", "c"), ("d", "a"), ("e", "e"), ("f", "e")]
    spark.createDataFrame(
        groups, "image_id string, duplicate_group string"
    ).createOrReplaceTempView("image_duplicates")
    links = [
        ("p1", "a.jpg", "a", None),
        ("p2", "a.jpg", "a", None),
        ("p2", "b.jpg", "b", None),
        ("p3", "c.jpg", "c", None),
        ("p4", "d.jpg", "d", "2026-01-01"),
        ("p5", "e.jpg", "e", None),
        ("p5", "f.jpg", "f", "2026-01-01"),
    ]
    ddl = "product_id string, source_uri string, image_id string, delisted_at string"
    spark.createDataFrame(links, ddl).createOrReplaceTempView("product_images")
    rows = [tuple(row) for row in view(spark, "duplicate_images").collect()]
    assert sorted(rows) == [("a", "a", "p1", "a.jpg", 2, 2), ("a", "b", "p2", "b.jpg", 2, 2)]


IMAGE_DDL = (
    "image_id string, width int, height int, source_width int, source_height int, "
    "brightness double, contrast double, sharpness double, entropy double, background_share double"
)
FLAGS = {
    "is_dark",
    "is_bright",
    "is_low_contrast",
    "is_blurred",
    "is_low_information",
    "is_odd_shaped",
    "is_plain",
}


def flags_of(spark: SparkSession, *image: object) -> set[str | None]:
    """Return the flags that are raised for an image's sides and measures."""
    row = ("a", 256, 256, *image)
    spark.createDataFrame([row], IMAGE_DDL).createOrReplaceTempView("images")
    found = view(spark, "image_quality_flags").collect()
    return {flag for flag in FLAGS if found[0][flag]}


@pytest.mark.parametrize(
    ("image", "raised"),
    [
        ((800, 600, 0.7, 0.2, 900.0, 6.0, 0.5), set()),
        (
            (800, 200, 0.1, 0.02, 20.0, 6.0, 0.0),
            FLAGS - {"is_bright", "is_low_information", "is_plain"},
        ),
        ((800, 600, 1.0, 0.2, 0.0, 0.0, 1.0), {"is_bright", "is_low_information", "is_plain"}),
    ],
)
def test_flags_are_raised_by_measures(
    spark: SparkSession, image: tuple[object, ...], raised: set[str]
) -> None:
    assert flags_of(spark, *image) == raised


def test_an_image_never_measured_has_no_flags_but_its_shape(spark: SparkSession) -> None:
    row = ("a", 256, 64, 4000, 1000, *[None] * 5)
    spark.createDataFrame([row], IMAGE_DDL).createOrReplaceTempView("images")
    found = view(spark, "image_quality_flags").collect()[0]
    assert found["aspect_ratio"] == 4.0
    assert {flag for flag in FLAGS if found[flag] is None} == FLAGS - {"is_odd_shaped"}

"""Telling a manifest whose columns changed in meaning from one that merely says more."""

import pytest

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.drift import check_drift, describe_changes

BEFORE = {"product_id": "string", "image_uri": "string", "title": "string", "position": "int"}


def without(*names: str) -> dict[str, str]:
    return {name: kind for name, kind in BEFORE.items() if name not in names}


@pytest.mark.parametrize(
    "now",
    [
        BEFORE,
        {**BEFORE, "colour": "string"},
        {**BEFORE, "category": "string"},
        {**BEFORE, "position": "string"},
        {**BEFORE, "title": "int"},
        {**BEFORE, "title": "void"},
    ],
)
def test_more_columns_and_another_format_are_no_drift(now: dict[str, str]) -> None:
    check_drift(BEFORE, now)


def test_a_first_manifest_cannot_drift() -> None:
    check_drift(None, BEFORE)
    assert describe_changes(None, BEFORE) == []


def test_an_unknown_column_may_go_and_change() -> None:
    check_drift({**BEFORE, "brand": "string", "kg": "int"}, {**BEFORE, "kg": "array<int>"})


def test_a_lost_known_column_is_refused_with_the_likely_new_name() -> None:
    now = {**without("title"), "Titel": "string", "colour": "string"}
    with pytest.raises(ManifestError, match="title is gone; was it renamed to 'Titel'") as caught:
        check_drift(BEFORE, now)
    assert str(caught.value).endswith("or pass --accept-columns if this is meant.")
    assert caught.value.exit_code == 20


def test_a_lost_column_without_a_likely_name_is_just_gone() -> None:
    with pytest.raises(ManifestError, match="\n  title is gone\n"):
        check_drift({**BEFORE, "titel": "string"}, {**without("title"), "titel": "string"})


@pytest.mark.parametrize("kind", ["bigint", "double", "array<int>", "struct<a:int>", "binary"])
def test_a_retyped_known_column_is_refused(kind: str) -> None:
    with pytest.raises(ManifestError, match="position was int and is " + kind.split("<")[0]):
        check_drift(BEFORE, {**BEFORE, "position": kind})


def test_all_differences_are_said_at_once() -> None:
    with pytest.raises(ManifestError, match="title is gone\n  position was int and is date"):
        check_drift(BEFORE, {**without("title"), "position": "date"})


@pytest.mark.parametrize(
    ("now", "problem"),
    [({}, "content is gone"), ({"content": "string"}, "content was binary and is string")],
)
def test_images_in_the_manifest_may_not_get_lost(now: dict[str, str], problem: str) -> None:
    with pytest.raises(ManifestError, match=problem):
        check_drift({**BEFORE, "content": "binary"}, {**BEFORE, **now})


def test_a_content_column_of_text_is_an_attribute_like_others() -> None:
    check_drift({**BEFORE, "content": "string"}, BEFORE)


def test_each_change_is_a_line_of_the_log() -> None:
    before = {**BEFORE, "brand": "string"}
    now = {
        **BEFORE,
        "position": "string",
        "category": "string",
        "colour": "string",
        "thumb": "binary",
    }
    assert describe_changes(before, now) == [
        "+ category string",
        "+ colour string (kept as an attribute)",
        "+ thumb binary (left out: bytes)",
        "- brand",
        "~ position int -> string",
    ]

"""What a mapping makes of a small tree."""

from pathlib import Path

import pytest

from catalog_batch.errors import BadInputError
from catalog_batch.migration.mapping import (
    Change,
    Migration,
    is_applied,
    plan_migration,
    read_mapping,
    without_killed_run,
)

TREE = {"Fruit", "Fruit/Apple", "Fruit/Pear", "Milk", "Milk/Oat", "Milk/Soy"}


def plan(mapping: dict[str, tuple[str, ...]], **earlier: tuple[str, ...]) -> Migration:
    return plan_migration(TREE, earlier, mapping)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Home, Garden/Tools,Home/Tools\n", r"Line 2 .* another number of cells.*in quotes"),
        ("Milk\n", r"Line 2 .* another number of cells.*leave the cell"),
        ('Milk,"Drinks\nTea,Hot\n', r"cannot be read: unexpected end of data"),
        ('Milk,"Drinks"s\n', r"cannot be read: ',' expected after '\"'"),
    ],
)
def test_a_comma_or_a_quote_in_the_wrong_place_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "mapping.csv"
    path.write_text(f"old_path,new_path\n{text}", encoding="utf-8")
    with pytest.raises(BadInputError, match=words):
        read_mapping(path)


def test_a_renamed_category_stays_under_its_parent() -> None:
    found = plan({"Fruit/Pear": ("Fruit/Pears",)})
    assert found.tree == TREE - {"Fruit/Pear"} | {"Fruit/Pears"}
    assert found.moves == {"Fruit/Pear": ("Fruit/Pears",)}
    assert found.changes == {"Fruit/Pear": Change.RENAMED}


def test_what_lies_below_a_category_moves_with_it_unless_it_has_a_row() -> None:
    found = plan({"Milk": ("Drinks/Plant",), "Milk/Soy": ("Soy",)})
    assert found.tree == {
        "Fruit",
        "Fruit/Apple",
        "Fruit/Pear",
        "Drinks",
        "Drinks/Plant",
        "Drinks/Plant/Oat",
        "Soy",
    }
    assert found.moves == {
        "Milk": ("Drinks/Plant",),
        "Milk/Oat": ("Drinks/Plant/Oat",),
        "Milk/Soy": ("Soy",),
    }
    assert set(found.changes.values()) == {Change.MOVED}


def test_two_that_become_one_are_merged_also_into_one_that_stays() -> None:
    both = plan({"Milk/Oat": ("Milk/Plant",), "Milk/Soy": ("Milk/Plant",)})
    assert both.changes == {"Milk/Oat": Change.MERGED, "Milk/Soy": Change.MERGED}
    into = plan({"Milk/Oat": ("Milk/Soy",)})
    assert into.tree == TREE - {"Milk/Oat"}
    assert into.changes == {"Milk/Oat": Change.MERGED}


def test_a_split_leaves_open_where_products_belong() -> None:
    found = plan({"Fruit/Apple": ("Fruit/Green", "Fruit/Red")})
    assert found.tree == TREE - {"Fruit/Apple"} | {"Fruit/Green", "Fruit/Red"}
    assert found.moves == {"Fruit/Apple": ("Fruit/Green", "Fruit/Red")}
    assert found.changes == {"Fruit/Apple": Change.SPLIT}


def test_what_lies_below_a_split_is_withdrawn() -> None:
    found = plan({"Milk": ("Plant", "Dairy")})
    assert found.moves == {"Milk": ("Dairy", "Plant"), "Milk/Oat": (), "Milk/Soy": ()}
    assert found.changes["Milk/Oat"] is Change.WITHDRAWN


def test_a_parent_whose_children_have_all_gone_is_withdrawn() -> None:
    found = plan({"Fruit/Apple": ("Food/Apple",), "Fruit/Pear": ()})
    assert found.tree == {"Food", "Food/Apple", "Milk", "Milk/Oat", "Milk/Soy"}
    assert found.moves == {"Fruit": (), "Fruit/Apple": ("Food/Apple",), "Fruit/Pear": ()}


def test_earlier_moves_lead_on_to_where_things_are_now() -> None:
    earlier = {"Apples": ("Fruit/Apple",), "Sundry": ("Fruit/Pear", "Milk/Oat"), "Gone": ()}
    found = plan_migration(TREE, earlier, {"Fruit/Apple": ("Fruit/Pome",)})
    assert found.moves == {
        "Apples": ("Fruit/Pome",),
        "Fruit/Apple": ("Fruit/Pome",),
        "Sundry": ("Fruit/Pear", "Milk/Oat"),
        "Gone": (),
    }


def test_a_split_stays_one_when_a_part_is_withdrawn_and_ends_when_its_parts_are_merged() -> None:
    earlier = {"Sundry": ("Fruit/Pear", "Milk/Oat")}
    kinds = {"Sundry": Change.SPLIT}
    found = plan_migration(TREE, earlier, {"Milk/Oat": ()}, kinds)
    # Some of it was oats, and no pear.
    assert found.moves["Sundry"] == ("Fruit/Pear", "Milk/Oat")
    assert found.changes["Sundry"] is Change.SPLIT
    later = plan_migration(found.tree, found.moves, {"Fruit/Pear": ("Fruit/Pome",)}, found.changes)
    assert later.moves["Sundry"] == ("Fruit/Pome", "Milk/Oat")
    both = plan_migration(TREE, earlier, {"Fruit/Pear": ("Food",), "Milk/Oat": ("Food",)}, kinds)
    assert (both.moves["Sundry"], both.changes["Sundry"]) == (("Food",), Change.MERGED)


def test_what_earlier_mappings_did_keeps_its_kind() -> None:
    merged = plan({"Milk/Oat": ("Milk/Plant",), "Milk/Soy": ("Milk/Plant",)})
    other = plan_migration(
        merged.tree, merged.moves, {"Fruit/Pear": ("Fruit/Pears",)}, merged.changes
    )
    assert other.changes == {**merged.changes, "Fruit/Pear": Change.RENAMED}
    later = plan_migration(other.tree, other.moves, {"Milk/Plant": ("Drinks",)}, other.changes)
    assert later.changes["Milk/Oat"] is later.changes["Milk/Soy"] is Change.MERGED
    assert later.changes["Milk/Plant"] is Change.MOVED


def test_a_category_may_get_its_old_name_back() -> None:
    found = plan_migration(TREE, {"Apples": ("Fruit/Apple",)}, {"Fruit/Apple": ("Apples",)})
    assert found.moves == {"Fruit/Apple": ("Apples",)}


@pytest.mark.parametrize(
    "mapping",
    [
        {"Fruit/Apple": ("Fruit/Pear",), "Fruit/Pear": ("Fruit/Apple",)},
        {"Fruit/Apple": ("Fruit/Apple", "Fruit/Pome")},
        {"Milk/Oat": ("Old",)},
    ],
    ids=["swap", "split that keeps the name", "name of before"],
)
def test_a_name_never_means_something_else(mapping: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(BadInputError, match="give the new category another name"):
        plan(mapping, Old=("Fruit/Pear",))


def test_an_unknown_category_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match=r"'Fruit/Aple'.*Did you mean 'Fruit/Apple'"):
        plan({"Fruit/Aple": ("Fruit/Pome",)})
    with pytest.raises(BadInputError, match=r"'Apples'.*An earlier mapping made it 'Fruit/Apple'"):
        plan({"Apples": ("Fruit/Pome",)}, Apples=("Fruit/Apple",))


def test_a_mapping_that_was_applied_is_known() -> None:
    mapping = {"Fruit/Apple": ("Fruit/Pome",), "Milk": ("Milk",), "Fruit/Pear": ()}
    found = plan(mapping)
    assert is_applied(mapping, found.tree, found.moves)
    assert not is_applied(mapping, TREE, {})
    assert not is_applied({**mapping, "Milk/Oat": ("Milk/Soy",)}, found.tree, found.moves)


@pytest.mark.parametrize("later", [("Fruit/Quince",), ("Fruit/Green", "Fruit/Red"), ()])
def test_a_mapping_is_applied_also_where_a_later_one_went_on_from_it(
    later: tuple[str, ...],
) -> None:
    first = {"Fruit/Apple": ("Fruit/Pome",)}
    then = plan(first)
    now = plan_migration(then.tree, then.moves, {"Fruit/Pome": later})
    assert now.moves["Fruit/Apple"] == later
    assert is_applied(first, now.tree, now.moves)
    assert not is_applied({"Fruit/Apple": ("Fruit/Pear",)}, now.tree, now.moves)


def test_a_mapping_is_applied_also_where_what_it_kept_or_a_part_of_its_split_went_on() -> None:
    first: dict[str, tuple[str, ...]] = {"Fruit/Apple": ("Pome",), "Fruit/Pear": ("Fruit/Pear",)}
    then = plan(first)
    now = plan_migration(then.tree, then.moves, {"Fruit/Pear": ("Pear",)})
    assert is_applied(first, now.tree, now.moves)

    split = {"Fruit/Apple": ("A", "B")}
    now = plan(split)
    for later in ({"A": ("X",)}, {"X": ()}, {"B": ("C",)}):
        now = plan_migration(now.tree, now.moves, later)
        assert is_applied(split, now.tree, now.moves)
    assert now.moves["Fruit/Apple"] == ("C", "X")
    assert not is_applied({"Fruit/Apple": ("C", "Milk/Soy")}, now.tree, now.moves)
    assert not is_applied({"Fruit/Apple": ("C",)}, now.tree, now.moves)


@pytest.mark.parametrize("again", [set(), {"Fruit/Apple", "Nut"}])
def test_a_tree_that_grew_after_a_killed_run_is_as_if_there_had_been_none(again: set[str]) -> None:
    mapping = {"Fruit/Apple": ("Fruit/Pome",), "Milk": ("Drinks",)}
    made = set(plan(mapping).tree)
    trees = {3: TREE - {"Milk/Soy"}, 4: TREE, 5: made, 6: made | again | {"Tea"}}
    assert without_killed_run(trees, {}, mapping) == TREE | again | {"Tea"}
    assert without_killed_run({5: made, 6: made | {"Tea"}}, {}, mapping) is None


def test_a_file_gives_the_new_paths_of_each_old_one(tmp_path: Path) -> None:
    path = tmp_path / "mapping.csv"
    path.write_text(
        "\ufeffold_path,new_path,why\n Fruit / Apple ,Red,a\nFruit/Apple,Green,b\nMilk,,c\n",
        encoding="utf-8",
    )
    assert read_mapping(path) == {"Fruit/Apple": ("Green", "Red"), "Milk": ()}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"not \['old_path', 'new_path'\]"),
        ("old_path;new_path\na;b\n", r"not \['old_path', 'new_path'\]"),
        ("old_path,new_path\n", "has no row"),
        ("old_path,new_path\na,b\n,c\n", "Line 3 .* has no old_path"),
        ("old_path,new_path\na,\xff\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mapping.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadInputError, match=says) as refused:
        read_mapping(path)
    assert "mapping.csv" in str(refused.value)
    with pytest.raises(BadInputError, match=r"missing\.csv"):
        read_mapping(tmp_path / "missing.csv")

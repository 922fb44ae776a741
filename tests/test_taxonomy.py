"""Category paths become a tree."""

from catalog_batch.taxonomy import (
    Category,
    ancestors,
    build_tree,
    category_id,
    inner_nodes,
    normalise_path,
)


def test_a_path_is_trimmed_and_loses_empty_parts() -> None:
    assert normalise_path(" Fruit //Apple / ") == "Fruit/Apple"


def test_a_path_of_nothing_is_none() -> None:
    assert [normalise_path(path) for path in (None, "", " / ", "//")] == [None] * 4


def test_the_identifier_is_the_same_for_ever() -> None:
    assert category_id("Fruit/Apple/Granny-Smith") == "e92085ff38e1ad9c"
    assert category_id("Fruit/Apple") != category_id("fruit/apple")


def test_a_path_has_itself_and_all_above_as_ancestors() -> None:
    assert ancestors("Fruit/Apple/Granny-Smith") == [
        "Fruit",
        "Fruit/Apple",
        "Fruit/Apple/Granny-Smith",
    ]


def test_a_tree_holds_each_named_and_implied_category_once_in_order() -> None:
    tree = build_tree(["Tools", "Fruit/Apple", "Fruit/Pear", "Fruit/Apple"])
    assert [node.path for node in tree] == ["Fruit", "Fruit/Apple", "Fruit/Pear", "Tools"]
    assert tree[1] == Category(
        path="Fruit/Apple",
        category_id=category_id("Fruit/Apple"),
        parent_id=category_id("Fruit"),
        name="Apple",
        level=2,
    )
    assert tree[0].parent_id is None


def test_the_same_name_under_two_parents_is_two_categories() -> None:
    nodes = [node for node in build_tree(["Boys/Shoes", "Girls/Shoes"]) if node.name == "Shoes"]
    assert len({node.category_id for node in nodes}) == 2


def test_inner_nodes_hold_the_places_of_the_paths_below_them_and_of_their_own() -> None:
    paths = ["Fruit/Apple/Fuji", "Fruit", "Milk", "Fruit/Apple/Gala", "Fruit/Pear"]
    assert inner_nodes(paths) == {"Fruit": [0, 1, 3, 4], "Fruit/Apple": [0, 3]}
    assert inner_nodes(["Milk", "Bread"]) == {}

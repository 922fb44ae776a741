"""The tree in the module's docstring is the tree that the code has."""

import re

from catalog_batch import errors
from catalog_batch.errors import CatalogBatchError

DRAWN = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>\w+Error) +(?P<code>\d+) ", re.MULTILINE)


def subclasses(cls: type[CatalogBatchError]) -> list[type[CatalogBatchError]]:
    return [cls, *(below for child in cls.__subclasses__() for below in subclasses(child))]


def test_every_error_is_drawn_with_its_exit_code() -> None:
    drawn = {found["name"]: int(found["code"]) for found in DRAWN.finditer(errors.__doc__ or "")}
    assert drawn == {cls.__name__: cls.exit_code for cls in subclasses(CatalogBatchError)}


def test_every_error_is_drawn_below_its_parent() -> None:
    above: list[str] = []
    for found in DRAWN.finditer(errors.__doc__ or ""):
        depth = (len(found["indent"]) - 4) // 4
        parent = above[depth - 1] if depth else "CatalogBatchError"
        above[depth:] = [found["name"]]
        cls = getattr(errors, found["name"])
        assert depth == 0 or cls.__bases__[0].__name__ == parent


def test_every_error_says_when_it_is_raised() -> None:
    for cls in subclasses(CatalogBatchError)[1:]:
        assert (cls.__doc__ or "").startswith("Raised "), cls.__name__


def test_bad_input_is_a_value_error() -> None:
    assert issubclass(errors.BadInputError, ValueError)

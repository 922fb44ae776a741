"""Folders by a path and by a URL."""

from pathlib import Path

import pytest

from catalog_batch import leases, ledger
from catalog_batch.locations import plain_path


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        ("/data/my shop", "/data/my shop"),
        ("/data/100%20", "/data/100%20"),
        ("shop", "shop"),
        ("s3://shop/my%20data", "s3://shop/my%20data"),
        ("file:///data/my%20shop", "/data/my shop"),
        ("file:///data/my shop", "/data/my shop"),
        ("file:/data/shop", "/data/shop"),
        (Path("/data/a #1 %?").as_uri(), "/data/a #1 %?"),
    ],
)
def test_a_file_url_becomes_its_path_and_all_else_stays(location: str, folder: str) -> None:
    assert plain_path(location) == folder


def test_locks_and_leases_of_a_url_lie_where_the_table_does(tmp_path: Path) -> None:
    root = tmp_path / "my shop"
    assert ledger.lock_folder(root.as_uri()) == root / "_locks"
    assert leases._local_folder(root.as_uri()) == root / "_leases"

"""One night of all that is hostile, through the whole job: each row has the one right outcome."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.ingest import poisoned_paths
from tests.ingest.hostile_images import STORED, hostile_images

from catalog_batch import tables
from catalog_batch.config import IngestSettings
from catalog_batch.ingest.pipeline import Request, ingest_catalogue
from catalog_batch.runs import Run, Status
from catalog_batch.warehouse import Warehouse

Expected = dict[str, frozenset[str]]


def write_hostile_images(root: Path) -> Expected:
    (root / "hostile").mkdir()
    allowed = {}
    for number, image in enumerate(hostile_images()):
        (root / "hostile" / str(number)).write_bytes(image.content)
        allowed[f"hostile/{number}"] = image.expected
    return allowed


def poisoned_locations() -> Expected:
    # What may be read there is a letter or two; a row without any location is a bad one.
    found = {
        uri: "not_an_image" if uri in poisoned_paths.READ else reason
        for uri, reason in poisoned_paths.expected().items()
    }
    return {uri: frozenset({reason}) for uri, reason in found.items() if uri}


def test_every_row_of_a_hostile_night_has_the_outcome_that_is_right_for_it(
    warehouse: Warehouse, tmp_path: Path, make_run: Callable[[str], Run]
) -> None:
    root = poisoned_paths.make_folder(tmp_path)
    allowed = write_hostile_images(root) | poisoned_locations()
    manifest = tmp_path / "manifest.parquet"
    ids = [str(number) for number in range(len(allowed))]
    pq.write_table(pa.table({"product_id": ids, "image_uri": list(allowed)}), manifest)
    run = make_run("ingest")
    request = Request(str(manifest), str(root), date(2026, 1, 1))
    outcomes = ingest_catalogue(warehouse, request, IngestSettings(max_rejected_share=1), run)

    assert (run.status, outcomes.total) == (Status.PUBLISHED, len(allowed))
    columns = ["product_id", "source_uri"]
    stored = warehouse.read(tables.PRODUCT_IMAGES).select(*columns).collect()
    rejected = warehouse.read(tables.REJECTED_IMAGES).select(*columns, "reason").collect()
    found = [(row["source_uri"], STORED) for row in stored]
    found += [(row["source_uri"], row["reason"]) for row in rejected]
    assert sorted(uri for uri, _ in found) == sorted(allowed)
    assert [(uri, outcome) for uri, outcome in found if outcome not in allowed[uri]] == []

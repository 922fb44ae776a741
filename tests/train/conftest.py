"""A small Delta training table of drawn shapes, written the way build-training-set writes it."""

import io
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import WriterProperties, write_deltalake
from PIL import Image, ImageDraw

CLASSES = {
    "bags": ("Bags", (200, 40, 40)),
    "lamps": ("Home > Lamps", (40, 200, 40)),
    "shoes": ("Clothing > Shoes", (40, 40, 200)),
}
ROWS = {"train": 48, "validation": 18, "test": 12}

Row = dict[str, Any]


def draw_jpeg(category: str, index: int, side: int = 48) -> bytes:
    """Draw one product photo: the colour and the shape say the category."""
    image = Image.new("RGB", (side, side), (240 - index % 20, 235, 230))
    box = (6 + index % 5, 8, side - 8, side - 6 - index % 7)
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if category == "lamps" else draw.rectangle
    shape(box, fill=CLASSES[category][1])
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def example_row(split: str, category: str, index: int) -> Row:
    """Build one row of training_examples."""
    return {
        "image_id": f"{split}-{category}-{index:04d}",
        "product_id": f"p{index}",
        "content": draw_jpeg(category, index),
        "title": f"{category} {index}",
        "description": "",
        "category_id": category,
        "category_path": CLASSES[category][0],
        "group_id": f"g{index}",
        "taxonomy_version": 1,
        "split": split,
    }


def example_rows(rows: dict[str, int] | None = None) -> list[Row]:
    """Build the rows of every split, categories in turn."""
    names = list(CLASSES)
    return [
        example_row(split, names[index % len(names)], index)
        for split, count in (rows or ROWS).items()
        for index in range(count)
    ]


def write_training_table(
    folder: Path, rows: Sequence[Row] | None = None, rows_per_group: int = 5
) -> Path:
    """Write, or overwrite as a new version, the training table in a warehouse folder."""
    table = pa.Table.from_pylist(list(example_rows() if rows is None else rows))
    taxonomy = table.schema.get_field_index("taxonomy_version")
    table = table.set_column(taxonomy, "taxonomy_version", table.column(taxonomy).cast(pa.int32()))
    write_deltalake(
        str(folder),
        table,
        mode="overwrite",
        partition_by=["split"],
        writer_properties=WriterProperties(max_row_group_size=rows_per_group),
    )
    return folder


WriteTable = Callable[..., Path]
MakeRows = Callable[..., list[Row]]


@pytest.fixture(scope="session")
def write_table() -> WriteTable:
    """Return ``write_training_table``."""
    return write_training_table


@pytest.fixture(scope="session")
def make_rows() -> MakeRows:
    """Return ``example_rows``."""
    return example_rows


@pytest.fixture
def training_table(tmp_path: Path) -> Path:
    """Write the default training table and return its folder."""
    return write_training_table(tmp_path / "training_examples")


def marker_pickle(marker: Path) -> bytes:
    """Pickle what creates the folder ``marker`` when it is loaded."""
    return f"cos\nmkdir\n(V{marker}\ntR.".encode()


@pytest.fixture(scope="session")
def make_pickle() -> Callable[[Path], bytes]:
    """Return ``marker_pickle``, after checking that its pickles do run."""
    with tempfile.TemporaryDirectory() as folder:
        pickle.loads(marker_pickle(Path(folder) / "marker"))
        assert (Path(folder) / "marker").exists()
    return marker_pickle


@pytest.fixture(scope="session")
def plant(make_pickle: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    """Return what puts a stray Parquet file and a poisoned ``_common_metadata`` in a table."""

    def plant_in(table: Path, marker: Path) -> None:
        stray = pa.Table.from_pylist([example_row("train", "bags", 900 + i) for i in range(7)])
        pq.write_table(stray.drop_columns(["split"]), table / "split=train" / "stray.parquet")
        poisoned = pa.schema([], {b"dataset-toolkit.unischema.v1": make_pickle(marker)})
        for name in ("_common_metadata", "split=train/_common_metadata"):
            pq.write_metadata(poisoned, table / name)

    return plant_in


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a start of Ray an error that no test takes for a refusal."""

    def start(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", start)

"""Manifests: opening one with Spark, and the columns it must and may have."""

from dataclasses import dataclass

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyarrow import fs
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.drift import (
    CONTENT_COLUMN,
    KNOWN_COLUMNS,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    is_scalar,
)
from catalog_batch.ingest.manifest_text import (
    DEFECT_COLUMN,
    LINE_COLUMN,
    TEXT_SUFFIXES,
    column_name,
    locate,
    parse_text_manifest,
    suffix_of,
)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Manifest:
    """An opened manifest.

    Attributes:
        frame: One row an image: the known columns as strings (null where the manifest has none),
            ``attributes`` (a map of all other columns, without those of bytes), ``defect`` (what
            is wrong with the row's text, or null), and ``content_file`` and ``content_row``: the
            Parquet file, and the row in it from 0, that hold the image in a column ``content``.
            Both are null where images are files. A local file is a plain path, others are URIs
            without escapes.
        columns: The manifest's own columns with their Spark types.
        absent: The optional columns, and ``attributes``, that it says nothing about.
    """

    frame: DataFrame
    columns: dict[str, str]
    absent: list[str]


@dataclass(frozen=True)
class _Source:
    """A frame as read, and which column of it is which column of the manifest."""

    frame: DataFrame
    columns: dict[str, Column]
    types: dict[str, str]
    defect: Column

    @property
    def is_inline(self) -> bool:
        return self.types.get(CONTENT_COLUMN) == "binary"

    @property
    def others(self) -> list[str]:
        """Columns that become attributes: bytes are no text to keep."""
        return [
            name
            for name, kind in self.types.items()
            if name not in KNOWN_COLUMNS and kind != "binary"
        ]


def open_manifest(spark: SparkSession, uri: str, staging: str) -> Manifest:
    """Open a CSV, JSON Lines, Parquet or Delta manifest.

    Args:
        spark: The session that reads it.
        uri: A text file, a Parquet file or folder, or the folder of a Delta table.
        staging: Folder of this run; a text manifest is parsed into ``manifest`` in it.

    Raises:
        ManifestError: When it is missing, empty, damaged, of another kind, lacks a required
            column, or has bytes or nested values in a known one.
    """
    try:
        source = _read(spark, uri, staging)
        _check_columns(uri, source.types)
        return Manifest(_select_columns(source), source.types, _absent(source))
    except PySparkException as error:
        raise ManifestError(
            f"Manifest {uri!r} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    except Py4JJavaError as error:
        # Reading a Parquet footer fails so: a task's error, not an analysis's.
        raise ManifestError(f"Manifest {uri!r} is damaged, or no Parquet.") from error


def check_splits(manifest: DataFrame) -> None:
    """Refuse a manifest whose ``split`` column holds names that mean nothing to us.

    A row with a ``defect`` is not asked: its cells may stand in the wrong columns.

    Raises:
        ManifestError: Naming up to five such values.
    """
    sound = manifest.where(F.col("defect").isNull()) if "defect" in manifest.columns else manifest
    unknown = [
        row["split"]
        for row in sound.where((F.trim("split") != "") & _known_split().isNull())
        .select("split")
        .distinct()
        .limit(5)
        .collect()
    ]
    if unknown:
        raise ManifestError(
            f"The manifest's split column holds {sorted(unknown)}. "
            f"Use one of {sorted(SPLIT_NAMES)}, or leave it empty."
        )


def with_given_split(manifest: DataFrame) -> DataFrame:
    """Replace ``split`` by ``given_split``: train, validation, test or null."""
    return manifest.withColumn("given_split", _known_split()).drop("split")


def _known_split() -> Column:
    names = F.create_map(*[F.lit(text) for pair in SPLIT_NAMES.items() for text in pair])
    return names[F.lower(F.trim("split"))]


def _read(spark: SparkSession, uri: str, staging: str) -> _Source:
    if _is_delta(uri):
        return _read_delta(spark, uri)
    suffix = suffix_of(uri)
    if suffix in TEXT_SUFFIXES:
        return _read_text(spark, uri, f"{staging.rstrip('/')}/manifest")
    if suffix == ".parquet":
        # Spark would take the columns of one file for those of all.
        return _typed(spark.read.option("mergeSchema", "true").parquet(uri))
    kinds = sorted([*TEXT_SUFFIXES, ".parquet"])
    raise ManifestError(f"Manifest {uri!r} is not one of {kinds}, and no Delta table.")


def _is_delta(uri: str) -> bool:
    files, path = locate(uri)
    found = files.get_file_info(f"{path.rstrip('/')}/_delta_log").type
    return bool(found == fs.FileType.Directory)


def _read_text(spark: SparkSession, uri: str, target: str) -> _Source:
    parsed = parse_text_manifest(uri, target)
    # The first files of JSON Lines lack the columns that came later.
    names = [column_name(index) for index in range(len(parsed.columns))]
    fields = [f"{name} string" for name in [*names, DEFECT_COLUMN]]
    frame = spark.read.schema(", ".join([*fields, f"{LINE_COLUMN} bigint"])).parquet(target)
    columns = {name: F.col(stored) for name, stored in zip(parsed.columns, names, strict=True)}
    return _Source(frame, columns, dict.fromkeys(columns, "string"), F.col(DEFECT_COLUMN))


def _typed(frame: DataFrame) -> _Source:
    columns = {name: F.col(f"`{name.replace('`', '``')}`") for name in frame.columns}
    return _Source(frame, columns, dict(frame.dtypes), F.lit(None).cast("string"))


def _read_delta(spark: SparkSession, uri: str) -> _Source:
    # One version for all that is read of it: a supplier may write meanwhile.
    newest = DeltaTable.forPath(spark, uri).history(1).select("version").first()
    assert newest is not None  # A Delta table has a first version.
    table = spark.read.format("delta").option("versionAsOf", newest["version"]).load(uri)
    source = _typed(table)
    return _typed(_live_files(spark, uri, table)) if source.is_inline else source


def _live_files(spark: SparkSession, uri: str, table: DataFrame) -> DataFrame:
    """Return a Delta table's files as Parquet: Delta 4.0 does not tell a row's index in its file.

    Raises:
        ManifestError: When the files alone do not say what the table holds.
    """
    detail = DeltaTable.forPath(spark, uri).detail().first()
    properties = detail["properties"] if detail else {}
    is_mapped = properties.get("delta.columnMapping.mode", "none") != "none"
    if is_mapped or (detail and detail["partitionColumns"]):
        raise ManifestError(
            f"Manifest {uri!r} holds images in a Delta table with column mapping or partitions. "
            "Write it without them, or as Parquet."
        )
    paths = table.inputFiles()
    if not paths:
        return table.sparkSession.createDataFrame([], table.schema)
    files = spark.read.schema(table.schema).parquet(*paths)
    if files.count() != table.count():
        raise ManifestError(
            f"Manifest {uri!r} holds images in a Delta table with deletion vectors. "
            f"Run REORG TABLE delta.`{uri}` APPLY (PURGE), or write it as Parquet."
        )
    return files


def _check_columns(uri: str, types: dict[str, str]) -> None:
    if not types:
        raise ManifestError(f"Manifest {uri!r} is empty.")
    missing = [name for name in REQUIRED_COLUMNS if name not in types]
    if missing:
        raise ManifestError(
            f"Manifest {uri!r} lacks the required columns {missing}; it has {list(types)}. "
            f"Required: {list(REQUIRED_COLUMNS)}. Known: {list(OPTIONAL_COLUMNS)}."
        )
    unreadable = {
        name: types[name] for name in KNOWN_COLUMNS if name in types and not is_scalar(types[name])
    }
    if unreadable:
        raise ManifestError(
            f"Manifest {uri!r} has bytes or nested values in {unreadable}. Write them as text."
        )


def _absent(source: _Source) -> list[str]:
    absent = [name for name in OPTIONAL_COLUMNS if name not in source.types]
    return absent if source.others else [*absent, "attributes"]


def _select_columns(source: _Source) -> DataFrame:
    no_text = F.lit(None).cast("string")
    known = [source.columns.get(name, no_text).cast("string").alias(name) for name in KNOWN_COLUMNS]
    attributes = _attributes({name: source.columns[name] for name in source.others})
    return source.frame.select(
        *known,
        attributes.alias("attributes"),
        source.defect.alias("defect"),
        *_content_place(source),
    )


def _attributes(columns: dict[str, Column]) -> Column:
    if not columns:
        return F.create_map().cast("map<string,string>")
    pairs = [
        part for name, column in columns.items() for part in (F.lit(name), column.cast("string"))
    ]
    return F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())


def _content_place(source: _Source) -> tuple[Column, Column]:
    """Return ``content_file`` and ``content_row``: where to read the image, which is left there."""
    file, row = F.lit(None).cast("string"), F.lit(None).cast("bigint")
    if source.is_inline and source.frame.inputFiles():
        # Not by its name: a manifest may have a column of that name.
        place = source.frame.metadataColumn("_metadata")
        file, row = _readable_path(place.getField("file_path")), place.getField("row_index")
    return file.alias("content_file"), row.alias("content_row")


def _readable_path(uri: Column) -> Column:
    """Undo the escapes of ``_metadata.file_path``; a plus is no space there."""
    plain = F.url_decode(F.replace(uri, F.lit("+"), F.lit("%2B")))
    return F.regexp_replace(plain, "^file:/+", "/")

"""Manifests: reading one with Spark, and the columns it must and may have."""

from pathlib import PurePosixPath

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from catalog_batch.errors import ManifestError
from catalog_batch.ingest.csv_check import check_csv

REQUIRED_COLUMNS = ("product_id", "image_uri")
OPTIONAL_COLUMNS = ("category", "title", "description", "position", "split", "sha256")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_FORMATS = {
    ".csv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}


def read_manifest(spark: SparkSession, uri: str) -> DataFrame:
    """Read a CSV, JSON Lines or Parquet manifest, one row an image.

    Returns:
        The named columns as strings (null where the manifest lacks them), and ``attributes``, a map
        of every other column.

    Raises:
        ManifestError: When the file is missing, empty, of another kind, or lacks a required column.
    """
    manifest = _read_file(spark, uri)
    missing = [name for name in REQUIRED_COLUMNS if name not in manifest.columns]
    if missing:
        raise ManifestError(
            f"Manifest {uri!r} lacks the required columns {missing}; it has {manifest.columns}. "
            f"Required: {list(REQUIRED_COLUMNS)}. Known: {list(OPTIONAL_COLUMNS)}."
        )
    return manifest.transform(_select_known_columns)


def absent_columns(spark: SparkSession, uri: str) -> list[str]:
    """Return the optional columns, and ``attributes``, that a manifest says nothing about."""
    named = _read_file(spark, uri).columns
    known = {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    has_others = any(name not in known for name in named)
    absent = [name for name in OPTIONAL_COLUMNS if name not in named]
    return absent if has_others else [*absent, "attributes"]


def check_splits(manifest: DataFrame) -> None:
    """Refuse a manifest whose ``split`` column holds names that mean nothing to us.

    Raises:
        ManifestError: Naming up to five such values.
    """
    unknown = [
        row["split"]
        for row in manifest.where((F.trim("split") != "") & _known_split().isNull())
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


def _read_file(spark: SparkSession, uri: str) -> DataFrame:
    kind = _FORMATS.get(PurePosixPath(uri).suffix.lower())
    if kind is None:
        raise ManifestError(f"Manifest {uri!r} is not one of {sorted(_FORMATS)}.")
    try:
        if kind == "csv":
            check_csv(uri)
            # Descriptions hold line breaks and doubled quotes, as RFC 4180 allows.
            manifest = spark.read.csv(uri, header=True, multiLine=True, escape='"', quote='"')
        elif kind == "json":
            manifest = spark.read.json(uri, primitivesAsString=True)
        else:
            manifest = spark.read.parquet(uri)
    except PySparkException as error:
        raise ManifestError(
            f"Manifest {uri!r} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    except Py4JJavaError as error:
        # Reading a Parquet footer fails so: a task's error, not an analysis's.
        raise ManifestError(f"Manifest {uri!r} is damaged, or no {kind} file.") from error
    if not manifest.columns:
        raise ManifestError(f"Manifest {uri!r} is empty.")
    return manifest


def _select_known_columns(manifest: DataFrame) -> DataFrame:
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    others = [name for name in manifest.columns if name not in known]
    columns = [
        F.col(f"`{name}`").cast("string").alias(name)
        if name in manifest.columns
        else F.lit(None).cast("string").alias(name)
        for name in known
    ]
    return manifest.select(*columns, _attributes(others).alias("attributes"))


def _attributes(names: list[str]) -> Column:
    if not names:
        return F.create_map().cast("map<string,string>")
    pairs = [part for name in names for part in (F.lit(name), _as_text(name))]
    return F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())


def _as_text(name: str) -> Column:
    return F.col(f"`{name.replace('`', '``')}`").cast("string")

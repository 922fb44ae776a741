"""The usual Spark way to ingest images: ``binaryFile``, a pandas UDF, a Delta table.

    python -m benchmarks.ingest.spark_usual manifest.csv images/ OUT

As tutorials have it: Spark lists and reads the files, their bytes go to the UDF and the stored
images come back through Arrow, every photo is decoded in full. The session is the project's own:
two threads, and 64 rows an Arrow batch: 10,000, the default, would not fit in memory here.
It writes the table of images alone, and a bad file ends it. The manifest is not read.
"""

import io
import json
import sys
import time
from dataclasses import asdict
from typing import Any

import pandas as pd
from PIL import Image
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import SparkSettings
from catalog_batch.ingest.quality import measure
from catalog_batch.spark import build_session

SIDE = 256
QUALITY = 90
IMAGE_DDL = (
    "content binary, width int, height int, source_format string, source_width int, "
    "source_height int, is_animated boolean, perceptual_hash bigint, brightness double, "
    "contrast double, sharpness double, entropy double, background_share double"
)


def stored_image(content: bytes) -> dict[str, Any]:
    """Decode an image in full, shrink its short side to 256 pixels, encode and measure it."""
    with Image.open(io.BytesIO(content)) as source:
        picture = source.convert("RGB")
        source_format, source_size = source.format, source.size
        is_animated = getattr(source, "is_animated", False)
    scale = SIDE / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=QUALITY)
    return {
        "content": encoded.getvalue(),
        "width": picture.width,
        "height": picture.height,
        "source_format": source_format,
        "source_width": source_size[0],
        "source_height": source_size[1],
        "is_animated": is_animated,
        **asdict(measure(picture)),
    }


def with_stored_image(files: DataFrame) -> DataFrame:
    """Add ``image``, a struct of ``IMAGE_DDL``."""

    @F.pandas_udf(IMAGE_DDL)  # type: ignore[call-overload]
    def stored_images(contents: pd.Series) -> pd.DataFrame:
        return pd.DataFrame([stored_image(content) for content in contents])

    image: Column = stored_images("content")
    return files.withColumn("image", image)


def select_images(files: DataFrame) -> DataFrame:
    """Return the columns of the table ``images``."""
    return files.select(
        F.sha2("content", 256).alias("image_id"),
        "image.*",
        F.col("length").alias("source_bytes"),
        F.current_timestamp().alias("ingested_at"),
        F.lit("spark-usual").alias("run_id"),
    ).select(*tables.IMAGES.columns)


def main(_manifest: str, images: str, output: str) -> None:
    started = time.monotonic()
    spark = build_session(SparkSettings(master="local[2]"), "benchmark: the usual Spark way")
    opened = time.monotonic()
    files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(images)
    files.transform(with_stored_image).transform(select_images).write.format("delta").save(output)
    status = {
        "images": spark.read.format("delta").load(output).count(),
        "seconds": round(time.monotonic() - started, 3),
        "start_up_seconds": round(opened - started, 3),
    }
    spark.stop()
    print(json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])

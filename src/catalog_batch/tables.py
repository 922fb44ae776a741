"""The tables and views of the warehouse: names, keys and columns, as ``schemas/`` has them."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from pyspark.sql.types import StructType

from catalog_batch.resources import resource_folder


@dataclass(frozen=True)
class Table:
    """A table by name, with its key and the columns that do not count as a change."""

    name: str
    key: tuple[str, ...]
    stamps: tuple[str, ...] = ("run_id",)
    """Columns that say when and by whom; a row that differs in these alone is left as it is."""
    kept: tuple[str, ...] = ()
    """Columns whose first value stays when the row is updated."""
    written_at: str | None = None
    """Column, one of those that Delta keeps the range of in each file, with the time at which the
    run began that wrote the row last: by it a MERGE finds the files to read."""

    @cached_property
    def ddl(self) -> str:
        """The text of ``schemas/tables/<name>.sql``."""
        path = resource_folder("schemas") / "tables" / f"{self.name}.sql"
        return path.read_text(encoding="utf-8")

    @cached_property
    def schema(self) -> StructType:
        """The columns as the DDL declares them; needs an active Spark context."""
        columns = self.ddl.split("(\n", 1)[1].split("\n) USING DELTA", 1)[0]
        return cast(StructType, StructType.fromDDL(columns))

    @property
    def columns(self) -> list[str]:
        """Column names in the order of the DDL."""
        return self.schema.fieldNames()


PRODUCTS = Table("products", ("product_id",), stamps=("updated_at", "run_id"))
PRODUCT_IMAGES = Table(
    "product_images", ("product_id", "source_uri"), stamps=("updated_at", "run_id")
)
IMAGES = Table("images", ("image_id",), stamps=("ingested_at", "run_id"))
REJECTED_IMAGES = Table(
    "rejected_images",
    ("product_id", "source_uri"),
    stamps=("last_seen_at", "run_id"),
    kept=("first_seen_at",),
)
IMAGE_DUPLICATES = Table("image_duplicates", ("image_id",), stamps=("grouped_at", "run_id"))
MANIFESTS = Table("manifests", ("night", "uri"), stamps=("accepted_at", "run_id"))
CATEGORIES = Table("categories", ("taxonomy_version", "category_id"), stamps=())
TAXONOMY_CHANGES = Table("taxonomy_changes", ("taxonomy_version", "old_category_id"))
LABELS = Table("labels", ("product_id", "source"), stamps=("labelled_at", "run_id"))
TRAINING_EXAMPLES = Table("training_examples", ("image_id", "product_id"), stamps=())
IMAGE_PREDICTIONS = Table(
    "image_predictions", ("image_id", "model_name", "model_version"), stamps=("scored_at", "run_id")
)
IMAGE_EMBEDDINGS = Table("image_embeddings", IMAGE_PREDICTIONS.key, IMAGE_PREDICTIONS.stamps)
PRODUCT_PREDICTIONS = Table(
    "product_predictions",
    ("product_id",),
    stamps=("predicted_at", "run_id", "images_version"),
    written_at="predicted_at",
)
SHADOW_PREDICTIONS = Table(
    "shadow_predictions",
    ("product_id", "model_name", "model_version"),
    stamps=PRODUCT_PREDICTIONS.stamps,
    written_at=PRODUCT_PREDICTIONS.written_at,
)
MODELS = Table("models", ("model_name", "version"), stamps=("registered_at", "run_id"))
_EVALUATED = ("model_name", "model_version", "split")
EVALUATION_METRICS = Table("evaluation_metrics", (*_EVALUATED, "name"))
CLASS_METRICS = Table("class_metrics", (*_EVALUATED, "category_id"))
CONFUSION_MATRIX = Table(
    "confusion_matrix", (*_EVALUATED, "true_category_id", "predicted_category_id")
)
THRESHOLD_CURVE = Table("threshold_curve", (*_EVALUATED, "threshold"))
CALIBRATION_BINS = Table("calibration_bins", (*_EVALUATED, "is_calibrated", "low"))
MODEL_VARIANTS = Table("model_variants", ("run_id", "variant"), stamps=())
PROMOTIONS = Table("promotions", ("run_id",), stamps=())
RUN_LOG = Table("run_log", ("run_id",), stamps=())

ALL_TABLES = (
    PRODUCTS,
    PRODUCT_IMAGES,
    IMAGES,
    REJECTED_IMAGES,
    IMAGE_DUPLICATES,
    MANIFESTS,
    CATEGORIES,
    TAXONOMY_CHANGES,
    LABELS,
    TRAINING_EXAMPLES,
    IMAGE_PREDICTIONS,
    IMAGE_EMBEDDINGS,
    PRODUCT_PREDICTIONS,
    SHADOW_PREDICTIONS,
    MODELS,
    EVALUATION_METRICS,
    CLASS_METRICS,
    CONFUSION_MATRIX,
    THRESHOLD_CURVE,
    CALIBRATION_BINS,
    MODEL_VARIANTS,
    PROMOTIONS,
    RUN_LOG,
)
VIEWS = (
    "current_predictions",
    "category_counts",
    "review_queue",
    "challenger_changes",
    "predictions_to_rescore",
    "rejections_by_reason",
    "nightly_runs",
    "duplicate_images",
    "image_quality_flags",
)

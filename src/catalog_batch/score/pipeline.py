"""Score: images without a prediction by this model get one, then products get their decision."""

import math
import time
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import ScoreSettings
from catalog_batch.errors import ReconciliationError
from catalog_batch.modeling.bundle import BundleSpec
from catalog_batch.registry import ModelVersion
from catalog_batch.runs import Run, Status
from catalog_batch.score import transforms
from catalog_batch.score.udf import prediction_udf, shipped_bundle
from catalog_batch.spark import spark_progress
from catalog_batch.taxonomy import ancestors, category_id, inner_nodes
from catalog_batch.warehouse import Warehouse, cached

JOB = "score"


@dataclass(frozen=True)
class ScoreSummary:
    """Images scored by this run, and products by decision."""

    images_scored: int
    images_failed: int
    products_changed: int
    decisions: dict[str, int]


def score_catalogue(
    warehouse: Warehouse,
    model: ModelVersion,
    spec: BundleSpec,
    settings: ScoreSettings,
    run: Run,
) -> ScoreSummary:
    """Predict a category for every listed product, scoring only images new to this model.

    A delisted product keeps the prediction that it had.

    Args:
        warehouse: With the tables that ingest wrote.
        model: Resolved in the registry, its bundle checked.
        spec: Of that bundle.
        settings: Top-k, threshold and sizes.
        run: Filled in with rows, decisions and rate.

    Raises:
        MissingTableError: When nothing was ingested yet.
        ReconciliationError: When the model was not called once for each image.
    """
    images_version = warehouse.version(tables.IMAGES)
    warehouse.create(tables.IMAGE_PREDICTIONS, tables.PRODUCT_PREDICTIONS)
    warehouse.clear_staging(JOB)
    with warehouse.stamped(run_id=run.run_id, job=JOB):
        scored, failed = _score_images(warehouse, model, settings, run, images_version)
        products_changed = _decide_products(warehouse, model, spec, settings, run, images_version)
    decisions = _count_decisions(warehouse)
    run.rows_out = products_changed
    run.counts = {"images_scored": scored, "images_failed": failed, **decisions}
    run.table_versions = {tables.IMAGES.name: images_version}
    run.details = {"model": f"{model.model_name}/{model.version}"}
    run.finish(Status.PUBLISHED if scored or products_changed else Status.NOTHING_TO_DO)
    return ScoreSummary(scored, failed, products_changed, decisions)


def _score_images(
    warehouse: Warehouse, model: ModelVersion, settings: ScoreSettings, run: Run, version: int
) -> tuple[int, int]:
    """Run the model over unscored images; return how many were scored and how many failed."""
    images = warehouse.read(tables.IMAGES, version)
    known = _predictions(warehouse, model)
    links = warehouse.read(tables.PRODUCT_IMAGES).transform(transforms.keep_listed)
    with cached(transforms.select_unscored(images, links, known)) as unscored:
        run.rows_in = pending = unscored.count()
        if not pending:
            return 0, 0
        started = time.monotonic()
        with (
            shipped_bundle(warehouse.spark, model.bundle_folder) as bundle,
            spark_progress(warehouse.spark, f"scoring {pending:,} images"),
            warehouse.staged(
                _predicted(_content_of(images, unscored), bundle, model, settings, run),
                run.run_id,
            ) as staged,
        ):
            run.images_per_second = round(pending / (time.monotonic() - started), 2)
            failed = _check_calls(staged, pending)
            warehouse.insert_new(staged, tables.IMAGE_PREDICTIONS)
    return pending, failed


def _content_of(images: DataFrame, wanted: DataFrame) -> DataFrame:
    return images.select("image_id", "content").join(F.broadcast(wanted), "image_id", "left_semi")


def _predicted(
    images: DataFrame,
    bundle: str,
    model: ModelVersion,
    settings: ScoreSettings,
    run: Run,
) -> DataFrame:
    predict = prediction_udf(bundle, settings.top_k, settings.batch_size)
    return (
        images.transform(_spread)
        .select("image_id", predict("content").alias("prediction"))
        .select(
            "image_id",
            "prediction.*",
            F.lit(model.model_name).alias("model_name"),
            F.lit(model.version).alias("model_version"),
            F.lit(run.started_at).alias("scored_at"),
            F.lit(run.run_id).alias("run_id"),
        )
    )


def _spread(images: DataFrame) -> DataFrame:
    """Give every core work when a table is too small for Spark to split its files."""
    cores = images.sparkSession.sparkContext.defaultParallelism
    if images.rdd.getNumPartitions() >= cores:
        return images
    return images.repartition(cores)


def _check_calls(staged: DataFrame, pending: int) -> int:
    """Return how many images failed, after making sure that each has just one row."""
    counted = staged.agg(
        F.count("*").alias("rows"),
        F.count_distinct("image_id").alias("images"),
        F.count("failure").alias("failed"),
    ).collect()[0]
    if not counted["rows"] == counted["images"] == pending:
        raise ReconciliationError(
            f"{pending} images were to be scored, but {counted['rows']} rows for "
            f"{counted['images']} images came back. Nothing was published. Run again; if it "
            "repeats, report it as a bug."
        )
    return int(counted["failed"])


def _decide_products(
    warehouse: Warehouse,
    model: ModelVersion,
    spec: BundleSpec,
    settings: ScoreSettings,
    run: Run,
    images_version: int,
) -> int:
    classes = [label.path for label in spec.classes]
    paths = {category_id(node): node for node in inner_nodes(classes)}
    paths |= {label.category_id: label.path for label in spec.classes}
    lineage = {
        "model_name": model.model_name,
        "model_version": model.version,
        "taxonomy_version": spec.taxonomy_version,
        "images_version": images_version,
        "predicted_at": run.started_at,
        "run_id": run.run_id,
    }
    products = warehouse.read(tables.PRODUCTS).transform(transforms.keep_listed)
    decisions = (
        warehouse.read(tables.PRODUCT_IMAGES)
        .transform(transforms.keep_listed)
        .transform(transforms.select_product_scores, _predictions(warehouse, model), settings.top_k)
        .transform(transforms.with_every_product, products)
        .transform(transforms.with_decision, _rules(spec, settings))
        .transform(transforms.with_category_path, paths)
        .withColumns({name: F.lit(value) for name, value in lineage.items()})
    )
    return warehouse.upsert(decisions, tables.PRODUCT_PREDICTIONS)


def _rules(spec: BundleSpec, settings: ScoreSettings) -> transforms.Rules:
    def nodes_above(path: str) -> list[tuple[str, float]]:
        nodes = [category_id(node) for node in reversed(ancestors(path)[:-1])]
        return [
            (node, least)
            for node in nodes
            if (least := spec.node_thresholds.get(node, math.inf)) <= 1
        ]

    above = {label.category_id: nodes_above(label.path) for label in spec.classes}
    return transforms.Rules(
        thresholds=spec.thresholds,
        nodes_above={category: nodes for category, nodes in above.items() if nodes},
        min_confidence=settings.min_confidence,
        min_margin=settings.min_margin,
        energy_limit=spec.energy_limit,
    )


def _predictions(warehouse: Warehouse, model: ModelVersion) -> DataFrame:
    return warehouse.read(tables.IMAGE_PREDICTIONS).transform(
        transforms.keep_of_model, model.model_name, model.version
    )


def _count_decisions(warehouse: Warehouse) -> dict[str, int]:
    counted = warehouse.read(tables.PRODUCT_PREDICTIONS).groupBy("decision").count().collect()
    return {row["decision"]: row["count"] for row in sorted(counted)}

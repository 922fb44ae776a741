"""Score: images without a prediction by this model get one, then products get their decision."""

import logging
from dataclasses import dataclass, replace

from catalog_batch import tables
from catalog_batch.config import ScoreSettings
from catalog_batch.errors import BadInputError
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.modeling.variants import VARIANTS
from catalog_batch.registry import ModelVersion
from catalog_batch.runs import Run, Status
from catalog_batch.score.fingerprint import INPUTS, fingerprint, versions_of
from catalog_batch.score.images import score_images
from catalog_batch.score.night import JOB, Night, of_tables
from catalog_batch.score.products import count_decisions, decide_products, products_to_decide
from catalog_batch.score.selection import Scope, of_products
from catalog_batch.score.udf import import_ahead, loading, prediction_udf, shipped_bundle
from catalog_batch.warehouse import Warehouse

UNKNOWN_SHOWN = 10
EVERYTHING = Scope()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreSummary:
    """Images scored by this run, and products by decision."""

    images_scored: int
    images_failed: int
    images_left: int
    """In scope, for the next run."""

    products_changed: int
    decisions: dict[str, int]


def score_catalogue(
    warehouse: Warehouse,
    model: ModelVersion,
    spec: BundleSpec,
    settings: ScoreSettings,
    run: Run,
    scope: Scope = EVERYTHING,
) -> ScoreSummary:
    """Predict a category for every listed product, scoring only images new to this model.

    A delisted product keeps the prediction that it had, and so does one that shows an image which
    this model has not scored yet.

    Args:
        warehouse: With the tables that ingest wrote.
        model: Resolved in the registry, its bundle checked.
        spec: Of that bundle.
        settings: Top-k, threshold and sizes.
        run: Filled in with rows, decisions and rate.
        scope: What of the catalogue is scored and decided.

    Raises:
        MissingTableError: When nothing was ingested yet.
        BadInputError: When no manifest has named any of the products in scope.
        ReconciliationError: When not every image has one answer, or a product two decisions.
        GateRefusedError: When too much would change or too many images failed: nothing is published
            of what the error names.
        ConcurrentWriteError: When another run wrote the same tables meanwhile.
    """
    read = versions_of(warehouse.root, INPUTS)
    night = Night(warehouse, model, spec, settings, run, scope, read)
    if read[tables.IMAGES.name] is None:
        warehouse.version(tables.IMAGES)  # says what is missing, and what to do
    # Now, for what is said of images stays when their products' decisions are refused.
    run.table_versions = of_tables(read)
    if VARIANTS[spec.variant].engine == "torch":
        import_ahead(warehouse.spark, "torch")
    unknown = _count_unknown(warehouse, scope)
    # Until the end: an executor that joins late is sent the bundle too, whatever its tasks are.
    with shipped_bundle(warehouse.spark, model.bundle_folder) as bundle:
        predict = prediction_udf(
            bundle, settings.top_k, settings.batch_size, settings.keep_embeddings
        )
        with loading(warehouse.spark, predict):
            warehouse.create(
                tables.IMAGE_PREDICTIONS,
                *([tables.IMAGE_EMBEDDINGS] if settings.keep_embeddings else []),
            )
            warehouse.read_logs(tables.IMAGES, tables.PRODUCT_IMAGES, tables.IMAGE_PREDICTIONS)
            warehouse.clear_staging(JOB)
            with (
                warehouse.stamped(**night.stamp),
                warehouse.alone(tables.IMAGE_PREDICTIONS, run.run_id),
            ):
                scored, failed, left = score_images(night, predict)
        # Now, as the versions: these images stay scored when the decisions are refused.
        run.counts = {"images_scored": scored, "images_failed": failed, "images_left": left}
        run.counts |= {"products_unknown": unknown} if unknown else {}
        warehouse.create(tables.PRODUCT_PREDICTIONS, tables.SHADOW_PREDICTIONS, tables.RUN_LOG)
        night = replace(night, read={**read, **warehouse.versions(tables.IMAGE_PREDICTIONS)})
        with (
            warehouse.stamped(**night.stamp),
            warehouse.alone(night.target, run.run_id) as left_at,
            products_to_decide(night) as changed,
        ):
            products_changed = decide_products(night, changed)
        decisions = count_decisions(night)
    run.rows_out = products_changed
    run.counts |= decisions
    versions = {**night.read, **left_at}
    run.table_versions = of_tables(versions)
    if scope.is_everything and not left:
        run.made_of = fingerprint(model, settings, versions)
    run.finish(Status.PUBLISHED if scored or products_changed else Status.NOTHING_TO_DO)
    return ScoreSummary(scored, failed, left, products_changed, decisions)


def _count_unknown(warehouse: Warehouse, scope: Scope) -> int:
    """Count named products that no manifest has named, and warn: a wrong id would be passed over.

    Raises:
        BadInputError: When they all are.
    """
    if scope.products is None:
        return 0
    named = of_products(warehouse.read(tables.PRODUCTS), scope.products).select("product_id")
    known = {row["product_id"] for row in named.collect()}
    unknown = [each for each in scope.products if each not in known]
    shown = ", ".join(map(repr, unknown[:UNKNOWN_SHOWN]))
    if not known:
        raise BadInputError(
            f"None of the {len(unknown)} named products is in the table products, such as {shown}. "
            "Give the ids that manifests give, one a line."
        )
    if unknown:
        logger.warning("%d of the named products are not known: %s", len(unknown), shown)
    return len(unknown)

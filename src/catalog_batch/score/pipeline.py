"""Score: images without a prediction by this model get one, then products get their decision."""

import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch import ledger, tables
from catalog_batch.config import ScoreSettings
from catalog_batch.errors import BadInputError
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.modeling.variants import VARIANTS
from catalog_batch.moved_rows import with_current_category
from catalog_batch.moves import read_moves
from catalog_batch.progress import polled_progress
from catalog_batch.registry import ModelVersion
from catalog_batch.runs import Run, Status
from catalog_batch.score import transforms
from catalog_batch.score.checks import (
    check_calls,
    check_decisions,
    pass_failures,
    pass_gate,
)
from catalog_batch.score.dealing import deal_out, round_sizes
from catalog_batch.score.fingerprint import (
    INPUTS,
    Versions,
    changes_since_last,
    fingerprint,
    versions_of,
)
from catalog_batch.score.selection import (
    Scope,
    changed_products,
    contents_of,
    count_by_day,
    first_of,
    of_products,
    select_images,
    stored_on,
    unfinished_products,
)
from catalog_batch.score.udf import (
    Predict,
    import_ahead,
    loading,
    prediction_udf,
    shipped_bundle,
)
from catalog_batch.spark import configured, task_slots
from catalog_batch.spark_progress import AnsweredRows
from catalog_batch.taxonomy import ancestors, category_id, inner_nodes
from catalog_batch.warehouse import Warehouse, cached

JOB = "score"

_ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
_SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"

ARROW_BATCH_BYTES = 2**20
"""Images that cross from the JVM to Python at a time: more only wait there, and with fewer a task's
first answers come while the JVM still reads the rest."""

MAX_ARROW_ROWS = 10_000

DEALT_BYTES_PER_CORE = 2**30
"""Images up to this size are dealt out, over the executors' disks. More of them lie in files
enough: one holds 128 MB."""

MAX_SENT_IDS = 1_000_000
"""Ids of wanted images that every executor is sent; more of them are joined by a shuffle, images
and all."""

SHUFFLED_PER_TASK, MOST_SHUFFLE_TASKS = 10_000, 10_000
"""Images of a task after such a shuffle, some minutes' work, to do again when it fails; and most of
these tasks, unless ``spark.shuffle_partitions`` says more."""

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


@dataclass(frozen=True)
class _Night:
    """What a run works with."""

    warehouse: Warehouse
    model: ModelVersion
    spec: BundleSpec
    settings: ScoreSettings
    run: Run
    scope: Scope
    read: Versions
    """Of the tables, as they are throughout: what comes meanwhile waits for the next run."""

    @property
    def target(self) -> tables.Table:
        """Where decisions go."""
        return tables.SHADOW_PREDICTIONS if self.scope.shadow else tables.PRODUCT_PREDICTIONS

    @property
    def of_model(self) -> dict[str, str | int]:
        """The columns by which rows are of this model."""
        return {"model_name": self.model.model_name, "model_version": self.model.version}

    @property
    def stamp(self) -> dict[str, str]:
        """What each commit says, for a run that is killed is not in ``run_log``."""
        versions = {f"{name}_version": str(at) for name, at in _of_tables(self.read).items()}
        return {"run_id": self.run.run_id, "job": JOB, **versions}

    def listed(self, table: tables.Table) -> DataFrame:
        """Return the rows of listed products in scope."""
        rows = self.warehouse.read(table, self.read[table.name])
        return of_products(rows.transform(transforms.keep_listed), self.scope.products)

    def predictions(self) -> DataFrame:
        """Return what the model has said of images."""
        return self.warehouse.read(tables.IMAGE_PREDICTIONS).transform(
            transforms.keep_of_model, self.model.model_name, self.model.version
        )


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
    night = _Night(warehouse, model, spec, settings, run, scope, read)
    if read[tables.IMAGES.name] is None:
        warehouse.version(tables.IMAGES)  # says what is missing, and what to do
    # Now, for what is said of images stays when their products' decisions are refused.
    run.table_versions = _of_tables(read)
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
                scored, failed, left = _score_images(night, predict)
        # Now, as the versions: these images stay scored when the decisions are refused.
        run.counts = {"images_scored": scored, "images_failed": failed, "images_left": left}
        run.counts |= {"products_unknown": unknown} if unknown else {}
        warehouse.create(tables.PRODUCT_PREDICTIONS, tables.SHADOW_PREDICTIONS, tables.RUN_LOG)
        night = replace(night, read={**read, **warehouse.versions(tables.IMAGE_PREDICTIONS)})
        with (
            warehouse.stamped(**night.stamp),
            warehouse.alone(night.target, run.run_id) as left_at,
            _changed_products(night) as changed,
        ):
            products_changed = _decide_products(night, changed)
        decisions = _count_decisions(night)
    run.rows_out = products_changed
    run.counts |= decisions
    versions = {**night.read, **left_at}
    run.table_versions = _of_tables(versions)
    if scope.is_everything and not left:
        run.made_of = fingerprint(model, settings, versions)
    run.finish(Status.PUBLISHED if scored or products_changed else Status.NOTHING_TO_DO)
    return ScoreSummary(scored, failed, left, products_changed, decisions)


def _score_images(night: _Night, predict: Predict) -> tuple[int, int, int]:
    """Run the model over the images in scope; return how many were scored, failed, and are left."""
    warehouse, run, scope, settings = night.warehouse, night.run, night.scope, night.settings
    at = night.read[tables.IMAGES.name]
    images = warehouse.read(tables.IMAGES, at)
    links = night.listed(tables.PRODUCT_IMAGES)
    with cached(select_images(images, links, night.predictions(), scope)) as wanted:
        days = count_by_day(wanted)
        there = sum(days.values())
        run.rows_in = pending = min(there, scope.max_images or there)
        if not pending:
            return 0, 0, there
        chosen = wanted
        if pending < there:
            chosen = first_of(wanted, pending)
            days = count_by_day(chosen)
        started = time.monotonic()
        size = ledger.bytes_per_row(warehouse.root, tables.IMAGES.name, at)
        sent = F.broadcast(chosen) if pending <= MAX_SENT_IDS else chosen
        contents = contents_of(images, sent, days)
        slots = task_slots(warehouse.spark)
        if pending * size <= DEALT_BYTES_PER_CORE * slots:
            # Those of a night may lie in one file, which one task alone would read.
            rounds = round_sizes(pending, slots, settings.batch_size)
            contents = deal_out(contents, rounds, slots, settings.batch_size)
        tuned = {_ARROW_ROWS: rows_per_arrow_batch(size, settings.batch_size)}
        if pending > MAX_SENT_IDS:
            tasks = min(math.ceil(pending / SHUFFLED_PER_TASK), MOST_SHUFFLE_TASKS)
            at_least = int(warehouse.spark.conf.get(_SHUFFLE_PARTITIONS) or 0)
            tuned[_SHUFFLE_PARTITIONS] = max(tasks, at_least)
        with (
            configured(warehouse.spark, tuned),
            polled_progress(
                "scoring", pending, AnsweredRows(warehouse.spark), "images", is_logged=True
            ),
            warehouse.staged(_predicted(night, contents, predict), run.run_id) as staged,
        ):
            run.images_per_second = round(pending / (time.monotonic() - started), 2)
            failed = check_calls(staged, pending, run)
            if not scope.failed:  # These stay what they are.
                pass_failures(staged, failed, pending, settings)
            if settings.keep_embeddings:
                # Before the predictions: an image that has one is not scored again.
                kept = staged.where("embedding IS NOT NULL")
                with warehouse.alone(tables.IMAGE_EMBEDDINGS, run.run_id):
                    _publish(night, kept, tables.IMAGE_EMBEDDINGS)
            _publish(night, staged, tables.IMAGE_PREDICTIONS, _may_be_of(days))
            run.measures["published_seconds"] = round(time.time() - run.started_at.timestamp(), 2)
    return pending, failed, there - pending


def _publish(
    night: _Night, staged: DataFrame, table: tables.Table, among: Column | None = None
) -> None:
    if night.scope.is_again:
        # The time of scoring tells the next run what comes next.
        night.warehouse.upsert(staged, table, restamp=True, shared=night.of_model)
    else:
        night.warehouse.insert_new(staged, table, shared=night.of_model, among=among)


def _may_be_of(days: Collection[int]) -> Column:
    """Return whether a stored prediction may be of an image of these days."""
    came = F.col("target.ingested_at")
    # One without is of a release that did not keep it.
    return came.isNull() | stored_on(days, came)


def rows_per_arrow_batch(bytes_per_row: int, batch_size: int) -> int:
    """Return as many whole batches of the model as fit, one at the least."""
    rows = min(ARROW_BATCH_BYTES // max(bytes_per_row, 1), MAX_ARROW_ROWS)
    return max(rows // batch_size, 1) * batch_size


def _predicted(night: _Night, images: DataFrame, predict: Predict) -> DataFrame:
    lineage = {
        **night.of_model,
        "scored_at": night.run.started_at,
        "run_id": night.run.run_id,
    }
    answers = images.select("image_id", "ingested_at", predict("content").alias("prediction"))
    return answers.select("image_id", "ingested_at", "prediction.*", *_literals(lineage))


@contextmanager
def _changed_products(night: _Night) -> Iterator[DataFrame | None]:
    """Yield the ids of products whose decision may not be as the last run left it; None for all."""
    warehouse, since = night.warehouse, None
    if not night.scope.shadow:
        since = changes_since_last(warehouse.root, JOB, night.model, night.settings)
    if since is None:
        yield None
        return
    links, products = (
        warehouse.read(table, night.read[table.name])
        for table in (tables.PRODUCT_IMAGES, tables.PRODUCTS)
    )
    links_before = None
    if since.links_before is not None:
        links_before = warehouse.read(tables.PRODUCT_IMAGES, since.links_before)
    found = changed_products(
        links,
        products,
        night.predictions(),
        warehouse.read(tables.PRODUCT_PREDICTIONS),
        since.runs,
        links_before,
    )
    with cached(found) as changed:
        yield changed


def _decide_products(night: _Night, changed: DataFrame | None) -> int:
    """Publish decisions of all products in scope, or of changed ones; return how many differ.

    By the tables as they were when the run began: what an ingest has added since waits for the
    next run, which finds it in their logs.
    """
    warehouse, run = night.warehouse, night.run
    classes = [label.path for label in night.spec.classes]
    paths = {category_id(node): node for node in inner_nodes(classes)}
    paths |= {label.category_id: label.path for label in night.spec.classes}
    lineage = {
        **night.of_model,
        "taxonomy_version": night.spec.taxonomy_version,
        "images_version": night.read[tables.IMAGES.name],
        "predicted_at": run.started_at,
        "run_id": run.run_id,
    }
    predictions = night.predictions()
    links, products = night.listed(tables.PRODUCT_IMAGES), night.listed(tables.PRODUCTS)
    kept = None
    if changed is not None:
        published = warehouse.read(tables.PRODUCT_PREDICTIONS)
        kept = published.join(products, "product_id", "left_semi").join(
            changed, "product_id", "left_anti"
        )
        links = links.join(changed, "product_id", "left_semi")
        products = products.join(changed, "product_id", "left_semi")
    ready = products.join(unfinished_products(links, predictions), "product_id", "left_anti")
    decisions = (
        links.transform(transforms.select_product_scores, predictions, night.settings.top_k)
        .transform(transforms.with_every_product, ready)
        .transform(transforms.with_decision, _rules(night.spec, night.settings))
        .transform(transforms.with_category_path, paths)
        .select("*", *_literals(lineage))
        .transform(with_current_category, read_moves(warehouse.root))
    )
    with warehouse.staged(decisions, f"{run.run_id}-decisions") as staged:
        run.measures["products_decided"] = decided = check_decisions(staged)
        run.measures["products_waiting"] = products.count() - decided
        if not night.scope.shadow:
            pass_gate(warehouse, staged, kept, night.settings, run)
        shared = night.of_model if night.scope.shadow else None
        return warehouse.upsert(staged, night.target, shared=shared)


def _literals(values: Mapping[str, object]) -> list[Column]:
    return [F.lit(value).alias(name) for name, value in values.items()]


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


def _of_tables(versions: Versions) -> dict[str, int]:
    """Return the versions of those tables that are there."""
    return {name: at for name, at in versions.items() if at is not None}


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


def _count_decisions(night: _Night) -> dict[str, int]:
    """Return how many listed products in scope have each decision, whichever run made it."""
    products = night.listed(tables.PRODUCTS)
    rows = night.warehouse.read(night.target).join(products, "product_id", "left_semi")
    if night.scope.shadow:
        rows = rows.transform(transforms.keep_of_model, night.model.model_name, night.model.version)
    counted = rows.groupBy("decision").count().collect()
    return {row["decision"]: row["count"] for row in sorted(counted)}

"""Ingest: a manifest and its images become tables; every row has one outcome.

Plan (look at every file, open none), decode what is to do, publish. See docs/decisions/0005.
"""

import logging
import time
from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import IngestSettings
from catalog_batch.errors import GateRefusedError, ManifestError
from catalog_batch.imaging import DecodePolicy
from catalog_batch.ingest import publication, transforms
from catalog_batch.ingest.decoding import OUTCOME_TYPE, with_outcomes
from catalog_batch.ingest.looking import with_look
from catalog_batch.ingest.manifests import Manifest, check_splits, open_manifest
from catalog_batch.ingest.nights import Night, check_columns, choose_night, place_night
from catalog_batch.ingest.outcomes import (
    Outcomes,
    count_outcomes,
    count_plan,
    gate_problem,
    measure_pass,
    reconcile,
    require_each_key_once,
)
from catalog_batch.ingest.policy import SourcePolicy
from catalog_batch.ingest.sources import ImageRoot, shown_uri
from catalog_batch.runs import Run, Status
from catalog_batch.spark import no_rows, run_together
from catalog_batch.spark_progress import task_progress
from catalog_batch.warehouse import Warehouse

JOB = "ingest"
_SMALLEST_TASK = 50
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What one run is asked to ingest."""

    manifest: str
    """CSV, JSON Lines, Parquet or Delta."""

    images: str
    """Folder or URI that every ``image_uri`` lies under."""

    today: date
    """The day of the run."""

    night: date | None = None
    """The night that the manifest describes, today unless given; it orders manifests."""

    is_full: bool = False
    """Whether products that the manifest does not name are to be delisted."""

    retried: frozenset[str] = frozenset()
    """Reasons of rejection that are tried again though the file did not change."""

    accept_columns: bool = False
    """Whether the manifest may lack or retype columns that the one before had."""


@dataclass(frozen=True)
class Intake:
    """A manifest that was opened: its rows, each key once, and its place among the nights."""

    manifest: Manifest
    rows: DataFrame
    rows_in: int
    repeated: int
    night: Night


def plan_ingest(
    warehouse: Warehouse, request: Request, settings: IngestSettings, run_id: str
) -> dict[str, int]:
    """Count what an ingest would do, without reading an image or changing a table."""
    with warehouse.staging(run_id):
        intake = _intake(warehouse, request, run_id)
        plan = _planned(warehouse, intake, _policy(request, intake.night, settings))
        counts = count_plan(plan, intake.repeated)
        gone = publication.measure_delisting(warehouse, intake.rows, intake.night)
    if not intake.night.delists:
        return counts
    return counts | {"delisted_products": gone.products, "delisted_images": gone.images}


def ingest_catalogue(
    warehouse: Warehouse, request: Request, settings: IngestSettings, run: Run
) -> Outcomes:
    """Read a manifest's images and publish them.

    Args:
        warehouse: Where the tables are; they are created when missing.
        request: The manifest, its images and its night.
        settings: What is accepted and how it is stored.
        run: Filled in with rows, outcomes and rate.

    Raises:
        ManifestError: When the manifest is refused as a whole.
        BadInputError: When the image root is no folder.
        GateRefusedError: When too much is rejected or delisted; what was found is kept in staging.
        ReconciliationError: When rows went missing; nothing is published then.
    """
    warehouse.create(*tables.ALL_TABLES)
    warehouse.clear_staging(JOB)
    with warehouse.staging(run.run_id), warehouse.stamped(run_id=run.run_id, job=JOB):
        intake = _intake(warehouse, request, run.run_id)
        run.rows_in = intake.rows_in
        measures, found = _decode(warehouse, intake, request, settings, run)
        new_images = warehouse.stage(
            transforms.select_new_images(found, warehouse.read(tables.IMAGES)), f"{run.run_id}/new"
        )
        counted = count_outcomes(found, new_images, intake.repeated)
        gone = publication.measure_delisting(warehouse, intake.rows, intake.night)
        result = replace(counted, measures=measures, delisting=gone)
        _report(run, result, intake.night)
        reconcile(result, intake.rows_in)
        require_each_key_once(intake.rows, found)
        _pass_gate(warehouse, result, found, settings, run)
        changed = _publish(warehouse, intake, found, new_images, settings, run)
        publication.record_manifest(
            warehouse, intake.manifest.columns, intake.rows_in, intake.night, run
        )
    run.rows_out = result.ingested + result.duplicate
    run.table_versions = warehouse.versions(
        tables.PRODUCTS, tables.PRODUCT_IMAGES, tables.IMAGES, tables.REJECTED_IMAGES
    )
    run.finish(Status.PUBLISHED if changed else Status.NOTHING_TO_DO)
    return result


def _publish(
    warehouse: Warehouse,
    intake: Intake,
    found: DataFrame,
    new_images: DataFrame,
    settings: IngestSettings,
    run: Run,
) -> int:
    """Commit what was found; return rows changed.

    Images are there before a table names one, and a product comes last: whoever decides it between
    two commits must see all of its images, and a late night does not ask again for one that is
    stored. What does not depend on each other goes side by side.
    """
    rows, night, spark = intake.rows, intake.night, warehouse.spark
    products = publication.stage_products(warehouse, rows, intake.manifest.absent, night, run)

    def images() -> int:
        added = publication.append_new_images(warehouse, found, new_images, run)
        return added + sum(run_together(spark, links, duplicates))

    def links() -> int:
        return publication.publish_links(warehouse, found, rows, night, run)

    def duplicates() -> int:
        return publication.publish_duplicates(warehouse, settings.near_duplicate_distance, run)

    def labels() -> int:
        return publication.publish_labels(warehouse, products, run)

    changed = sum(run_together(spark, images, labels))
    changed += warehouse.upsert(products, tables.PRODUCTS)
    return changed + publication.delist_vanished(warehouse, rows, night, run)


def _intake(warehouse: Warehouse, request: Request, run_id: str) -> Intake:
    """Open a manifest and check it as a whole."""
    ImageRoot(request.images).require_folder()
    staging = f"{warehouse.root}/_staging/{run_id}/manifest"
    past = warehouse.read_or_empty(tables.MANIFESTS)
    named = choose_night(past, request.night, request.today)
    manifest = _opened(warehouse, request.manifest, staging)
    if not request.accept_columns:
        check_columns(past, named, manifest.columns)
    night = place_night(past, named, request.manifest, is_full=request.is_full)
    distinct = manifest.frame.transform(transforms.prepare_manifest).transform(
        transforms.drop_repeated_rows
    )
    check_splits(manifest.frame)
    # Staged, not cached: what follows starts from a plain scan, whatever is committed meanwhile.
    rows = warehouse.stage(distinct, f"{run_id}/rows")
    # Counted in what was read, for the manifest may have grown since.
    counted = rows.agg(F.sum("copies"), F.count("*"), F.count_if("is_garbled")).first()
    rows_in, rows_distinct, garbled = counted or (0, 0, 0)
    if not rows_in:
        raise ManifestError(f"Manifest {request.manifest!r} has a header and no rows.")
    night = replace(night, garbled_rows=garbled)
    _warn(night)
    return Intake(manifest, rows, rows_in, rows_in - rows_distinct, night)


def _opened(warehouse: Warehouse, uri: str, staging: str) -> Manifest:
    """Open a manifest; what is secret in its location stays out of the error."""
    try:
        return open_manifest(warehouse.spark, uri, staging)
    except ManifestError as error:
        shown, text = shown_uri(uri), str(error)
        if shown == uri:
            raise
        for form in (uri, uri.replace("s3a://", "s3://", 1)):
            text = text.replace(form, shown)
        raise ManifestError(text) from None


def _warn(night: Night) -> None:
    if night.is_late:
        logger.warning(
            "night %s is late: the manifest adds, and changes nothing known", night.night
        )
    if night.is_full and night.garbled_rows:
        logger.warning(
            "%d rows cannot be parsed, so nobody knows what they name: nothing is delisted",
            night.garbled_rows,
        )


def _planned(warehouse: Warehouse, intake: Intake, policy: SourcePolicy) -> DataFrame:
    return intake.rows.transform(
        transforms.with_known_state,
        warehouse.read_or_empty(tables.PRODUCT_IMAGES),
        warehouse.read_or_empty(tables.REJECTED_IMAGES),
    ).transform(with_look, policy)


def _decode(
    warehouse: Warehouse, intake: Intake, request: Request, settings: IngestSettings, run: Run
) -> tuple[dict[str, float], DataFrame]:
    """Look at all files and read what is to do; return figures and one outcome for each row."""
    policy = _policy(request, intake.night, settings)
    with task_progress(warehouse.spark, "looking at files", intake.rows_in, "files"):
        plan = warehouse.stage(_planned(warehouse, intake, policy), f"{run.run_id}/plan")
    counts = count_plan(plan, intake.repeated)
    logger.info("planned %s", counts)
    to_do = plan.transform(transforms.keep_to_do)
    if counts["to_do"]:
        decoded = to_do.transform(
            transforms.deal_out,
            _tasks(warehouse, to_do, counts["to_do"], settings),
            settings.rows_per_task,
        ).transform(with_outcomes, policy, f"{warehouse.root}/_staging/{run.run_id}/images")
        started = time.monotonic()
        with task_progress(warehouse.spark, "decoding images", counts["to_do"], "images"):
            decoded = warehouse.stage(decoded, f"{run.run_id}/decoded")
        run.images_per_second = round(counts["to_do"] / (time.monotonic() - started), 2)
    else:
        decoded = no_rows(warehouse.spark, OUTCOME_TYPE)
    measures = measure_pass(decoded)
    logger.info("decoded %s", measures)
    return measures, transforms.select_outcomes(plan, decoded)


def _tasks(warehouse: Warehouse, to_do: DataFrame, rows: int, settings: IngestSettings) -> int:
    """Return how many tasks decode: each has about the same rows, or the same bytes."""
    total = to_do.agg(F.sum("source_bytes")).first()
    total_bytes = (total[0] if total else 0) or 0
    cores = warehouse.spark.sparkContext.defaultParallelism
    wanted = max(
        -(-rows // settings.rows_per_task),
        -(-total_bytes // settings.bytes_per_task),
        min(settings.tasks_per_core * cores, rows // _SMALLEST_TASK),
        1,
    )
    # Whole rounds of all cores: a last round of one task would leave the others idle.
    return wanted if wanted < cores else -(-wanted // cores) * cores


def _policy(request: Request, night: Night, settings: IngestSettings) -> SourcePolicy:
    decode = DecodePolicy(
        stored_side=settings.stored_side,
        jpeg_quality=settings.jpeg_quality,
        jpeg_subsampling=settings.jpeg_subsampling,
        max_pixels=settings.max_pixels,
        max_side=settings.max_side,
        min_side=settings.min_side,
    )
    return SourcePolicy(
        request.images,
        settings.max_source_bytes,
        decode,
        reads_in_flight=settings.reads_in_flight,
        read_ahead_bytes=settings.read_ahead_bytes,
        batch_images=settings.batch_images,
        image_cpu_seconds=settings.image_cpu_seconds,
        batch_wall_seconds=settings.batch_wall_seconds,
        decoder_memory_mib=settings.decoder_memory_mib,
        only_new=night.is_late,
        retried=request.retried,
    )


def _report(run: Run, outcomes: Outcomes, night: Night) -> None:
    run.counts, run.measures = outcomes.counts, outcomes.measures
    run.rejected = dict(sorted(outcomes.rejected.items()))
    run.details["night"] = f"{night.night}"
    if night.is_late:
        run.details["is_late"] = True
    if night.is_full and night.garbled_rows:
        run.details["not_delisted"] = f"{night.garbled_rows} rows cannot be parsed"
    if night.delists:
        gone = outcomes.delisting
        run.counts |= {"delisted_products": gone.products, "delisted_images": gone.images}


def _pass_gate(
    warehouse: Warehouse, outcomes: Outcomes, found: DataFrame, settings: IngestSettings, run: Run
) -> None:
    problem = gate_problem(outcomes, run.rows_in or 0, settings)
    if problem is None:
        return
    warehouse.stage(found, f"{run.run_id}/outcomes")
    kept = warehouse.keep_staged(f"{run.run_id}/outcomes", f"refused-{run.run_id}")
    raise GateRefusedError(
        f"{problem}. Nothing was published. What was found is kept: catalog-batch sql "
        f"'SELECT outcome, reason, count(*) FROM parquet.`{kept}` GROUP BY 1, 2'. Mend the source, "
        "or raise the share with --set if this is meant."
    )

"""Optimise: make variants of a model, measure them here, and register the fastest that agrees."""

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from catalog_batch import ledger
from catalog_batch.compress.findings import Finding, Verdict, judge
from catalog_batch.compress.making import Made, make_variants
from catalog_batch.compress.pruning import pruned_network, teach
from catalog_batch.compress.trials import Trial, decoded, run_trials, spread_images
from catalog_batch.config import OptimiseSettings, Settings
from catalog_batch.errors import BadInputError, MissingTableError
from catalog_batch.leases import held_lease
from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.bundle import Bundle, load_bundle
from catalog_batch.modeling.threads import torch_threads
from catalog_batch.modeling.variants import AS_TRAINED
from catalog_batch.models_table import held_aliases, publish_models, require_own_registry
from catalog_batch.progress import progress_bar
from catalog_batch.registry import ModelVersion, Registry
from catalog_batch.runs import Clock, Run, Status
from catalog_batch.split_rows import TABLE as EXAMPLES
from catalog_batch.split_rows import SplitRows, find_split_rows

TABLE = "model_variants"


OnFindings = Callable[[Sequence[Finding]], None]
"""Is told what was tried."""


def optimise_model(
    settings: Settings,
    run: Run,
    reference: str,
    on_findings: OnFindings = lambda findings: None,
    clock: Clock = lambda: datetime.now(UTC),
) -> None:
    """Try the variants of a model and register the fastest that answers as the model does.

    The kept variant becomes the model's next version, a challenger: ``promote`` lets it score.

    Args:
        settings: Of the whole package; ``optimise`` names the variants and the bounds.
        run: Filled in with rows, figures and versions.
        reference: ``NAME@ALIAS`` or ``NAME/VERSION`` of a model as it was trained.
        on_findings: Called with what each variant showed, also when none is kept.
        clock: Tells the time, UTC.

    Raises:
        BadInputError: For a model that is a variant itself.
        ModelRefusedError: When there is no such version, its bundle is damaged, or the registry is
            not the one that the warehouse knows.
        MissingTableError: When the warehouse lacks ``model_variants``, or the version of
            ``training_examples`` that the model was trained on.
        TrainingDataError: When test rows of that version are none, gone or damaged.
    """
    if not ledger.exists(settings.warehouse, TABLE):
        raise MissingTableError(
            f"Table {TABLE!r} is not in the warehouse {settings.warehouse!r}. Run ingest once, "
            "which creates the tables that this release has added, or check --warehouse."
        )
    registry = Registry(settings.registry_folder)
    require_own_registry(settings.warehouse, registry)
    source = registry.resolve(reference)
    keep_freed_memory()  # as scoring does, which this is to tell the speed of
    with torch_threads(settings.optimise.threads):
        trained = load_bundle(source.bundle_folder)
        _refuse_variant(source, trained)
        with tempfile.TemporaryDirectory(prefix="catalog-batch-variants-") as place:
            made, trials = _measured(settings, source, trained, run.run_id, Path(place), clock)
            findings = judge(trials, made.problems, settings.optimise)
            kept = next((item for item in findings if item.verdict == Verdict.KEPT), None)
            registered, is_new = None, False
            if kept:
                folder = made.folders[kept.variant]
                registered, is_new = _register(settings.warehouse, registry, source, folder, kept)
    version = trained.spec.training_table_version
    rows = [
        _row(finding, source, registered, settings.optimise.threads, version, run)
        for finding in findings
    ]
    ledger.append_rows(settings.warehouse, TABLE, rows)
    _report(run, source, registered, findings, version)
    on_findings(findings)
    run.finish(Status.PUBLISHED if is_new else Status.NOTHING_TO_DO)


def _refuse_variant(source: ModelVersion, bundle: Bundle) -> None:
    if bundle.spec.variant != AS_TRAINED:
        raise BadInputError(
            f"{source.reference} is itself the variant {bundle.spec.variant!r}, made from "
            f"{source.tags.get('made_from', 'another version')}. Name that one: variants are made "
            "from a model as it was trained."
        )


def _measured(
    settings: Settings,
    source: ModelVersion,
    trained: Bundle,
    holder: str,
    place: Path,
    clock: Clock,
) -> tuple[Made, list[Trial]]:
    """Make the variants and let them answer the test rows of the model's own table version."""
    root, wanted, spec = settings.warehouse, settings.optimise, trained.spec
    version, hours = spec.training_table_version, settings.maintenance.lease_hours
    with held_lease(root, EXAMPLES, version, holder, hours, clock):
        train = find_split_rows(root, version, "train", spec.training_table_id)
        test = find_split_rows(root, version, "test", spec.training_table_id)
        pictures = spread_images(train, wanted.calibration_images, spec.preprocessing)
        made = make_variants(
            source.bundle_folder,
            wanted.variants,
            pictures,
            partial(_pruned, train, wanted, settings.score.batch_size),
            place,
        )
        contestants = {AS_TRAINED: trained, **made.bundles}
        trials = run_trials(
            contestants,
            test,
            wanted.max_test_images,
            settings.score.batch_size,
            settings.score.min_confidence,
        )
    return made, trials


def _pruned(rows: SplitRows, wanted: OptimiseSettings, size: int, trained: Bundle) -> nn.Module:
    """Take channels out and teach what is left on the training rows, which lie shuffled."""
    preprocessing = trained.spec.preprocessing

    def batches() -> Iterator[torch.Tensor]:
        for batch in rows.batches(size):
            yield torch.from_numpy(np.stack(decoded(batch, preprocessing)))

    smaller = pruned_network(trained.module, preprocessing.side, wanted.pruned_share)
    steps = wanted.pruning_steps
    # Nothing is measured yet: all cores may learn.
    with (
        torch_threads(os.cpu_count() or 1),
        progress_bar("teaching the pruned network", steps, "batches") as advance,
    ):
        teach(
            smaller,
            trained.module,
            preprocessing,
            batches,
            steps,
            lambda: advance(1),
        )
    return smaller


def _register(
    root: str, registry: Registry, source: ModelVersion, folder: Path, kept: Finding
) -> tuple[ModelVersion, bool]:
    """Register the bundle and tell the tables; return the version and whether it is a new one."""
    assert kept.trial
    metrics = {
        "accuracy": kept.trial.accuracy,
        "agreement": kept.trial.agreement,
        "images_per_second": kept.trial.images_per_second,
    }
    tags = {**source.tags, "variant": kept.variant, "made_from": source.reference}
    with held_aliases(root):
        before = len(registry.list_versions())
        version = registry.register(source.model_name, folder, metrics, tags)
        publish_models(root, registry)
        return version, len(registry.list_versions()) > before


def _row(
    finding: Finding,
    source: ModelVersion,
    registered: ModelVersion | None,
    threads: int,
    table_version: int,
    run: Run,
) -> dict[str, Any]:
    trial = finding.trial
    return {
        "measured_at": run.started_at,
        "model_name": source.model_name,
        "model_version": source.version,
        "variant": finding.variant,
        "verdict": str(finding.verdict),
        "reason": finding.reason or None,
        "images_per_second": trial and trial.images_per_second,
        "speed_up": finding.speed_up,
        "agreement": trial and trial.agreement,
        "accuracy": trial and trial.accuracy,
        "accepted": trial and trial.accepted,
        "made_version": (
            registered.version if registered and finding.verdict == Verdict.KEPT else None
        ),
        "test_images": trial.images if trial else 0,
        "training_table_version": table_version,
        "threads": threads,
        "processor": _processor(),
        "run_id": run.run_id,
    }


def _processor() -> str:
    """Name the machine's processor, and the instructions that PyTorch uses of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.machine()}, {capability}"


def _report(
    run: Run,
    source: ModelVersion,
    registered: ModelVersion | None,
    findings: Sequence[Finding],
    table_version: int,
) -> None:
    measured = [finding for finding in findings if finding.trial]
    run.rows_in = max(finding.trial.images for finding in measured if finding.trial)
    run.rows_out = len(findings)
    run.counts = {
        f"variants_{verdict}": sum(finding.verdict == verdict for finding in findings)
        for verdict in Verdict
        if verdict != Verdict.REFERENCE
    }
    run.table_versions = {EXAMPLES: table_version}
    run.details = {
        "model": source.reference,
        "registered": registered.reference if registered else "none",
        "variants": [
            {
                "variant": finding.variant,
                "verdict": str(finding.verdict),
                "speed_up": round(finding.speed_up, 3) if finding.speed_up else None,
            }
            for finding in findings
        ],
    }

"""A challenger against the champion: the comparison, and how it is told."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.markup import escape
from rich.table import Table

from catalog_batch.config import Settings
from catalog_batch.errors import BadInputError, GateRefusedError, ModelRefusedError
from catalog_batch.evaluate.gate import Bounds, Check, lost_classes
from catalog_batch.leases import held_lease
from catalog_batch.modeling.bundle import Bundle, BundleSpec, load_bundle
from catalog_batch.moves import Moves, read_moves
from catalog_batch.promotion.comparison import classes_of, compare
from catalog_batch.registry import DOUBT, ModelVersion, Registry
from catalog_batch.runs import Clock, Run
from catalog_batch.split_rows import TABLE, SplitRows, find_split_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contest:
    """A challenger, whom it challenges, and what came of it."""

    challenger: ModelVersion
    champion: ModelVersion | None
    table_version: int
    """Of ``training_examples``."""

    test_rows: int | None
    """None when ``--force`` passed over a comparison that could not be made."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """The checks that speak against it."""
        return [check for check in self.checks if not check.passed]


def hold_contest(
    settings: Settings,
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    holder: str,
    force: bool,
    clock: Clock,
) -> Contest:
    """Let both answer the test rows of the table version that the challenger was trained on.

    Args:
        settings: Of the whole package.
        registry: That has both.
        challenger: Resolved, so that its bundle is the registered one.
        champion: None when the model has none.
        holder: Of the lease that keeps the table's files from being deleted meanwhile.
        force: Whether a comparison that cannot be made is no obstacle.
        clock: Tells until when the files are leased, UTC.

    Raises:
        ModelRefusedError: When a bundle is damaged; the champion's does not matter to ``force``.
        BadInputError: Without ``force``, when the test rows cannot be had.
    """
    if DOUBT in challenger.tags:
        logger.warning("%s: %s", name_of(challenger), challenger.tags[DOUBT])
    bundle = load_bundle(challenger.bundle_folder)
    moves = read_moves(settings.warehouse)
    version, hours = bundle.spec.training_table_version, settings.maintenance.lease_hours
    try:
        other = _loaded(registry, champion)
        bounds = _bounds(settings, bundle, other)
        with held_lease(settings.warehouse, TABLE, version, holder, hours, clock):
            table_id = bundle.spec.training_table_id
            rows = find_split_rows(settings.warehouse, version, "test", table_id)
            if champion and other:
                _warn_of_seen_rows(settings.warehouse, rows, bundle.spec, champion, other.spec)
            doubt = DOUBT in challenger.tags
            checks = compare(rows, bundle, other, bounds, settings.score.batch_size, moves, doubt)
    except (BadInputError, ModelRefusedError) as error:
        if not force:
            raise
        logger.warning("%s is not compared with any: %s", name_of(challenger), error)
        return Contest(challenger, champion, version, None, ())
    _warn_of_lost_classes(challenger, bundle, other, moves)
    if any(check.name == "max_class_loss" and not check.rows for check in checks):
        logger.warning(
            "promote.max_class_loss is not checked: no class has promote.min_class_rows = %d "
            "test rows",
            bounds.min_class_rows,
        )
    return Contest(challenger, champion, version, rows.rows, tuple(checks))


def _loaded(registry: Registry, champion: ModelVersion | None) -> Bundle | None:
    # Resolved again by its number: that is what compares its digest with the registered one.
    return load_bundle(registry.resolve(name_of(champion)).bundle_folder) if champion else None


def _bounds(settings: Settings, bundle: Bundle, champion: Bundle | None) -> Bounds:
    """Return what is asked: no improvement of a variant of the champion's own weights."""
    bounds = Bounds(**settings.promote.model_dump())
    if champion and _weights(bundle) == _weights(champion):
        least = min(bounds.min_improvement, -settings.optimise.max_accuracy_loss)
        return replace(bounds, min_improvement=least)
    return bounds


def _weights(bundle: Bundle) -> str:
    return bundle.spec.made_from or bundle.digest


def _warn_of_lost_classes(
    challenger: ModelVersion, bundle: Bundle, other: Bundle | None, moves: Moves
) -> None:
    if other is None:
        return
    lost = lost_classes(classes_of(bundle.spec, moves), classes_of(other.spec, moves))
    if lost:
        logger.warning(
            "%s lacks %d classes of the champion, of which no test row need tell: %s",
            name_of(challenger),
            len(lost),
            lost[:10],
        )


def _warn_of_seen_rows(
    root: str, rows: SplitRows, challenger: BundleSpec, champion: ModelVersion, spec: BundleSpec
) -> None:
    """Say which test rows' products the champion was trained on: its figures are too good then.

    A split stays with its product from build to build, unless its seed or shares are changed.
    """
    version, table_id = spec.training_table_version, spec.training_table_id
    if (version, table_id) == (challenger.training_table_version, challenger.training_table_id):
        return
    try:
        seen = rows.count_seen(find_split_rows(root, version, "train", table_id))
    except BadInputError as error:
        logger.info("whether %s has seen test rows is not known: %s", name_of(champion), error)
        return
    if seen:
        logger.warning(
            "%s was trained on the products of %s of %s test rows, which version %d of %s had in "
            "its training split: its figures are too good here, and the challenger's may be the "
            "better ones even so",
            name_of(champion),
            f"{seen:,}",
            f"{rows.rows:,}",
            version,
            TABLE,
        )


def refusal(contest: Contest) -> GateRefusedError:
    """Return the error that names the failed bounds with both figures."""
    stays = f" {name_of(contest.champion)} stays champion." if contest.champion else ""
    return GateRefusedError(
        f"{name_of(contest.challenger)} is not promoted: "
        f"{'; '.join(str(check) for check in contest.failed)}.{stays} Train a better model, or "
        "promote this one all the same with --force, which is recorded."
    )


def report(run: Run, contest: Contest, force: bool) -> None:
    """Fill a run in with a contest."""
    run.rows_in = contest.test_rows
    run.counts = {
        "checks_passed": len(contest.checks) - len(contest.failed),
        "checks_failed": len(contest.failed),
    }
    run.table_versions = {TABLE: contest.table_version}
    run.details = {
        "model": name_of(contest.challenger),
        "champion": name_of(contest.champion),
        "forced": force,
        "checks": [_rounded(check) for check in contest.checks],
    }


def checks_table(checks: Sequence[Check]) -> Table:
    """Return the checks as a table for a console, a line each."""
    table = Table("bound", "", "champion", "challenger", "test rows", "", show_edge=False)
    for check in checks:
        table.add_row(
            check.name + (f"\n{escape(check.category_path)}" if check.category_path else ""),
            f"{check.bound:g}",
            _shown(check.champion),
            _shown(check.challenger),
            f"{check.rows:,}",
            "[green]passed[/]" if check.passed else "[bold red]failed[/]",
        )
    return table


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"


def _rounded(check: Check) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(check).items()
        if value is not None
    }


def name_of(version: ModelVersion | None) -> str:
    """Return NAME/VERSION, by which a version is resolved, or ``none``."""
    return version.reference if version else "none"

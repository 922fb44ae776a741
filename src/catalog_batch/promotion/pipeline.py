"""Promote and roll back: the jobs that say which version of a model scores, without a JVM.

The order of the steps, for a run may be killed between any two of them:

1. the row of ``promotions``, so that no version ever scores without one;
2. the alias ``previous`` on the champion: a rollback in between finds nothing to do, and cannot
   reach back too far;
3. the alias ``champion``, which is what scoring asks for: the promotion happens here, at once;
4. what is left to tidy: the alias ``challenger``, and the table ``models``.

A run killed before step 3 is repeated whole, and its row is marked ``interrupted`` then. After
step 3 the same command finds its version champion already, and tidies.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from catalog_batch import promotions_table
from catalog_batch.config import Settings
from catalog_batch.errors import LockHeldError, ModelRefusedError
from catalog_batch.evaluate.gate import Check
from catalog_batch.models_table import held_aliases, publish_models, require_own_registry
from catalog_batch.promotion.contest import Contest, hold_contest, name_of, refusal, report
from catalog_batch.promotions_table import Action, Entry
from catalog_batch.registry import CHALLENGER, CHAMPION, PREVIOUS, ModelVersion, Registry
from catalog_batch.runs import Clock, Run, Status

OnChecks = Callable[[Sequence[Check]], None]
"""Is told what was compared."""


def promote_model(
    settings: Settings,
    run: Run,
    reference: str,
    force: bool = False,
    on_checks: OnChecks = lambda checks: None,
    clock: Clock = lambda: datetime.now(UTC),
) -> None:
    """Make a version champion if it stands the comparison with the present one.

    Args:
        settings: Of the whole package; ``promote`` has the bounds.
        run: Filled in with rows, checks and versions.
        reference: ``NAME@ALIAS`` or ``NAME/VERSION``.
        force: Whether failed checks, and a comparison that cannot be made, are no obstacle.
        on_checks: Called with the checks, also with those of a refusal.
        clock: Tells the time, UTC.

    Raises:
        GateRefusedError: When a check failed; the row of the refusal is written.
        ModelRefusedError: When there is no such version, a bundle is damaged, or the registry is
            not the one that the warehouse knows.
        MissingTableError: When the warehouse lacks ``promotions``, or the version of
            ``training_examples`` that the challenger was trained on.
        TrainingDataError: When test rows of that version are gone or damaged.
        LockHeldError: When the champion changed while it was compared.
    """
    root, registry = settings.warehouse, Registry(settings.registry_folder)
    promotions_table.require_table(root)
    require_own_registry(root, registry)
    challenger = _challenger(registry, reference)
    champion = find_by_alias(registry, challenger.model_name, CHAMPION)
    if champion and champion.version == challenger.version:
        with held_aliases(root):
            _tidy(root, registry, challenger)
        run.details = {"model": name_of(champion), "alias": CHAMPION}
        run.finish(Status.NOTHING_TO_DO)
        return
    contest = hold_contest(settings, registry, challenger, champion, run.run_id, force, clock)
    report(run, contest, force)
    on_checks(contest.checks)
    with held_aliases(root):
        _refuse_another_champion(registry, contest)
        promotions_table.record(root, _entry(contest, force, run, clock), _number(champion))
        if contest.failed and not force:
            raise refusal(contest)
        if champion:
            registry.set_alias(champion.model_name, champion.version, PREVIOUS)
        registry.set_alias(challenger.model_name, challenger.version, CHAMPION)
        _tidy(root, registry, challenger)
    run.finish(Status.PUBLISHED)


def rollback_model(
    settings: Settings,
    run: Run,
    model_name: str,
    clock: Clock = lambda: datetime.now(UTC),
) -> None:
    """Make the champion before the present one champion again; one step, and no further.

    Args:
        settings: Of the whole package.
        run: Filled in with versions.
        model_name: Registered name.
        clock: Tells the time, UTC.

    Raises:
        ModelRefusedError: When there is nothing to go back to, its bundle is damaged, or the
            registry is not the one that the warehouse knows.
        MissingTableError: When the warehouse lacks ``promotions``.
    """
    root, registry = settings.warehouse, Registry(settings.registry_folder)
    promotions_table.require_table(root)
    require_own_registry(root, registry)
    with held_aliases(root):
        previous = _previous(registry, model_name)
        champion = find_by_alias(registry, model_name, CHAMPION)
        is_back = champion is not None and champion.version == previous.version
        if not is_back:
            replaced = _number(champion)
            entry = Entry(
                clock(), model_name, Action.ROLLED_BACK, previous.version, replaced, run.run_id
            )
            promotions_table.record(root, entry, replaced)
            registry.set_alias(model_name, previous.version, CHAMPION)
        # Gone and not swapped: a rollback that is tried twice must not bring the other one back.
        registry.remove_alias(model_name, PREVIOUS)
        publish_models(root, registry)
    run.details = {"model": name_of(previous), "alias": CHAMPION}
    if champion and not is_back:
        run.details["replaced"] = name_of(champion)
    run.finish(Status.NOTHING_TO_DO if is_back else Status.PUBLISHED)


def find_by_alias(registry: Registry, model_name: str, alias: str) -> ModelVersion | None:
    """Return the version that has an alias, whether or not its bundle is intact."""
    for version in registry.list_versions():
        if version.model_name == model_name and alias in version.aliases:
            return version
    return None


def _challenger(registry: Registry, reference: str) -> ModelVersion:
    """Resolve what is to be promoted; the champion where no challenger is left."""
    name, _, alias = reference.partition("@")
    champion = find_by_alias(registry, name, CHAMPION)
    if alias == CHALLENGER and champion and not find_by_alias(registry, name, CHALLENGER):
        return champion
    return registry.resolve(reference)


def _previous(registry: Registry, model_name: str) -> ModelVersion:
    previous = find_by_alias(registry, model_name, PREVIOUS)
    if previous is None:
        versions = [
            name_of(version)
            for version in registry.list_versions()
            if version.model_name == model_name
        ]
        raise ModelRefusedError(
            f"There is nothing to roll {model_name!r} back to: none of its versions "
            f"({', '.join(versions) or 'it has none'}) is {PREVIOUS!r}. Nothing was promoted yet, "
            "or it was rolled back already. Promote the version that shall score, with --force if "
            "need be."
        )
    return registry.resolve(name_of(previous))


def _refuse_another_champion(registry: Registry, contest: Contest) -> None:
    name = contest.challenger.model_name
    now = find_by_alias(registry, name, CHAMPION)
    if _number(now) != _number(contest.champion):
        raise LockHeldError(
            f"The champion of {name!r} became {name_of(now)} while "
            f"{name_of(contest.challenger)} was compared with {name_of(contest.champion)}, by "
            "a rollback perhaps. Nothing was changed: run promote again if it shall still be."
        )


def _number(version: ModelVersion | None) -> int | None:
    return version.version if version else None


def _entry(contest: Contest, force: bool, run: Run, clock: Clock) -> Entry:
    return Entry(
        clock(),
        contest.challenger.model_name,
        Action.REFUSED if contest.failed and not force else Action.PROMOTED,
        contest.challenger.version,
        _number(contest.champion),
        run.run_id,
        force,
        contest.checks,
        contest.table_version,
        contest.test_rows,
    )


def _tidy(root: str, registry: Registry, champion: ModelVersion) -> None:
    """Take ``challenger`` from the new champion, and tell the table ``models``."""
    # Asked anew: a training may have registered the next challenger meanwhile.
    challenger = find_by_alias(registry, champion.model_name, CHALLENGER)
    if challenger and challenger.version == champion.version:
        registry.remove_alias(champion.model_name, CHALLENGER)
    publish_models(root, registry)

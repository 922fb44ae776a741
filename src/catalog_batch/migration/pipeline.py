"""Move the category tree, and with it what is published."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pyspark.sql import functions as F

from catalog_batch import ledger, tables
from catalog_batch.migration.mapping import (
    Change,
    Migration,
    Paths,
    is_applied,
    plan_migration,
    without_killed_run,
)
from catalog_batch.moved_rows import (
    has_moved_guess,
    is_moved,
    is_stuck,
    with_current_category,
)
from catalog_batch.moves import Moves, read_moves
from catalog_batch.runs import Run, Status
from catalog_batch.taxonomy import build_tree, category_id
from catalog_batch.warehouse import Warehouse

JOB = "migrate-taxonomy"

KEPT_OUT = ("ingest", "score")
"""Jobs that grow the tree, or publish predictions of it."""

PREDICTIONS = (tables.PRODUCT_PREDICTIONS, tables.SHADOW_PREDICTIONS)


@dataclass(frozen=True)
class _Plan:
    version: int
    """Of the tree that is, or will be, the newest."""

    migration: Migration | None
    """None when the mapping is applied already."""

    moves: Moves

    changes: Counter[Change]
    """By this mapping: what earlier ones moved is moved on, and counted no more."""


def migrate_taxonomy(
    warehouse: Warehouse, mapping: Mapping[str, Paths], run: Run, dry_run: bool = False
) -> None:
    """Apply a mapping of paths to the tree and to the published predictions.

    Renames, moves and merges need no model. Products of a category that was split or withdrawn
    keep their prediction, and the view ``predictions_to_rescore`` lists them.

    Args:
        warehouse: With a category tree.
        mapping: Old path to new paths, as ``read_mapping`` gives it.
        run: Filled in with categories by change and predictions moved.
        dry_run: Count what would be done, and change nothing.

    Raises:
        BadInputError: When the mapping does not fit the tree.
        LockHeldError: When ingest or scoring is at work.
        MissingTableError: When nothing was ingested yet.
        ConcurrentWriteError: When a run of another machine wrote the same predictions meanwhile.
    """
    warehouse.version(tables.CATEGORIES)  # Refuses a wrong folder before a lock makes it.
    with _kept_out(warehouse.root, dry_run):
        plan = _plan(warehouse, mapping)
        run.counts = {str(change): n for change, n in sorted(plan.changes.items())}
        run.details = {"taxonomy_version": plan.version}
        run.rows_in = len(mapping)
        published = warehouse.read_or_empty(tables.PRODUCT_PREDICTIONS)
        # Before they are. Of the rest guesses that were split go, and the tree's version changes.
        counted = {"predictions_moved": is_moved, "guesses_moved": has_moved_guess}
        for name, is_counted in counted.items():
            run.counts[name] = published.where(is_counted(plan.moves)).count()
        if not dry_run:
            with warehouse.stamped(run_id=run.run_id, job=JOB):
                if plan.migration:
                    _write_tree(warehouse, plan.version, plan.migration, run)
                moved = _move_predictions(warehouse, plan.moves, run)
            run.rows_out = moved[tables.PRODUCT_PREDICTIONS.name]
            done = bool(plan.migration or moved.total())
            run.finish(Status.PUBLISHED if done else Status.NOTHING_TO_DO)
        # As the view of this name: what was delisted needs no model.
        gone = warehouse.read_or_empty(tables.PRODUCTS).where("delisted_at IS NOT NULL")
        stuck = published.where(is_stuck(plan.moves)).join(gone, "product_id", "left_anti")
        run.counts["predictions_to_rescore"] = stuck.count()


@contextmanager
def _kept_out(root: str, dry_run: bool) -> Iterator[None]:
    with ExitStack() as held:
        for job in () if dry_run else KEPT_OUT:
            path = ledger.lock_folder(root) / f"job-{job}.lock"
            held.enter_context(ledger.held_lock(path, wait=False))
        yield


def _plan(warehouse: Warehouse, mapping: Mapping[str, Paths]) -> _Plan:
    moves = read_moves(warehouse.root)
    version = warehouse.read(tables.CATEGORIES).agg(F.max("taxonomy_version")).collect()[0][0] or 0
    newest = _trees_since(warehouse, version).get(version, set())
    if is_applied(mapping, newest, moves.new_paths):
        return _Plan(version, None, moves, Counter())
    # Also where its old paths are all there: a manifest may have named them again since.
    trees = _trees_since(warehouse, moves.version)
    tree = without_killed_run(trees, moves.new_paths, mapping) or newest
    kinds = {old: Change(kind) for old, kind in moves.changes.items()}
    planned = plan_migration(tree, moves.new_paths, mapping, kinds)
    if planned.tree != newest:
        version += 1
    changes = Counter(of for old, of in planned.changes.items() if old not in moves.new_paths)
    return _Plan(version, planned, Moves(version, planned.moves, planned.changes), changes)


def _trees_since(warehouse: Warehouse, version: int) -> dict[int, set[str]]:
    """Return the paths of a tree and of those after it, by version."""
    rows = warehouse.read(tables.CATEGORIES).where(F.col("taxonomy_version") >= version)
    trees: dict[int, set[str]] = {}
    for row in rows.select("taxonomy_version", "path").collect():
        trees.setdefault(row["taxonomy_version"], set()).add(row["path"])
    return trees


def _write_tree(warehouse: Warehouse, version: int, migration: Migration, run: Run) -> None:
    spark = warehouse.spark
    tree = [
        (version, node.category_id, node.parent_id, node.name, node.path, node.level)
        for node in build_tree(migration.tree)
    ]
    moves = [
        (
            version,
            category_id(old),
            old,
            category_id(new[0]) if len(new) == 1 else None,
            list(new),
            str(migration.changes[old]),
            run.run_id,
        )
        for old, new in sorted(migration.moves.items())
    ]
    warehouse.create(tables.TAXONOMY_CHANGES)
    warehouse.insert_new(spark.createDataFrame(tree, tables.CATEGORIES.schema), tables.CATEGORIES)
    warehouse.upsert(
        spark.createDataFrame(moves, tables.TAXONOMY_CHANGES.schema), tables.TAXONOMY_CHANGES
    )


def _move_predictions(warehouse: Warehouse, moves: Moves, run: Run) -> Counter[str]:
    """Move what is published, and what was scored beside it; count both by table."""
    changed = Counter[str]()
    for table in filter(warehouse.exists, PREDICTIONS):
        moved = with_current_category(warehouse.read(table), moves).withColumns(
            {"predicted_at": F.lit(run.started_at), "run_id": F.lit(run.run_id)}
        )
        with (
            warehouse.alone(table, run.run_id),
            warehouse.staged(moved, f"{run.run_id}-{table.name}") as staged,
        ):
            changed[table.name] = warehouse.upsert(staged, table)
    return changed

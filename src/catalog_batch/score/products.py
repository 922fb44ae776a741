"""A night's decisions: of products whose images all have an answer, one each."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame

from catalog_batch import tables
from catalog_batch.config import ScoreSettings
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.moved_rows import with_current_category
from catalog_batch.moves import read_moves
from catalog_batch.score import transforms
from catalog_batch.score.checks import check_decisions, pass_gate
from catalog_batch.score.fingerprint import changes_since_last
from catalog_batch.score.night import JOB, Night, literals
from catalog_batch.score.selection import changed_products, unfinished_products
from catalog_batch.taxonomy import ancestors, category_id, inner_nodes
from catalog_batch.warehouse import cached


@contextmanager
def products_to_decide(night: Night) -> Iterator[DataFrame | None]:
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


def decide_products(night: Night, changed: DataFrame | None) -> int:
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
        .select("*", *literals(lineage))
        .transform(with_current_category, read_moves(warehouse.root))
    )
    with warehouse.staged(decisions, f"{run.run_id}-decisions") as staged:
        run.measures["products_decided"] = decided = check_decisions(staged)
        run.measures["products_waiting"] = products.count() - decided
        if not night.scope.shadow:
            pass_gate(warehouse, staged, kept, night.settings, run)
        shared = night.of_model if night.scope.shadow else None
        return warehouse.upsert(staged, night.target, shared=shared)


def count_decisions(night: Night) -> dict[str, int]:
    """Return how many listed products in scope have each decision, whichever run made it."""
    products = night.listed(tables.PRODUCTS)
    rows = night.warehouse.read(night.target).join(products, "product_id", "left_semi")
    if night.scope.shadow:
        rows = rows.transform(transforms.keep_of_model, night.model.model_name, night.model.version)
    counted = rows.groupBy("decision").count().collect()
    return {row["decision"]: row["count"] for row in sorted(counted)}


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

"""Spark reads the rows that were written without it, into the table that its DDL makes."""

from catalog_batch import promotions_table, tables
from catalog_batch.evaluate.gate import Check
from catalog_batch.promotions_table import Action, Entry
from catalog_batch.runs import Clock
from catalog_batch.warehouse import Warehouse

CHECK = Check("max_class_loss", 0.15, 0.9, 0.25, False, 20, "Fruit/Apple")


def test_sql_reads_the_checks_of_what_was_recorded(warehouse: Warehouse, clock: Clock) -> None:
    warehouse.create(tables.PROMOTIONS)
    for run_id, action in (
        ("r1", Action.REFUSED),
        ("r2", Action.PROMOTED),  # and killed before the alias moved
        ("r3", Action.PROMOTED),
    ):
        entry = Entry(clock(), "shop", action, 2, 1, run_id, True, [CHECK], 3, 40)
        promotions_table.record(warehouse.root, entry, champion=1)
    found = warehouse.read(tables.PROMOTIONS).orderBy("promoted_at")
    assert [(row["run_id"], row["action"]) for row in found.collect()] == [
        ("r1", "refused"),
        ("r2", "interrupted"),
        ("r3", "promoted"),
    ]
    [check] = found.where("run_id = 'r1'").selectExpr("inline(checks)").collect()
    assert check.asDict() == vars(CHECK)

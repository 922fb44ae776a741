"""Champion against challenger: promotions, the refusals of each bound, and runs that were killed.

The champion, catalogue/1, answers lamps to everything, and the challenger, catalogue/2, bags: of
the 8 test rows 3 are lamps and 4 are bags.
"""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.promotion.shop import Shop, killed_where

from catalog_batch.errors import (
    GateRefusedError,
    LockHeldError,
    MissingTableError,
    ModelRefusedError,
    TrainingDataError,
)
from catalog_batch.evaluate.gate import Check
from catalog_batch.leases import Lease, live_leases
from catalog_batch.promotion import contest
from catalog_batch.promotion.pipeline import promote_model, rollback_model
from catalog_batch.promotions_table import Action, Entry, record
from catalog_batch.registry import DOUBT, Registry
from catalog_batch.runs import Clock, Run
from catalog_batch.split_rows import find_split_rows

CHALLENGER = "catalogue@challenger"


@pytest.fixture
def promote(shop: Shop, make_run: Any, clock: Clock) -> Any:
    """Return what runs the job with some bounds."""

    def run_promote(reference: str = CHALLENGER, force: bool = False, **bounds: float) -> Run:
        run: Run = make_run("promote")
        promote_model(shop.settings(**bounds), run, reference, force, clock=clock)
        return run

    return run_promote


@pytest.fixture
def roll_back(shop: Shop, make_run: Any, clock: Clock) -> Any:
    """Return what runs the job."""

    def run_rollback(model_name: str = "catalogue") -> Run:
        run: Run = make_run("rollback")
        rollback_model(shop.settings(), run, model_name, clock)
        return run

    return run_rollback


def promotions(shop: Shop) -> list[tuple[Any, ...]]:
    columns = ("action", "version", "previous_version", "forced")
    return [tuple(row[name] for name in columns) for row in shop.read("promotions")]


def table_of_models(shop: Shop) -> dict[int, str | None]:
    return {row["version"]: row["alias"] for row in shop.read("models")}


def test_a_challenger_that_stands_the_comparison_becomes_champion(shop: Shop, promote: Any) -> None:
    run = promote(min_accuracy=4 / 8, min_improvement=1 / 8)
    assert (run.status, run.exit_code, run.rows_in) == ("published", 0, 8)
    assert run.counts == {"checks_passed": 4, "checks_failed": 0}
    assert run.table_versions == {"training_examples": 0}
    assert (run.details["model"], run.details["champion"]) == ("catalogue/2", "catalogue/1")
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert table_of_models(shop) == {1: "previous", 2: "champion"}
    [row] = shop.read("promotions")
    first, *others = row.pop("checks")
    assert first == {
        "name": "min_accuracy",
        "bound": 0.5,
        "champion": 0.375,
        "challenger": 0.5,
        "passed": True,
        "rows": 8,
        "category_path": None,
    }
    assert [check["name"] for check in others] == [
        "max_calibration_error",
        "min_improvement",
        "max_class_loss",
    ]
    assert run.started_at < row.pop("promoted_at")
    assert row == {
        "model_name": "catalogue",
        "action": "promoted",
        "version": 2,
        "previous_version": 1,
        "forced": False,
        "training_table_version": 0,
        "test_rows": 8,
        "run_id": run.run_id,
    }


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (
            {"min_accuracy": 0.51},
            "promote.min_accuracy is 0.51, and the accuracy over 8 test rows is 0.5 for the "
            "challenger and 0.375 for the champion.",
        ),
        (
            {"min_improvement": 0.2},
            "promote.min_improvement is 0.2, and the accuracy over 8 test rows is 0.5 for the "
            "challenger and 0.375 for the champion.",
        ),
        (
            {"max_class_loss": 0.15, "min_class_rows": 3},
            "promote.max_class_loss is 0.15, and the recall of 'Shop/lamps' over 3 test rows is 0 "
            "for the challenger and 1 for the champion.",
        ),
        (
            # Both are exp(3) / (exp(3) + 2) sure of all their answers.
            {"max_calibration_error": 0.1},
            "promote.max_calibration_error is 0.1, and the calibration error over 8 test rows is "
            "0.409443 for the challenger and 0.534443 for the champion.",
        ),
    ],
)
def test_a_refusal_names_the_bound_and_both_figures(
    shop: Shop, promote: Any, bound: dict[str, float], words: str
) -> None:
    with pytest.raises(GateRefusedError) as caught:
        promote(**bound)
    assert caught.value.exit_code == 30
    assert str(caught.value) == (
        f"catalogue/2 is not promoted: {words} catalogue/1 stays champion. Train a better model, "
        "or promote this one all the same with --force, which is recorded."
    )
    assert shop.aliases() == {"champion": 1, "challenger": 2}
    assert promotions(shop) == [("refused", 2, 1, False)]
    failed = [check for check in shop.read("promotions")[0]["checks"] if not check["passed"]]
    assert [check["name"] for check in failed] == [next(iter(bound))]


def test_the_same_refusal_again_is_no_second_row(shop: Shop, promote: Any) -> None:
    for bound in (0.9, 0.9, 0.8):
        with pytest.raises(GateRefusedError):
            promote(min_accuracy=bound)
    assert [row["checks"][0]["bound"] for row in shop.read("promotions")] == [0.9, 0.8]


def test_force_passes_over_a_failed_check_and_is_recorded(shop: Shop, promote: Any) -> None:
    run = promote(force=True, min_accuracy=0.9)
    assert (run.status, run.details["forced"]) == ("published", True)
    assert run.counts == {"checks_passed": 3, "checks_failed": 1}
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert promotions(shop) == [("promoted", 2, 1, True)]


def test_promoting_twice_changes_nothing_the_second_time(shop: Shop, promote: Any) -> None:
    promote()
    before = (shop.aliases(), shop.read("promotions"), table_of_models(shop))
    for reference in (CHALLENGER, "catalogue/2"):
        run = promote(reference)
        assert (run.status, run.exit_code) == ("nothing_to_do", 10)
        assert run.details["model"] == "catalogue/2"
    assert (shop.aliases(), shop.read("promotions"), table_of_models(shop)) == before


def test_a_model_without_a_champion_is_held_to_the_absolute_bounds(
    shop: Shop, promote: Any
) -> None:
    shop.registry.remove_alias("catalogue", "champion")
    with pytest.raises(GateRefusedError, match=r"is 0\.5 for the challenger\. Train a better"):
        promote(min_accuracy=0.6, min_improvement=0.9)
    run = promote(min_accuracy=0.5, min_improvement=0.9)
    names = [check["name"] for check in run.details["checks"]]
    assert names == ["min_accuracy", "max_calibration_error"]
    assert shop.aliases() == {"champion": 2}
    assert promotions(shop) == [("refused", 2, None, False), ("promoted", 2, None, False)]


def test_both_answer_the_test_rows_of_the_challengers_table_version(
    shop: Shop, promote: Any
) -> None:
    shop.write_examples(["shoes"] * 5)  # version 1
    shop.write_examples(["bags"] * 7)  # version 2, which neither was trained on
    shop.add_model("shoes", table_version=1)
    run = promote()
    accuracy = run.details["checks"][0]
    assert (accuracy["rows"], accuracy["champion"], accuracy["challenger"]) == (5, 0, 1)
    assert run.table_versions == {"training_examples": 1}


def test_the_test_rows_of_a_warehouse_are_found_by_its_url(shop: Shop) -> None:
    # Of a folder with a space, which is %20 there.
    by_url = find_split_rows(shop.root.as_uri(), 0, "test")
    assert by_url == find_split_rows(str(shop.root), 0, "test")
    assert by_url.rows == 8


def test_confidences_are_compared_after_the_temperature(shop: Shop, promote: Any) -> None:
    # exp(t) / (exp(t) + 2) is a half at t = ln 2, and half of the rows are bags.
    shop.add_model("bags", logit=3.0, temperature=3.0 / 0.6931472)
    assert promote(max_calibration_error=0.001).status == "published"


def test_the_checks_of_a_refusal_are_told(shop: Shop, make_run: Any, clock: Clock) -> None:
    told: list[Sequence[Check]] = []
    settings = shop.settings(min_accuracy=0.9)
    with pytest.raises(GateRefusedError):
        promote_model(settings, make_run("promote"), CHALLENGER, False, told.append, clock)
    assert {check.name: check.passed for check in told[0]} == {
        "min_accuracy": False,
        "max_calibration_error": True,
        "min_improvement": True,
        "max_class_loss": True,
    }


def test_classes_that_the_challenger_lacks_are_told(
    shop: Shop, promote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop.add_model("bags", classes=("bags", "lamps"))
    promote()
    assert "catalogue/3 lacks 1 classes of the champion" in caplog.text
    assert "Shop/shoes" in caplog.text


def test_a_challenger_that_may_have_seen_test_rows_is_told_and_refused(
    shop: Shop, promote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tags = {DOUBT: "It has seen 3 test rows."}
    doubtful = f"catalogue/{shop.add_model('bags', logit=4, tags=tags).version}"
    with pytest.raises(GateRefusedError, match=r"promote\.allow_doubt is false"):
        promote(doubtful)
    assert "catalogue/3: It has seen 3 test rows." in caplog.text
    [row] = shop.read("promotions")
    assert [check["name"] for check in row["checks"] if not check["passed"]] == ["allow_doubt"]
    assert promote(doubtful, allow_doubt=True).status == "published"


def test_few_test_rows_are_not_enough_and_classes_of_few_are_told_not_to_be_checked(
    shop: Shop, promote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GateRefusedError, match=r"promote\.min_test_rows is 9, and there are 8"):
        promote(min_test_rows=9)
    promote(min_test_rows=8, min_class_rows=5)
    assert "max_class_loss is not checked: no class has promote.min_class_rows = 5" in caplog.text


def test_the_tables_files_are_leased_while_rows_are_read(
    shop: Shop, promote: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Lease] = []
    compare = contest.compare

    def noting(*arguments: Any) -> Any:
        seen.extend(live_leases(str(shop.root), "training_examples", clock()))
        return compare(*arguments)

    monkeypatch.setattr(contest, "compare", noting)
    run = promote()
    [lease] = seen
    assert (lease.holder, lease.version) == (run.run_id, 0)
    assert lease.until is not None and lease.until > clock() + timedelta(hours=70)
    assert list(Path(shop.root, "_leases").iterdir()) == []


@pytest.mark.parametrize(("products", "is_told"), [("train", True), ("test", False)])
def test_a_champion_that_was_trained_on_products_of_the_test_rows_is_told(
    shop: Shop,
    promote: Any,
    caplog: pytest.LogCaptureFixture,
    products: str,
    is_told: bool,
) -> None:
    shop.write_examples(["bags"] * 5, products)  # version 1, after a split with another seed
    shop.add_model("bags", logit=4, table_version=1)
    promote()
    told = "catalogue/1 was trained on the products of 3 of 5 test rows, which version 0"
    assert (told in caplog.text) is is_told


def test_of_a_champion_whose_table_was_dropped_since_nobody_knows(
    shop: Shop, promote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(shop.root / "training_examples")
    shop.write_examples(["bags"] * 5, "train")  # version 0 again, of another table
    shop.add_model("bags", logit=4)
    with caplog.at_level("INFO"):
        promote()
    assert "whether catalogue/1 has seen test rows is not known" in caplog.text


def test_of_a_champion_whose_rows_are_gone_nobody_knows(
    shop: Shop, promote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop.write_examples(["bags"] * 5)
    shop.add_model("bags", logit=4, table_version=1)
    DeltaTable(str(shop.root / "training_examples")).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False
    )
    with caplog.at_level("INFO"):
        promote()
    assert "whether catalogue/1 has seen test rows is not known" in caplog.text
    assert shop.aliases() == {"champion": 3, "previous": 1}


@pytest.mark.parametrize("alias", ["previous", "champion"])
def test_a_run_killed_before_the_alias_moved_is_repeated_whole(
    shop: Shop, promote: Any, alias: str
) -> None:
    with killed_where(Registry, "set_alias", alias):
        promote(force=True, min_accuracy=0.9)
    assert shop.aliases()["champion"] == 1
    assert promotions(shop) == [("promoted", 2, 1, True)]
    with pytest.raises(GateRefusedError):
        promote(min_accuracy=0.9)
    run = promote()
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert promotions(shop) == [
        ("interrupted", 2, 1, True),
        ("refused", 2, 1, False),
        ("promoted", 2, 1, False),
    ]
    assert shop.read("promotions")[-1]["run_id"] == run.run_id


def test_a_clock_that_was_set_back_does_not_change_the_order_of_the_rows(
    shop: Shop, make_run: Any
) -> None:
    def at_hour(hour: int) -> Clock:
        return lambda: datetime(2026, 6, 1, hour, tzinfo=UTC)

    promote_model(shop.settings(), make_run("promote"), CHALLENGER, clock=at_hour(9))
    rollback_model(shop.settings(), make_run("rollback"), "catalogue", at_hour(8))
    promote_model(shop.settings(), make_run("promote"), "catalogue/2", clock=at_hour(7))
    assert promotions(shop) == [
        ("promoted", 2, 1, False),
        ("rolled_back", 1, 2, False),
        ("promoted", 2, 1, False),
    ]
    nine = at_hour(9)()
    assert [row["promoted_at"] - nine for row in shop.read("promotions")] == [
        timedelta(microseconds=late) for late in range(3)
    ]


def test_a_run_killed_after_the_alias_moved_is_tidied_by_the_next(shop: Shop, promote: Any) -> None:
    with killed_where(Registry, "remove_alias", "challenger"):
        promote()
    assert shop.aliases() == {"champion": 2, "challenger": 2, "previous": 1}
    assert promote().status == "nothing_to_do"
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert table_of_models(shop) == {1: "previous", 2: "champion"}
    assert promotions(shop) == [("promoted", 2, 1, False)]


@pytest.mark.parametrize("job", ["promote", "roll_back"])
def test_a_registry_that_the_warehouse_does_not_know_is_refused_before_an_alias_moves(
    shop: Shop, request: pytest.FixtureRequest, promote: Any, job: str
) -> None:
    promote()
    shop.add_model("shoes")
    known = DeltaTable(str(shop.root / "models")).to_pyarrow_table()
    others = pa.array(["f" * 64] * known.num_rows)
    place = known.schema.get_field_index("digest")
    write_deltalake(
        str(shop.root / "models"), known.set_column(place, "digest", others), mode="overwrite"
    )
    before = shop.aliases(), promotions(shop)
    with pytest.raises(ModelRefusedError, match="as version 1 of 'catalogue' another bundle"):
        request.getfixturevalue(job)()
    assert (shop.aliases(), promotions(shop)) == before


def test_the_interrupted_row_of_a_model_leaves_other_models_alone(shop: Shop, promote: Any) -> None:
    model = shop.registry.resolve(CHALLENGER)
    shop.registry.register("other", model.bundle_folder, {}, model.tags)
    shop.registry.remove_alias("other", "champion")
    promote("other/1")
    with killed_where(Registry, "set_alias", "champion"):
        promote()
    promote()
    assert [(row["model_name"], row["action"]) for row in shop.read("promotions")] == [
        ("other", "promoted"),
        ("catalogue", "interrupted"),
        ("catalogue", "promoted"),
    ]


def test_a_first_champion_is_followed_by_promotions_and_is_no_promotion_to_undo(
    shop: Shop, promote: Any, roll_back: Any, clock: Clock
) -> None:
    first = Entry(clock(), "catalogue", Action.FIRST, 1, None, "r1")
    record(str(shop.root), first, champion=None)
    with pytest.raises(ModelRefusedError, match="nothing to roll 'catalogue' back to"):
        roll_back()
    promote()
    roll_back()
    assert shop.aliases()["champion"] == 1
    assert promotions(shop) == [
        ("first", 1, None, False),
        ("promoted", 2, 1, False),
        ("rolled_back", 1, 2, False),
    ]


def test_a_champion_that_changed_meanwhile_is_not_replaced(
    shop: Shop, make_run: Any, clock: Clock
) -> None:
    def change(checks: Sequence[Check]) -> None:
        shop.registry.remove_alias("catalogue", "champion")

    with pytest.raises(LockHeldError, match=r"became none while catalogue/2 .* catalogue/1"):
        promote_model(shop.settings(), make_run("promote"), CHALLENGER, False, change, clock)
    assert shop.aliases() == {"challenger": 2}
    assert promotions(shop) == []


def test_a_version_whose_files_were_deleted_is_refused_unless_forced(
    shop: Shop, promote: Any
) -> None:
    shop.write_examples(["shoes"])
    DeltaTable(str(shop.root / "training_examples")).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False
    )
    with pytest.raises(TrainingDataError, match=r"version 0 of training_examples.*--force"):
        promote()
    assert promotions(shop) == []
    assert promote(force=True).rows_in is None
    assert shop.aliases() == {"champion": 2, "previous": 1}
    [row] = shop.read("promotions")
    assert (row["action"], row["forced"], row["checks"]) == ("promoted", True, [])
    assert (row["training_table_version"], row["test_rows"]) == (0, None)


def test_a_table_version_that_never_was_is_named(shop: Shop, promote: Any) -> None:
    shop.add_model("bags", table_version=7)
    with pytest.raises(MissingTableError, match="no version 7"):
        promote()


def test_without_test_rows_nothing_is_promoted(shop: Shop, promote: Any) -> None:
    shop.write_examples([])
    shop.add_model("bags", table_version=1)
    with pytest.raises(GateRefusedError, match="over 0 test rows is unknown"):
        promote()


def test_a_table_that_was_built_anew_has_other_test_rows(shop: Shop, promote: Any) -> None:
    shutil.rmtree(shop.root / "training_examples")
    shop.write_examples(["bags"] * 7)
    with pytest.raises(MissingTableError, match="was dropped and built again since"):
        promote()
    assert promote(force=True).rows_in is None


def test_a_damaged_challenger_is_refused_even_with_force(shop: Shop, promote: Any) -> None:
    shop.damage(2)
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors"):
        promote(force=True)
    assert shop.aliases() == {"champion": 1, "challenger": 2}


def test_a_damaged_champion_can_only_be_replaced_with_force(shop: Shop, promote: Any) -> None:
    shop.damage(1)
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors"):
        promote()
    promote(force=True)
    assert promotions(shop) == [("promoted", 2, 1, True)]


def test_a_warehouse_without_the_table_is_refused_before_any_work(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    shutil.rmtree(shop.root / "promotions")
    for job in (promote, roll_back):
        with pytest.raises(MissingTableError, match=r"'promotions'.*Run ingest once"):
            job()


def test_a_rollback_makes_the_champion_before_champion_again_and_no_other(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    promote()
    # A bad champion is what one rolls back from.
    shop.damage(2)
    run = roll_back()
    assert run.status == "published"
    assert (run.details["model"], run.details["replaced"]) == ("catalogue/1", "catalogue/2")
    assert shop.aliases() == {"champion": 1}
    assert table_of_models(shop) == {1: "champion", 2: None}
    with pytest.raises(ModelRefusedError, match="or it was rolled back already"):
        roll_back()
    assert shop.aliases() == {"champion": 1}
    assert promotions(shop) == [("promoted", 2, 1, False), ("rolled_back", 1, 2, False)]


def test_a_rollback_without_a_promotion_is_refused(shop: Shop, roll_back: Any) -> None:
    for name, versions in (("catalogue", "catalogue/1, catalogue/2"), ("other", "it has none")):
        with pytest.raises(ModelRefusedError, match=f"nothing to roll '{name}' back.*{versions}"):
            roll_back(name)
    assert promotions(shop) == []


def test_a_rollback_to_a_damaged_bundle_is_refused(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    promote()
    shop.damage(1)
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors"):
        roll_back()
    assert shop.aliases() == {"champion": 2, "previous": 1}


def test_a_rollback_killed_halfway_is_finished_by_the_next(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    promote()
    with killed_where(Registry, "set_alias", "champion"):
        roll_back()
    assert shop.aliases() == {"champion": 2, "previous": 1}
    with killed_where(Registry, "remove_alias", "previous"):
        roll_back()
    assert shop.aliases() == {"champion": 1, "previous": 1}
    assert roll_back().status == "nothing_to_do"
    assert shop.aliases() == {"champion": 1}
    assert [action for action, *_ in promotions(shop)] == [
        "promoted",
        "interrupted",
        "rolled_back",
    ]

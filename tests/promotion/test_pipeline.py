"""Champion and challenger, the refusals of each bound, the way back, and runs that were killed."""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from tests.promotion.shop import Shop

from catalog_batch.errors import (
    GateRefusedError,
    LockHeldError,
    MissingTableError,
    ModelRefusedError,
    TrainingDataError,
)
from catalog_batch.evaluate.gate import Check
from catalog_batch.leases import live_leases
from catalog_batch.promotion import contest
from catalog_batch.promotion.pipeline import promote_model, rollback_model
from catalog_batch.registry import Registry
from catalog_batch.runs import Clock, Run

CHALLENGER = "catalogue@challenger"
BAGS, LAMPS = 4 / 8, 3 / 8
"""Shares of the test rows, and so the accuracies of models that only know one answer."""


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


def killed_at(monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    """Let a run die where it would move an alias."""
    move = Registry.set_alias

    def die(registry: Registry, model_name: str, version: int, to: str) -> None:
        if to == alias:
            raise KeyboardInterrupt
        move(registry, model_name, version, to)

    monkeypatch.setattr(Registry, "set_alias", die)


def test_a_challenger_that_stands_the_comparison_becomes_champion(shop: Shop, promote: Any) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    run = promote(min_accuracy=BAGS, min_improvement=BAGS - LAMPS)
    assert (run.status, run.exit_code, run.rows_in) == ("published", 0, 8)
    assert run.counts == {"checks_passed": 4, "checks_failed": 0}
    assert run.table_versions == {"training_examples": 0}
    assert (run.details["model"], run.details["champion"]) == ("catalogue/2", "catalogue/1")
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert {row["version"]: row["alias"] for row in shop.read("models")} == {
        1: "previous",
        2: "champion",
    }
    [row] = shop.read("promotions")
    assert [(check["name"], check["champion"], check["challenger"]) for check in row["checks"]][
        :1
    ] == [("min_accuracy", LAMPS, BAGS)]
    assert (row["action"], row["version"], row["previous_version"]) == ("promoted", 2, 1)
    assert (row["test_rows"], row["training_table_version"]) == (8, 0)
    assert (row["run_id"], row["forced"]) == (run.run_id, False)


@pytest.mark.parametrize(
    ("champion", "challenger", "bound", "words"),
    [
        (
            "bags",
            "bags",
            {"min_accuracy": 0.51},
            "promote.min_accuracy is 0.51, and the accuracy over 8 test rows is 0.5 for the "
            "challenger and 0.5 for the champion",
        ),
        (
            "lamps",
            "bags",
            {"min_improvement": 0.2},
            "promote.min_improvement is 0.2, and the accuracy over 8 test rows is 0.5 for the "
            "challenger and 0.375 for the champion",
        ),
        (
            "lamps",
            "bags",
            {"max_class_loss": 0.15, "min_class_rows": 3},
            "promote.max_class_loss is 0.15, and the recall of 'Shop/lamps' over 3 test rows is 0 "
            "for the challenger and 1 for the champion",
        ),
        (
            "lamps",
            "bags",
            {"max_calibration_error": 0.1},
            # exp(3) / (exp(3) + 2) sure, and right in half of the cases.
            "promote.max_calibration_error is 0.1, and the calibration error over 8 test rows is "
            "0.40944",
        ),
    ],
)
def test_a_refusal_names_the_bound_and_both_figures(
    shop: Shop, promote: Any, champion: str, challenger: str, bound: dict[str, float], words: str
) -> None:
    shop.add_model(champion)
    shop.add_model(challenger, logit=3.0 if champion != challenger else 3.5)
    with pytest.raises(GateRefusedError) as caught:
        promote(**bound)
    message = str(caught.value)
    assert message.startswith(f"catalogue/2 is not promoted: {words}")
    assert message.count("promote.") == 1, "one bound was broken"
    assert "catalogue/1 stays champion" in message and "--force" in message
    assert caught.value.exit_code == 30
    assert shop.aliases() == {"champion": 1, "challenger": 2}
    [row] = shop.read("promotions")
    assert (row["action"], row["version"], row["previous_version"]) == ("refused", 2, 1)
    assert [check["name"] for check in row["checks"] if not check["passed"]] == [next(iter(bound))]


def test_the_same_refusal_again_is_no_second_row(shop: Shop, promote: Any) -> None:
    shop.add_model("bags")
    shop.add_model("lamps")
    for bound in (0.9, 0.9, 0.8):
        with pytest.raises(GateRefusedError):
            promote(min_accuracy=bound)
    rows = shop.read("promotions")
    assert [row["checks"][0]["bound"] for row in rows] == [0.9, 0.8]


def test_force_passes_over_a_failed_check_and_is_recorded(shop: Shop, promote: Any) -> None:
    shop.add_model("bags")
    shop.add_model("lamps")
    run = promote(force=True, min_accuracy=0.9)
    assert (run.status, run.details["forced"]) == ("published", True)
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert promotions(shop) == [("promoted", 2, 1, True)]
    [row] = shop.read("promotions")
    assert [check["name"] for check in row["checks"] if not check["passed"]] == ["min_accuracy"]


def test_promoting_twice_changes_nothing_the_second_time(shop: Shop, promote: Any) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    promote()
    before = (shop.aliases(), shop.read("promotions"), shop.read("models"))
    for reference in (CHALLENGER, "catalogue/2", "catalogue@champion"):
        run = promote(reference)
        assert (run.status, run.exit_code) == ("nothing_to_do", 10)
        assert run.details["model"] == "catalogue/2"
    assert (shop.aliases(), shop.read("promotions"), shop.read("models")) == before


def test_a_model_without_a_champion_is_held_to_the_absolute_bounds(
    shop: Shop, promote: Any
) -> None:
    shop.add_model("bags")
    shop.registry.remove_alias("catalogue", "champion")
    with pytest.raises(GateRefusedError, match=r"min_accuracy is 0\.6.* 0\.5 for the challenger\."):
        promote("catalogue/1", min_accuracy=0.6, min_improvement=0.9)
    run = promote("catalogue/1", min_accuracy=0.5, min_improvement=0.9)
    assert [check["name"] for check in run.details["checks"]] == [
        "min_accuracy",
        "max_calibration_error",
    ]
    assert shop.aliases() == {"champion": 1}
    assert promotions(shop) == [("refused", 1, None, False), ("promoted", 1, None, False)]


def test_both_answer_the_test_rows_of_the_challengers_table_version(
    shop: Shop, promote: Any
) -> None:
    shop.write_examples(["lamps"] * 5)  # version 1
    shop.write_examples(["shoes"] * 7)  # version 2, of which neither knows
    shop.add_model("bags", table_version=0)
    shop.add_model("lamps", table_version=1)
    run = promote()
    accuracy = run.details["checks"][0]
    assert (accuracy["rows"], accuracy["champion"], accuracy["challenger"]) == (5, 0, 1)
    assert run.table_versions == {"training_examples": 1}


def test_confidences_are_compared_after_the_temperature(shop: Shop, promote: Any) -> None:
    shop.add_model("lamps")
    # exp(t) / (exp(t) + 2) is a half at t = ln 2, as many as are right.
    shop.add_model("bags", logit=3.0, temperature=3.0 / 0.6931472)
    run = promote(max_calibration_error=0.001)
    assert run.status == "published"


def test_the_checks_are_told_also_of_a_refusal(shop: Shop, make_run: Any, clock: Clock) -> None:
    shop.add_model("bags")
    shop.add_model("lamps")
    told: list[Sequence[Check]] = []
    settings = shop.settings(min_accuracy=0.9)
    with pytest.raises(GateRefusedError):
        promote_model(settings, make_run("promote"), CHALLENGER, False, told.append, clock)
    assert [(check.name, check.passed) for check in told[0]] == [
        ("min_accuracy", False),
        ("max_calibration_error", True),
        ("min_improvement", True),
        ("max_class_loss", True),
    ]


def test_a_rollback_makes_the_champion_before_champion_again(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    promote()
    run = roll_back()
    assert (run.status, run.details["model"], run.details["replaced"]) == (
        "published",
        "catalogue/1",
        "catalogue/2",
    )
    assert shop.aliases() == {"champion": 1}
    assert {row["version"]: row["alias"] for row in shop.read("models")} == {1: "champion", 2: None}
    assert promotions(shop) == [("promoted", 2, 1, False), ("rolled_back", 1, 2, False)]


def test_a_second_rollback_does_not_bring_the_worse_model_back(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    promote()
    roll_back()
    with pytest.raises(ModelRefusedError, match=r"nothing to roll 'catalogue' back to.*--force"):
        roll_back()
    assert shop.aliases() == {"champion": 1}
    assert len(shop.read("promotions")) == 2


@pytest.mark.parametrize("name", ["catalogue", "other", "../other"])
def test_a_rollback_without_a_promotion_is_refused(shop: Shop, roll_back: Any, name: str) -> None:
    shop.add_model("bags")
    with pytest.raises(ModelRefusedError, match="Nothing was promoted yet"):
        roll_back(name)
    assert shop.read("promotions") == []


def test_a_rollback_does_not_ask_whether_the_bad_champion_is_intact(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    shop.add_model("lamps")
    damaged = shop.add_model("bags")
    promote()
    (damaged.bundle_folder / "model.safetensors").write_bytes(b"")
    roll_back()
    assert shop.aliases() == {"champion": 1}


def test_a_rollback_to_a_damaged_bundle_is_refused(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    damaged = shop.add_model("lamps")
    shop.add_model("bags")
    promote()
    (damaged.bundle_folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors"):
        roll_back()
    assert shop.aliases() == {"champion": 2, "previous": 1}


@pytest.mark.parametrize("alias", ["previous", "champion"])
def test_a_run_killed_before_the_alias_moved_is_repeated_whole(
    shop: Shop, promote: Any, alias: str
) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(patch, alias)
        promote()
    assert shop.aliases()["champion"] == 1
    run = promote()
    assert run.status == "published"
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert promotions(shop) == [("interrupted", 2, 1, False), ("promoted", 2, 1, False)]
    assert shop.read("promotions")[1]["run_id"] == run.run_id


def test_a_run_killed_after_the_alias_moved_is_tidied_by_the_next(shop: Shop, promote: Any) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, "remove_alias", die)
        promote()
    assert shop.aliases() == {"champion": 2, "challenger": 2, "previous": 1}
    assert promote().status == "nothing_to_do"
    assert shop.aliases() == {"champion": 2, "previous": 1}
    assert {row["version"]: row["alias"] for row in shop.read("models")} == {
        1: "previous",
        2: "champion",
    }
    assert promotions(shop) == [("promoted", 2, 1, False)]


def test_a_rollback_killed_halfway_is_finished_by_the_next(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    promote()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(patch, "champion")
        roll_back()
    assert shop.aliases() == {"champion": 2, "previous": 1}

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, "remove_alias", die)
        roll_back()
    assert shop.aliases() == {"champion": 1, "previous": 1}
    assert roll_back().status == "nothing_to_do"
    assert shop.aliases() == {"champion": 1}
    assert [action for action, *_ in promotions(shop)] == [
        "promoted",
        "interrupted",
        "rolled_back",
    ]


def test_interrupted_rows_of_one_model_leave_another_models_alone(shop: Shop, promote: Any) -> None:
    other = shop.add_model("lamps")
    shop.registry.register("other", other.bundle_folder, {}, other.tags)
    shop.registry.remove_alias("other", "champion")
    promote("other/1")
    shop.add_model("bags")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(patch, "champion")
        promote()
    promote()
    named = [(row["model_name"], row["action"]) for row in shop.read("promotions")]
    assert named == [
        ("other", "promoted"),
        ("catalogue", "interrupted"),
        ("catalogue", "promoted"),
    ]


def test_a_champion_that_changed_meanwhile_is_not_replaced(
    shop: Shop, make_run: Any, clock: Clock
) -> None:
    shop.add_model("lamps")
    shop.add_model("shoes")
    shop.add_model("bags")

    def change(checks: Sequence[Check]) -> None:
        shop.registry.set_alias("catalogue", 2, "champion")

    with pytest.raises(LockHeldError, match=r"became catalogue/2 while catalogue/3"):
        promote_model(shop.settings(), make_run("promote"), CHALLENGER, False, change, clock)
    assert shop.aliases() == {"champion": 2, "challenger": 3}
    assert shop.read("promotions") == []


def test_a_version_whose_files_were_deleted_is_refused_unless_forced(
    shop: Shop, promote: Any
) -> None:
    shop.add_model("lamps")
    shop.add_model("bags")
    shop.write_examples(["shoes"])
    DeltaTable(str(shop.root / "training_examples")).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False
    )
    with pytest.raises(TrainingDataError, match=r"version 0 of training_examples.*--force"):
        promote()
    assert shop.read("promotions") == []
    run = promote(force=True)
    assert (run.rows_in, run.counts) == (None, {"checks_passed": 0, "checks_failed": 0})
    assert shop.aliases() == {"champion": 2, "previous": 1}
    [row] = shop.read("promotions")
    assert (row["action"], row["forced"], row["checks"], row["test_rows"]) == (
        "promoted",
        True,
        [],
        None,
    )


def test_a_missing_version_is_named(shop: Shop, promote: Any) -> None:
    shop.add_model("lamps")
    shop.add_model("bags", table_version=7)
    with pytest.raises(MissingTableError, match="no version 7"):
        promote()


def test_an_image_that_cannot_be_decoded_is_named(shop: Shop, promote: Any) -> None:
    draw = shop.draw
    broken = Shop(shop.root, lambda seed: b"no image" if seed == 2 else draw(seed=seed))
    broken.write_examples(["bags"] * 3)
    shop.add_model("lamps")
    shop.add_model("bags", table_version=1)
    with pytest.raises(TrainingDataError, match=r"Image 'test-002'.*Ingest its"):
        promote()


def test_a_damaged_challenger_is_refused_even_with_force(shop: Shop, promote: Any) -> None:
    shop.add_model("lamps")
    damaged = shop.add_model("bags")
    (damaged.bundle_folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors"):
        promote(force=True)
    assert shop.aliases() == {"champion": 1, "challenger": 2}


def test_a_damaged_champion_can_only_be_replaced_with_force(shop: Shop, promote: Any) -> None:
    damaged = shop.add_model("lamps")
    shop.add_model("bags")
    (damaged.bundle_folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors"):
        promote()
    promote(force=True)
    assert promotions(shop) == [("promoted", 2, 1, True)]


def test_classes_that_the_challenger_lacks_are_told(
    shop: Shop, promote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop.add_model("lamps")
    shop.add_model("bags", classes=("bags", "lamps"))
    promote()
    assert "lacks 1 classes of the champion" in caplog.text
    assert "Shop/shoes" in caplog.text


def test_without_test_rows_nothing_is_promoted(shop: Shop, promote: Any) -> None:
    shop.write_examples([])
    shop.add_model("lamps")
    shop.add_model("bags", table_version=1)
    with pytest.raises(GateRefusedError, match="over 0 test rows is unknown"):
        promote()


def test_a_warehouse_without_the_table_is_refused_before_any_work(
    shop: Shop, promote: Any, roll_back: Any
) -> None:
    shutil.rmtree(shop.root / "promotions")
    for job in (promote, roll_back):
        with pytest.raises(MissingTableError, match=r"'promotions'.*Run ingest once"):
            job()


def test_a_lease_is_held_while_rows_are_read(
    shop: Shop, promote: Any, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    seen: list[Any] = []
    compare = contest.compare

    def noting(*arguments: Any) -> Any:
        seen.extend(live_leases(str(shop.root), "training_examples", clock()))
        return compare(*arguments)

    monkeypatch.setattr(contest, "compare", noting)
    shop.add_model("lamps")
    shop.add_model("bags")
    run = promote()
    [lease] = seen
    assert (lease.holder, lease.version) == (run.run_id, 0)
    assert lease.until > clock() + timedelta(hours=50)
    assert live_leases(str(shop.root), "training_examples", clock()) == []
    assert list(Path(shop.root, "_leases").iterdir()) == []

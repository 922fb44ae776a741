"""A space gives the same trials each time, and refuses what no setting takes."""

from pathlib import Path

import pytest
from tests.commands import ROOT

from catalog_batch.config import TrainSettings
from catalog_batch.errors import ConfigError
from catalog_batch.train.search_results import (
    Epoch,
    Outcome,
    TrialResult,
    best_of,
    ranked,
    read_results,
    write_results,
)
from catalog_batch.train.search_space import SearchOptions, SearchSpace, Trial, load_space

BASE = TrainSettings(epochs=4)


def space_of(folder: Path, text: str) -> SearchSpace:
    path = folder / "space.toml"
    path.write_text(text, encoding="utf-8")
    return load_space(path, BASE, elsewhere={"ray_address", "num_workers"})


def values_of(folder: Path, text: str) -> list[dict[str, object]]:
    return [trial.values for trial in space_of(folder, text).trials("s", BASE)]


def test_a_grid_is_every_combination_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = 'method = "grid"\n[space]\n"train.epochs" = [1, 3]\n"train.loss" = ["focal"]\n'
    space = space_of(tmp_path, text + "train.learning_rate = [0.1, 0.01]")
    trials = space.trials("night", BASE)
    assert [trial.name for trial in trials] == [f"night-000{number}" for number in (1, 2, 3, 4)]
    assert [tuple(trial.values.values()) for trial in trials] == [
        (1, "focal", 0.1),
        (1, "focal", 0.01),
        (3, "focal", 0.1),
        (3, "focal", 0.01),
    ]
    changes = {"epochs": 3, "loss": "focal", "learning_rate": 0.01}
    assert trials[3].settings == BASE.model_copy(update=changes)


def test_a_seed_gives_the_same_trials_and_more_trials_begin_with_them(tmp_path: Path) -> None:
    text = 'seed = 3\ntrials = {}\n[space]\n"train.learning_rate" = {{ log_uniform = [1e-5, 1] }}'
    few, again, more = (values_of(tmp_path, text.format(count)) for count in (4, 4, 9))
    other = values_of(tmp_path, text.format(4).replace("seed = 3", "seed = 4"))
    assert few == again == more[:4]
    assert not {value for [value] in map(dict.values, few)} & {
        value for [value] in map(dict.values, other)
    }


def test_log_uniform_draws_each_decade_as_often(tmp_path: Path) -> None:
    text = 'trials = 400\n[space]\n"train.learning_rate" = { log_uniform = [1e-4, 1] }'
    rates = [float(str(values["learning_rate"])) for values in values_of(tmp_path, text)]
    assert all(1e-4 <= rate <= 1 for rate in rates)
    decades = [sum(low <= rate < 10 * low for rate in rates) for low in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert all(70 < count < 130 for count in decades), decades


def test_a_whole_setting_gets_whole_numbers_with_both_ends(tmp_path: Path) -> None:
    text = 'trials = 4\n[space]\n"train.batch_size" = { uniform = [3, 6] }'
    drawn = values_of(tmp_path, text)
    assert sorted(str(values["batch_size"]) for values in drawn) == ["3", "4", "5", "6"]


def test_no_combination_is_tried_twice(tmp_path: Path) -> None:
    text = 'trials = 6\n[space]\n"train.batch_size" = [8, 16, 32]\n"train.loss" = '
    drawn = values_of(tmp_path, text + '["focal", "cross_entropy"]')
    assert len({tuple(values.values()) for values in drawn}) == 6


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('"train.learning_rat" = [1]', "Did you mean 'train.learning_rate'"),
        ('"learning_rate" = [0.1]', "Did you mean 'train.learning_rate'"),
        ('"ingest.max_side" = [1]', "unknown setting 'ingest.max_side'"),
        ('"train.ray_address" = ["auto"]', "'train.ray_address' cannot be searched"),
        ('"train.model_name" = ["a", "b"]', "'train.model_name' cannot be searched"),
        ('"train.batch_size" = [16, 0]', "batch_size = 0: .*greater than or equal to 1"),
        ('"train.batch_size" = ["many"]', "batch_size = 'many'"),
        ('"train.label_smoothing" = { uniform = [0, 1] }', "label_smoothing = 1.*less than 1"),
        ('"train.batch_size" = { uniform = [0.5, 8] }', "batch_size = 0.5"),
        ('"train.learning_rate" = { uniform = [1, 0.1] }', "LOW below HIGH"),
        ('"train.learning_rate" = { normal = [1, 0.1] }', "neither choices nor a range"),
        ('"train.learning_rate" = 0.1', "neither choices nor a range"),
        ('"train.dropout" = [1]', "unknown setting"),
        ('"train.weight_decay" = { log_uniform = [0, 1] }', "has no logarithm"),
        ('"train.architecture" = { uniform = [1, 2] }', "is no number"),
        ('"train.compile" = { uniform = [0, 1] }', "cannot be searched"),
        ('"train.loss" = []', "nothing to choose from"),
        ('"train.batch_size" = [8, 8]', "names a value twice"),
        ("", r"no \[space\] to search"),
    ],
)
def test_what_no_setting_takes_is_refused(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        space_of(tmp_path, f"[space]\n{text}")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("trails = 3", "unknown key 'trails'.* Did you mean 'trials'"),
        ("train.epochs = 3", r"Settings to search stand under \[space\]"),
        ('method = "bayes"', "'grid', 'random' or 'asha'"),
        ('metric = "test_accuracy"', "'validation_accuracy' or 'validation_loss'"),
        ("trials = 0", "trials = 0"),
        ('method = "grid"', "a grid has no ranges, and train.learning_rate is one"),
        ('method = "asha"\ngrace_epochs = 4', "nothing to stop of train.epochs = 4"),
        ("trials = ", "not valid TOML"),
    ],
)
def test_options_that_are_none_are_refused(options: str, match: str, tmp_path: Path) -> None:
    space = '[space]\n"train.learning_rate" = { log_uniform = [1e-5, 1] }'
    with pytest.raises(ConfigError, match=match):
        space_of(tmp_path, f"{options}\n{space}")


def test_more_trials_than_combinations_are_refused(tmp_path: Path) -> None:
    text = 'trials = 5\n[space]\n"train.batch_size" = { uniform = [1, 4] }'
    with pytest.raises(ConfigError, match=r"4 combinations, fewer than trials = 5"):
        values_of(tmp_path, text)


def test_a_range_of_few_numbers_ends_in_a_refusal(tmp_path: Path) -> None:
    text = 'trials = 12\n[space]\n"train.ema_decay" = { uniform = [0.999, 0.9999] }'
    with pytest.raises(ConfigError, match="Only 10 different combinations were drawn"):
        values_of(tmp_path, text)


def test_a_grid_that_nobody_waits_for_is_refused(tmp_path: Path) -> None:
    sizes = list(range(1, 34))
    text = f'method = "grid"\n[space]\n"train.batch_size" = {sizes}\n"train.patience" = {sizes}'
    with pytest.raises(ConfigError, match=r"1,089 combinations, more than 1,000"):
        values_of(tmp_path, text)


def test_the_example_of_the_checkout_can_be_searched() -> None:
    base = TrainSettings()
    space = load_space(ROOT / "conf" / "search" / "first.toml", base)
    assert space.options.method == "asha"
    assert len(space.trials("first", base)) == space.options.trials


def epoch_of(number: int, accuracy: float, loss: float, improved: bool = True) -> Epoch:
    return Epoch(number, loss, accuracy, improved, seconds=1.0)


def result_of(number: int, outcome: Outcome, *epochs: Epoch, error: str = "") -> TrialResult:
    trial = Trial(f"s-{number:04d}", {"epochs": number}, BASE)
    return TrialResult(trial, outcome, list(epochs), error)


def test_a_trials_figure_is_that_of_the_weights_it_keeps() -> None:
    worse_later = epoch_of(1, accuracy=0.9, loss=2.0, improved=False)
    result = result_of(1, Outcome.FINISHED, epoch_of(0, accuracy=0.6, loss=1.0), worse_later)
    assert result.figure("validation_accuracy") == 0.6
    assert result.figure("validation_loss") == 1.0


def test_the_best_trial_is_one_that_finished() -> None:
    results = [
        result_of(1, Outcome.FAILED, error="no memory"),
        result_of(2, Outcome.STOPPED, epoch_of(0, accuracy=0.9, loss=0.5)),
        result_of(3, Outcome.FINISHED, epoch_of(0, accuracy=0.7, loss=0.6)),
        result_of(4, Outcome.FINISHED, epoch_of(0, accuracy=0.8, loss=0.7)),
    ]
    for metric, numbers in {"validation_accuracy": [4, 3], "validation_loss": [3, 4]}.items():
        options = SearchOptions.model_validate({"metric": metric})
        names = [result.trial.name for result in ranked(results, options)]
        assert names == [f"s-{number:04d}" for number in [*numbers, 2, 1]]
        best = best_of(results, options)
        assert best is not None and best.trial.name == names[0]
    assert best_of(results[:2], SearchOptions()) is None


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = [
        result_of(1, Outcome.STOPPED, epoch_of(0, 0.5, 1.0), epoch_of(1, 0.5, 2.0, False)),
        result_of(2, Outcome.FAILED, error="no memory"),
        result_of(3, Outcome.UNFINISHED),
    ]
    write_results(tmp_path, results)
    assert read_results(tmp_path, [result.trial for result in results]) == results
    assert [path.name for path in tmp_path.iterdir()] == ["trials.json"]


def test_an_epoch_that_was_run_again_replaces_the_first() -> None:
    result = result_of(1, Outcome.UNFINISHED, epoch_of(0, 0.1, 3.0), epoch_of(1, 0.2, 2.0))
    result.add(epoch_of(1, 0.3, 1.0))
    assert [epoch.validation_accuracy for epoch in result.epochs] == [0.1, 0.3]

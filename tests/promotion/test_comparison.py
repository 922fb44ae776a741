"""What both models answer is what the night's predictor says, row by row, from the files."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.promotion.shop import CLASSES, SIDE, Shop, spec_of

from catalog_batch.errors import TrainingDataError
from catalog_batch.evaluate import gate
from catalog_batch.evaluate.gate import Bounds, Check
from catalog_batch.modeling.bundle import Bundle, ClassLabel
from catalog_batch.modeling.networks import build_network
from catalog_batch.moves import Moves
from catalog_batch.promotion import comparison
from catalog_batch.promotion.comparison import classes_of, compare
from catalog_batch.promotion.contest import checks_table
from catalog_batch.split_rows import find_split_rows
from catalog_batch.taxonomy import category_id

LAX = Bounds(0, -1, 1, 1, 1, min_test_rows=1, allow_doubt=False)
TEST = [CLASSES[index % 3] for index in range(11)]


def random_bundle(seed: int, temperature: float, contents: list[bytes]) -> Bundle:
    """Return a random network, shifted so that it does not answer the same to everything."""
    torch.manual_seed(seed)
    bundle = Bundle(
        build_network("squeezenet1_1", len(CLASSES), image_side=SIDE).eval(),
        spec_of(temperature=temperature),
        "0" * 64,
    )
    last = bundle.network.get_submodule("classifier.1")
    with torch.no_grad():
        last.weight.mul_(30)
        last.bias.fill_(100)  # above the ReLU behind it
        last.bias.sub_(logits_of(bundle, contents).mean(dim=0) - 100)
    return bundle


def logits_of(bundle: Bundle, contents: list[bytes]) -> torch.Tensor:
    """Compute logits [N, C] without the predictor."""
    preprocessing = bundle.spec.preprocessing
    images = np.stack([preprocessing.decode(content) for content in contents])
    with torch.inference_mode():
        logits: torch.Tensor = bundle.network(preprocessing.normalise(torch.from_numpy(images)))
    return logits


def expected_answers(bundle: Bundle, contents: list[bytes]) -> tuple[list[str], np.ndarray]:
    shares, best = (logits_of(bundle, contents) / bundle.spec.temperature).softmax(dim=1).max(dim=1)
    return [CLASSES[index] for index in best.tolist()], shares.numpy()


def test_each_model_answers_every_row_in_order(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write_examples(TEST)
    contents = [shop.draw(seed=index) for index in range(len(TEST))]
    bundles = [random_bundle(1, 2.0, contents), random_bundle(2, 1.0, contents)]
    expected = [expected_answers(bundle, contents) for bundle in bundles]
    assert all(len(set(answers)) > 1 for answers, _ in expected), "the networks tell rows apart"
    seen: list[Any] = []

    def noting(*arguments: Any) -> Any:
        seen.extend(arguments)
        return gate.check_challenger(*arguments)

    monkeypatch.setattr(comparison, "check_challenger", noting)
    rows = find_split_rows(str(shop.root), 1, "test")
    assert (rows.rows, rows.version) == (11, 1)
    compare(rows, bundles[0], bundles[1], LAX, 4, Moves())
    true, *answered, _, _ = seen
    assert true.tolist() == TEST
    for answers, (categories, shares) in zip(answered, expected, strict=True):
        assert answers.categories.tolist() == categories
        np.testing.assert_allclose(answers.confidences, shares, atol=1e-5)


def test_a_model_that_gives_no_number_is_wrong_and_the_other_one_is_not(shop: Shop) -> None:
    shop.write_examples(TEST)
    contents = [shop.draw(seed=index) for index in range(len(TEST))]
    sound, broken = (random_bundle(1, 1.0, contents) for _ in range(2))
    with torch.no_grad():
        broken.network.get_submodule("classifier.1").bias.fill_(torch.nan)
    rows = find_split_rows(str(shop.root), 1, "test")
    [accuracy, *_] = compare(rows, broken, sound, LAX, 4, Moves())
    best, _ = expected_answers(sound, contents)
    right = sum(one == other for one, other in zip(best, TEST, strict=True))
    assert (accuracy.name, accuracy.challenger) == ("min_accuracy", 0)
    assert accuracy.champion == pytest.approx(right / len(TEST))
    assert right > 0


def test_a_category_that_was_renamed_since_is_the_same_for_both_models(shop: Shop) -> None:
    """As scoring publishes it: else a champion of the old tree would be wrong about all of it."""
    new = ["sacks", "lamps", "shoes"]
    shop.write_examples([category_id(f"Shop/{new[index % 3]}") for index in range(11)])
    contents = [shop.draw(seed=index) for index in range(len(TEST))]
    old, renamed = (random_bundle(1, 1.0, contents) for _ in range(2))
    bundles = [
        replace(
            bundle,
            spec=replace(
                bundle.spec,
                classes=tuple(
                    ClassLabel(category_id(f"Shop/{name}"), f"Shop/{name}") for name in names
                ),
            ),
        )
        for bundle, names in ((renamed, new), (old, CLASSES))
    ]
    rows = find_split_rows(str(shop.root), 1, "test")
    moves = Moves(2, {"Shop/bags": ("Shop/sacks",)})

    *_, improvement, worst = compare(rows, *bundles, LAX, 4, moves)
    assert improvement.champion == improvement.challenger
    assert worst.champion == worst.challenger
    assert classes_of(bundles[0].spec, moves) == classes_of(bundles[1].spec, moves)
    *_, improvement, _ = compare(rows, *bundles, LAX, 4, Moves())
    assert improvement.champion < improvement.challenger


def test_no_more_than_a_batch_of_images_is_held(shop: Shop) -> None:
    shop.write_examples(TEST)
    batches = list(find_split_rows(str(shop.root), 1, "test").batches(4))
    assert [len(batch.contents) for batch in batches] == [4, 4, 3]
    ids = [image_id for batch in batches for image_id in batch.image_ids]
    assert ids == [f"test-{index:03d}" for index in range(11)]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_damaged_file_is_named(shop: Shop, when: str) -> None:
    rows = find_split_rows(str(shop.root), 0, "test")
    [file] = rows.files
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes(len(content) - 100) if when == "before" else b"")
    with pytest.raises(TrainingDataError, match=rf"{Path(file).name}.*missing or damaged"):
        if when == "before":
            find_split_rows(str(shop.root), 0, "test")
        list(rows.batches(4))


def test_a_category_with_brackets_is_told_as_it_is() -> None:
    console = Console(width=120, file=io.StringIO())
    check = Check("max_class_loss", 0.1, 0.9, 0.5, False, 30, "Nuts [/kg]")
    console.print(checks_table([check]))
    assert "Nuts [/kg]" in console.file.getvalue()

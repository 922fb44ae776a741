from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.samples import predicted_as, predictions_of, simulated

from catalog_batch.errors import BadInputError
from catalog_batch.evaluate.predictions import Predictions, load_predictions, merged


def assert_same(one: Predictions, other: Predictions) -> None:
    assert (one.split, one.category_ids) == (other.split, other.category_ids)
    assert one.category_paths == other.category_paths
    assert one.image_ids.tolist() == other.image_ids.tolist()
    assert one.product_ids.tolist() == other.product_ids.tolist()
    for name in ("labels", "logits"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("rows", [0, 7])
def test_predictions_come_back_from_a_file_as_they_were(tmp_path: Path, rows: int) -> None:
    predictions = simulated(rows)
    predictions.save(tmp_path / "p.npz")
    assert_same(load_predictions(tmp_path / "p.npz"), predictions)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_a_file_that_was_cut_off_or_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    simulated(7).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    for damaged in (path, tmp_path / "other.npz"):
        with pytest.raises(BadInputError, match=rf"{damaged.name}' holds no predictions .* train"):
            load_predictions(damaged)


def test_in_a_file_of_an_earlier_release_each_image_is_a_product(tmp_path: Path) -> None:
    whole = simulated(6)
    whole.save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as stored:
        np.savez(tmp_path / "p.npz", **{k: v for k, v in stored.items() if k != "product_ids"})
    assert load_predictions(tmp_path / "p.npz").product_ids.tolist() == whole.image_ids.tolist()


def test_a_file_with_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", split=np.array({"a": 1}, dtype=object))
    with pytest.raises(BadInputError, match="allow_pickle=False"):
        load_predictions(tmp_path / "p.npz")


def test_shares_of_ranks_are_merged_in_the_order_of_image_ids() -> None:
    whole = simulated(9)

    def share(rows: slice) -> Predictions:
        names = ("image_ids", "product_ids", "labels", "logits")
        return replace(whole, **{name: getattr(whole, name)[rows] for name in names})

    assert_same(merged([share(slice(1, None, 2)), share(slice(0, None, 2))]), whole)
    assert_same(merged([share(slice(0, 0)), whole]), whole)


def test_labels_of_other_predictions_are_taken_by_category_id() -> None:
    before = predicted_as([0, 1, 2], [0, 1, 1])
    after = replace(before, category_ids=("c2", "c1", "c0", "c9"), labels=np.array([0, 0, 1]))
    relabelled = before.with_labels_of(after)
    assert relabelled.labels.tolist() == [2, 2, 1]
    assert relabelled.correct.tolist() == [False, False, True]
    with pytest.raises(BadInputError, match=r"labelled \['c9'\] now"):
        before.with_labels_of(replace(after, labels=np.array([3, 0, 1])))


def test_shares_of_different_splits_are_refused() -> None:
    with pytest.raises(BadInputError, match="'test', 'validation'"):
        merged([simulated(3), replace(simulated(3), split="test")])


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    whole = simulated(4)
    with pytest.raises(BadInputError, match=r"shapes .*\(3,\).* Give \[N\], .* \[N, C\]"):
        replace(whole, labels=whole.labels[:3])
    with pytest.raises(BadInputError, match="int64 and float32"):
        replace(whole, logits=whole.logits.astype(np.float64))
    with pytest.raises(BadInputError, match="indices of the 6 classes"):
        replace(whole, labels=whole.labels + 6)


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(BadInputError, match="not all finite"):
        predictions_of([0], [[0.0, np.nan, 0.0, 0.0]])


def test_of_equal_logits_the_first_class_is_predicted() -> None:
    assert predictions_of([1], [[0.0, 3.0, 3.0, 0.0]]).predicted.tolist() == [1]
    assert predicted_as([0, 1], [0, 2]).correct.tolist() == [True, False]

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tests.evaluate.samples import predictions_of, simulated
from torch import Tensor, nn

from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.train.loop import Batch
from catalog_batch.train.predicting import gathered, predict

CPU = torch.device("cpu")


def as_floats(images: Tensor) -> Tensor:
    return images.float().flatten(1) / 255


def batches(rows: int, size: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (rows, 2, 2, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(rows) % 3
    for start in range(0, rows, size):
        part = slice(start, start + size)
        missing = size - len(labels[part])
        yield Batch(
            torch.cat([images[part], images[:missing]]),
            torch.cat([labels[part], labels[:missing]]),
            torch.tensor([1.0] * (size - missing) + [0.0] * missing),
        )


def test_padding_is_dropped_and_the_order_of_rows_kept() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 3))
    labels, logits = predict(network, batches(7, 3), as_floats, CPU, 3)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    [whole] = batches(7, 7)
    expected = network.eval()(as_floats(whole.images)).detach()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_a_split_without_batches_gives_no_rows() -> None:
    labels, logits = predict(nn.Linear(12, 3), [], as_floats, CPU, 3)
    assert (labels.shape, logits.shape) == ((0,), (0, 3))
    assert (labels.dtype, logits.dtype) == (np.int64, np.float32)


def test_the_leading_rank_gets_all_rows_after_the_barrier_and_leaves_no_share(
    tmp_path: Path,
) -> None:
    whole = simulated(10)
    first, second = (
        Predictions(
            whole.split,
            whole.category_ids,
            whole.category_paths,
            whole.image_ids[start::2],
            whole.product_ids[start::2],
            whole.labels[start::2],
            whole.logits[start::2],
        )
        for start in (0, 1)
    )
    # What a killed attempt left behind must not be taken for this one's.
    for rank in (1, 5):
        gathered(predictions_of([], [], whole.category_paths), tmp_path, rank, 6, lambda: None)

    def other_rank_arrives() -> None:
        assert gathered(second, tmp_path, 1, 2, lambda: None) is None

    together = gathered(first, tmp_path, 0, 2, other_rank_arrives)
    assert together is not None
    assert together.image_ids.tolist() == whole.image_ids.tolist()
    np.testing.assert_array_equal(together.logits, whole.logits)
    assert list(tmp_path.iterdir()) == []

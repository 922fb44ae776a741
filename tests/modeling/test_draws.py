import pytest
import torch

from catalog_batch.modeling.draws import drawing_from, epoch_generator


def drawn(seed: int, epoch: int, purpose: int) -> list[float]:
    return torch.rand(4, generator=epoch_generator(seed, epoch, purpose)).tolist()


def test_seed_epoch_and_purpose_each_draw_their_own() -> None:
    keys = [(1, 2, 3), (2, 1, 3), (1, 3, 2), (3, 2, 1), (1 + 2**32, 2, 3)]
    assert len({tuple(drawn(*key)) for key in keys}) == 5
    assert drawn(1, 2, 3) == drawn(1, 2, 3)


def test_torchs_own_generator_draws_what_the_given_one_would() -> None:
    expected = torch.rand(4, generator=epoch_generator(1, 2, 3))
    generator = epoch_generator(1, 2, 3)
    with drawing_from(generator):
        first = torch.rand(2)
    with drawing_from(generator):
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), expected)


def test_torchs_own_generator_goes_on_as_if_nothing_had_been_drawn_even_after_an_error() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with pytest.raises(ValueError, match="in between"), drawing_from(epoch_generator(1, 2, 3)):
        torch.rand(100)
        raise ValueError("in between")
    assert torch.equal(torch.rand(2), expected)

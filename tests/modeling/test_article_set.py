"""What the augmentation called ``article`` draws, measured on the pictures that it gives."""

import torch
from torch import Tensor

from catalog_batch.modeling.augmentation import build_augmentation

torch.set_num_threads(1)

SIDE, MIDDLE = 128, slice(44, 84)
"""A part from the middle, into which shifts, zoom and rotation bring nothing from outside."""


def fitted_maps(changed: Tensor) -> Tensor:
    """Fit each picture's map from what its colours say: [N, 2, 2], to source row and column."""
    sources = changed[:, MIDDLE, MIDDLE, :2].double().flatten(1, 2) / 2
    places = torch.arange(MIDDLE.start, MIDDLE.stop).double()
    grid = torch.cartesian_prod(places, places)
    design = torch.cat([grid, torch.ones(len(grid), 1)], dim=1).expand(len(changed), -1, -1)
    return torch.linalg.lstsq(design, sources).solution[:, :2].mT


def test_the_article_set_shears() -> None:
    levels = torch.arange(SIDE) * 2
    rows, columns = torch.meshgrid(levels, levels, indexing="ij")
    picture = torch.stack([rows, columns, rows], dim=-1).to(torch.uint8)
    maps = fitted_maps(build_augmentation("article", seed=3)(picture.repeat(60, 1, 1, 1)))
    along_rows, along_columns = maps.unbind(2)
    norms = along_rows.norm(dim=1) * along_columns.norm(dim=1)
    # Rotation and zoom alone leave the axes at right angles.
    off = ((along_rows * along_columns).sum(1) / norms).asin().rad2deg().abs()
    assert 0.15 < off.max() < 0.25
    assert off.median() > 0.05

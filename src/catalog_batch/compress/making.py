"""Bundles of a model's variants, made from the bundle that was trained."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from torch import nn

from catalog_batch.compress.graphs import export_graph, quantise_graph
from catalog_batch.modeling.bundle import Bundle, golden_images, load_bundle, write_bundle
from catalog_batch.modeling.preprocessing import Picture
from catalog_batch.modeling.variants import VARIANTS, Variant, require_engine
from catalog_batch.progress import progress_bar

logger = logging.getLogger(__name__)

Prune = Callable[[Bundle], nn.Module]
"""Makes a smaller network of a trained one."""


@dataclass
class Made:
    """Variants by name: those that were made, and why the others were not."""

    folders: dict[str, Path] = field(default_factory=dict)
    bundles: dict[str, Bundle] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def make_variants(
    source: Path,
    names: Iterable[str],
    calibration: Sequence[Picture],
    prune: Prune,
    place: Path,
) -> Made:
    """Write a bundle of each variant and load it, with every check that a scorer makes.

    A variant that cannot be made costs none of the others: networks that cannot be traced, and
    libraries that are not installed, are told of in ``problems``.

    Args:
        source: Folder of the bundle as trained.
        names: Of ``VARIANTS``.
        calibration: Pictures from which int8 learns its ranges, uint8 [S, S, 3].
        prune: Makes the pruned network.
        place: Folder for the bundles, and for graphs on the way.
    """
    made, names = Made(), tuple(names)
    trained = load_bundle(source)
    workshop = _Workshop(trained, calibration, prune, place)
    with progress_bar("making variants", len(names), "variants") as advance:
        for name in names:
            variant, folder = VARIANTS[name], place / name
            spec = replace(trained.spec, variant=name, made_from=trained.digest)
            try:
                require_engine(variant)
                write_bundle(folder, workshop.model(variant), spec, golden_images(source))
                made.bundles[name] = load_bundle(folder)
                made.folders[name] = folder
            except Exception as error:  # exporters and libraries raise errors of many kinds
                logger.warning("variant %s is not made: %s", name, error)
                made.problems[name] = _in_short(error)
            advance(1)
    return made


class _Workshop:
    """Makes what a variant is written from; each graph once."""

    def __init__(
        self, trained: Bundle, calibration: Sequence[Picture], prune: Prune, place: Path
    ) -> None:
        self._trained = trained
        self._calibration = calibration
        self._pruned = cache(lambda: prune(trained))  # trained once, also when no export succeeds
        self._place = place

    def model(self, variant: Variant) -> nn.Module | Path:
        if variant.engine == "torch":
            return self._trained.module
        exported = self._exported(variant.is_pruned)
        return self._quantised(exported) if variant.precision == "int8" else exported

    def _exported(self, is_pruned: bool) -> Path:
        path = self._place / ("pruned.onnx" if is_pruned else "whole.onnx")
        if not path.exists():
            network = self._pruned() if is_pruned else self._trained.module
            export_graph(network, self._trained.spec.preprocessing, path)
        return path

    def _quantised(self, exported: Path) -> Path:
        path = exported.with_stem(f"{exported.stem}-int8")
        if not path.exists():
            quantise_graph(exported, self._calibration, path)
        return path


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]

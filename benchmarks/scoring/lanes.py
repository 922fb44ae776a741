"""The ways to score that are compared, and what is asked of which.

Lanes of a group run in turns. Daft is among them where it can be imported.
"""

import importlib.util
import sys
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from benchmarks.ingest.lanes import CATALOG_BATCH
from benchmarks.scoring.catalogue import OF_ALL, OF_INT8, OF_WHOLE, Catalogue

from catalog_batch.registry import ModelVersion


@dataclass(frozen=True)
class Lane:
    """A way to score: its name, how many threads it has, its module and last argument."""

    name: str
    threads: str
    module: str = ""
    way: str = ""
    model: str = "as_trained"
    """Which model of a catalogue, by the name of its property."""

    share: float = 1.0
    """Of a size's images that it scores."""

    def prepare(self, catalogue: Catalogue, folder: Path) -> tuple[list[str], Path]:
        """Copy what the lane writes into; return the words that score, and the table they leave."""
        if self.module:
            output = folder / "predictions"
            bundle = self.model_of(catalogue).bundle_folder
            inputs = [str(catalogue.images), str(bundle), str(output), self.way]
            return [sys.executable, "-W", "ignore", "-m", self.module, *inputs], output
        own = catalogue.copy(folder / "catalogue")
        options = ["--model", self.model_of(catalogue).reference, "--log-format", "json"]
        words = [CATALOG_BATCH, "score", "-w", str(own.warehouse), *options]
        return words, own.warehouse / "image_predictions"

    @property
    def night(self) -> str:
        """What a lane of ours is called by which products are decided too."""
        return f"{self.name}, products decided"

    def model_of(self, catalogue: Catalogue) -> ModelVersion:
        version: ModelVersion = getattr(catalogue, self.model)
        return version

    def images(self, size: "Size") -> int:
        """Return how many images its longer run scores."""
        return round(size.whole * self.share)


@dataclass(frozen=True)
class Size:
    """How many images the two runs of a round have at the most, and how many rounds count."""

    part: int
    whole: int
    rounds: int


_TWO = "2 processes x 1 thread"
BARE = Lane("bare loop", _TWO, "benchmarks.scoring.bare_loop", "shipped")
RAY = Lane("Ray Data", "2 actors x 1 thread", "benchmarks.scoring.ray_data", "shipped")
DAFT = Lane("Daft", _TWO, "benchmarks.scoring.daft_frames", "shipped")
PLAIN = Lane(
    "Spark, iterator UDF",
    "local[2], 1 thread a worker",
    "benchmarks.scoring.spark_usual",
    "iterator-shipped",
)
OURS = Lane("catalog-batch", "local[*], 1 thread a worker")
# More images than the slower lanes score: those of a part would take it less than chance does.
SHIPPED = replace(OURS, name="catalog-batch, as shipped", model="shipped", share=2.5)
UNPRUNED = replace(OURS, name="catalog-batch, as shipped without pruning", model="whole", share=2.5)
PUBLISHED = Lane("bare loop, as published", _TWO, "benchmarks.scoring.bare_loop", "published")
ITERATOR = replace(PLAIN, name="Spark, iterator UDF, as published", way="iterator")
TWO_UDFS = Lane(
    "Spark, two UDFs, as published",
    "local[2], 1 thread a worker",
    "benchmarks.scoring.spark_usual",
    "two-udfs",
    share=0.4,
)
HAS_DAFT = importlib.util.find_spec("daft") is not None


@dataclass(frozen=True)
class Question:
    """What is compared: lanes, of which the first is the one that others are divided by."""

    name: str
    groups: tuple[tuple[Lane, ...], ...]
    """Of lanes that run in turns."""

    full: Size
    variants: tuple[tuple[str, ...], ...] = ()
    """What ``optimise`` chooses from, run by run, for the lanes to have their models."""

    quick: Size = Size(128, 640, 1)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return tuple(chain.from_iterable(self.groups))

    @property
    def own(self) -> tuple[Lane, ...]:
        """Those of catalog-batch."""
        return tuple(lane for lane in self.lanes if not lane.module)


ENGINES = ((BARE, *([DAFT] if HAS_DAFT else []), OURS), (RAY, PLAIN))
# Those that are close score twice as many, for one is told from another by a hundredth.
IN_INT8 = tuple(
    tuple(replace(lane, model="in_int8", share=share) for lane in group)
    for group, share in zip(ENGINES, (1.0, 0.5), strict=True)
)
USUAL = ((BARE, SHIPPED, UNPRUNED, PUBLISHED), (ITERATOR, TWO_UDFS))
# In int8 what is done once goes on beside the first answers. Of a short part one worker has done
# its share before it is over, and pays for none of it: so the part is longer.
QUESTIONS = {
    question.name: question
    for question in (
        Question("fp32", ENGINES, Size(256, 3200, 3)),
        Question("int8", IN_INT8, Size(1280, 12800, 3), (OF_INT8,)),
        Question("usual", USUAL, Size(256, 1280, 3), (OF_ALL, OF_WHOLE)),
    )
}

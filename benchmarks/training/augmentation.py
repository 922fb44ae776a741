"""What does augmentation cost, picture by picture in torchvision, or a batch at a time in kornia?

    python -m benchmarks.training.augmentation [--force]

Batches of 32 pictures of 224 x 224 px, uint8 in and out, as the training loop has them. Each way
draws for each picture. Pictures a second of the best of seven calls; on a CPU by the CPU time of
one thread. Kornia is no dependency: where it is not installed its column stays empty
(``pip install --no-deps --target DIR kornia kornia_rs`` and ``PYTHONPATH=DIR`` add it).
"""

import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torchvision
from benchmarks.measure import argument_parser, require_idle, table, write_result
from torch import Tensor
from torchvision.transforms import v2

from catalog_batch.modeling.augmentation import PerPicture, build_augmentation
from catalog_batch.modeling.mixing import Mixing
from catalog_batch.modeling.preprocessing import IMAGENET_MEAN, Preprocessing
from catalog_batch.modeling.retouching import levels

BATCH = 32
SIDE = 224
REPEATS = 7
CLASSES = 81

Call = Callable[[], object]


def per_picture(*transforms: v2.Transform) -> Callable[[Tensor], Tensor]:
    step, generator = PerPicture(v2.Compose(transforms)), torch.Generator()
    return lambda pictures: step(pictures, generator)


OURS = {
    "article": build_augmentation("article", seed=1),
    "crop": build_augmentation("crop", seed=1),
    "colour jitter 0.4": build_augmentation("none", seed=1, colour_jitter=0.4),
    "erasing 1.0": build_augmentation("none", seed=1, erasing=1.0),
    "trivial": build_augmentation("trivial", seed=1),
    "rand": build_augmentation("rand", seed=1),
}
BILINEAR = v2.InterpolationMode.BILINEAR
TORCHVISIONS = {
    "article": per_picture(
        v2.RandomAffine(20, (0.2, 0.2), (0.8, 1.2), 0.2, BILINEAR), v2.RandomHorizontalFlip()
    ),
    "crop": per_picture(v2.RandomResizedCrop(SIDE, scale=(0.35, 1.0)), v2.RandomHorizontalFlip()),
    "colour jitter 0.4": per_picture(v2.ColorJitter(0.4, 0.4, 0.4)),
    "erasing 1.0": per_picture(v2.RandomErasing(1.0, (0.02, 0.2), value=levels(IMAGENET_MEAN))),
}


LANES = ("catalog-batch", "torchvision, picture by picture", "kornia, a batch at a time")


def kornias() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what kornia has of the same; nothing where it is not installed."""
    if find_spec("kornia") is None:
        return {}
    import kornia.augmentation as ka

    steps = {
        # Its shear is in degrees, and torchvision's too: the article's 0.2 is next to nothing.
        "article": [
            ka.RandomAffine(20.0, (0.2, 0.2), (0.8, 1.2), 0.2, p=1.0),
            ka.RandomHorizontalFlip(),
        ],
        "crop": [
            ka.RandomResizedCrop((SIDE, SIDE), scale=(0.35, 1.0)),
            ka.RandomHorizontalFlip(),
        ],
        "colour jitter 0.4": [ka.ColorJitter(0.4, 0.4, 0.4, 0.0, p=1.0)],
        "erasing 1.0": [ka.RandomErasing(scale=(0.02, 0.2), value=0.45, p=1.0)],
    }
    return {name: _in_floats(ka.AugmentationSequential(*made)) for name, made in steps.items()}


def _in_floats(augment: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Let kornia, which takes float [N, 3, H, W] from 0 to 1, take what the others take."""

    def call(pictures: Tensor) -> Tensor:
        images = pictures.permute(0, 3, 1, 2).float().div(255)
        return augment(images).mul(255).round().byte().permute(0, 2, 3, 1)

    return call


def pictures_per_second(call: Call, device: str) -> float:
    """Time the best of some calls; on one thread of a CPU that others use too, its own time."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(REPEATS):
        start = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return BATCH / min(seconds)


def measure(device: str) -> dict[str, dict[str, float]]:
    """Return pictures a second by augmentation and by lane."""
    pictures = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    images = Preprocessing.for_side(SIDE).normalise(pictures)
    labels = torch.arange(BATCH, device=device) % CLASSES
    measured: dict[str, dict[str, float]] = {}
    for lane, ways in zip(LANES, (OURS, TORCHVISIONS, kornias()), strict=True):
        for name, augment in ways.items():
            call = lambda augment=augment: augment(pictures)  # noqa: E731
            measured.setdefault(name, {})[lane] = pictures_per_second(call, device)
    for name in ("mixup", "cutmix"):
        mixing = Mixing(name, CLASSES, seed=1)
        call = lambda mixing=mixing: mixing(images, labels)  # noqa: E731
        measured[name] = {LANES[0]: pictures_per_second(call, device)}
    return measured


def page_of(measured: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the table; trivial, rand and mixing are torchvision's own, so they stand alone."""
    lines = [
        [device, name, *(f"{found[lane]:,.0f}" if lane in found else "" for lane in LANES)]
        for device, by_name in measured.items()
        for name, found in by_name.items()
    ]
    intro = __doc__.partition("[--force]")[2].strip()
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    header = ("device", "augmentation", *LANES)
    return f"# Augmentation\n\n{intro}\n\n{table(header, lines)}\n{versions}.\n\n"


def main() -> None:
    given = argument_parser("Time each augmentation, beside torchvision and kornia.").parse_args()
    idle = require_idle(given.force)
    torch.set_num_threads(1)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    measured = {device: measure(device) for device in devices}
    result = {"forced": given.force, "idle_before": idle, "pictures_per_second": measured}
    command = "python -m benchmarks.training.augmentation"
    write_result("training-augmentation", result, page_of(measured), [], command)


if __name__ == "__main__":
    main()

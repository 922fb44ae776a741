"""Measure what augmentation costs: pictures a second, beside torchvision picture by picture.

    python -m benchmarks.training.augmentation

Prints a table of Markdown, for the CPU with one thread and for a GPU where there is one.
"""

import time
from collections.abc import Callable

import torch
import torchvision
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


def rows(device: str) -> list[tuple[str, Call, Call | None]]:
    """Return what is measured: its name, ours, and torchvision's where it has the same."""
    pictures = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, device=device)
    images = Preprocessing.for_side(SIDE).normalise(pictures)
    labels = torch.arange(BATCH, device=device) % CLASSES
    measured: list[tuple[str, Call, Call | None]] = []
    for name, augment in OURS.items():
        theirs = TORCHVISIONS.get(name)
        measured.append(
            (
                name,
                lambda augment=augment: augment(pictures),
                (lambda theirs=theirs: theirs(pictures)) if theirs else None,
            )
        )
    for name in ("mixup", "cutmix"):
        mixing = Mixing(name, CLASSES, seed=1)
        measured.append((name, lambda mixing=mixing: mixing(images, labels), None))
    return measured


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}; {BATCH} pictures of")
    print(f"{SIDE} x {SIDE} a batch, best of {REPEATS}, pictures a second.\n")
    print("| device | augmentation | catalog-batch | torchvision, picture by picture |")
    print("| --- | --- | ---: | ---: |")
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for name, ours, theirs in rows(device):
            beside = f"{pictures_per_second(theirs, device):,.0f}" if theirs else "the same"
            print(f"| {device} | {name} | {pictures_per_second(ours, device):,.0f} | {beside} |")


if __name__ == "__main__":
    main()

"""What scoring is timed on: an ingested catalogue, and a model that tells its photos apart.

    python -m benchmarks.scoring.catalogue --count 2640 --data build/bench-data

The photos are those of the ingest benchmarks, stored by ``catalog-batch ingest``. The model's
network has random weights with the batch statistics of these photos, and its head knows the mean
features of each category: an answer then is seldom a near tie, and lanes that compute the same
agree. Beside it are variants that ``catalog-batch optimise`` made of it on this machine.
"""

import argparse
import csv
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.ingest.lanes import CATALOG_BATCH, ingest_command
from benchmarks.ingest.photos import DATA, SMALL, make_photos
from benchmarks.measure import run_command
from deltalake import DeltaTable
from torch import Tensor, nn

from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.registry import ModelVersion, Registry
from catalog_batch.taxonomy import category_id

MODEL = "bench"
AGREES = 0.995
"""Share of the images whose best category a variant must share with the model as trained."""

INT8 = "onnx-int8,openvino-int8"
READY = "optimised"
"""File that says so, beside a catalogue's warehouse."""

PHOTOS_KNOWN = 512
"""Photos that the head has seen."""


@dataclass(frozen=True)
class Catalogue:
    """A folder with an ingested warehouse of ``count`` images, and the model beside its tables."""

    folder: Path
    count: int

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse"

    @property
    def images(self) -> Path:
        return self.warehouse / "images"

    @property
    def registry(self) -> Registry:
        return Registry(self.warehouse / "_registry")

    @property
    def as_trained(self) -> ModelVersion:
        return self.registry.list_versions()[0]

    @property
    def fastest(self) -> ModelVersion:
        """The fastest variant, whether it answers as the model does or not."""
        return max(self.registry.list_versions(), key=_speed)

    @property
    def shipped(self) -> ModelVersion:
        """The variant that ``optimise`` keeps by its defaults, or else the model as trained."""
        versions = self.registry.list_versions()
        return max((v for v in versions if v.metrics["agreement"] >= AGREES), key=_speed)

    def copy(self, folder: Path) -> "Catalogue":
        """Return the same in another folder: its files are linked, for none is ever changed."""
        shutil.copytree(self.folder, folder, copy_function=_link)
        return Catalogue(folder, self.count)


def make_catalogue(count: int, data: Path) -> Catalogue:
    """Return an ingested catalogue without a model, which is made when the cache lacks it."""
    made = Catalogue(data / f"scoring-{count}", count)
    if not made.folder.is_dir():
        photos = make_photos(SMALL, count, data)
        print(f"ingesting {count:,} photos for scoring", flush=True)
        partial = Catalogue(data / f"{made.folder.name}.partial", count)
        shutil.rmtree(partial.folder, ignore_errors=True)
        run_command(ingest_command(photos, partial.warehouse))
        partial.folder.rename(made.folder)
    return made


def make_catalogues(counts: Iterable[int], data: Path) -> dict[int, Catalogue]:
    """Return catalogues by their number of images, all with the variants of the largest's model.

    Two runs of ``optimise`` there register them: one by its defaults, and one that keeps the
    fastest whatever it answers.
    """
    found = {count: make_catalogue(count, data) for count in sorted(counts)}
    largest = found[max(found)]
    if not (largest.folder / READY).exists():
        _run("build-training-set", largest)
        register_model(largest, data)
        print("looking for the fastest variants of the model", flush=True)
        _run("optimise", largest, f"{MODEL}/1")
        lax = (
            "optimise.min_agreement=0",
            "optimise.max_accuracy_loss=1",
            f"optimise.variants={INT8}",
        )
        _run("optimise", largest, f"{MODEL}/1", *(f"--set={setting}" for setting in lax))
        (largest.folder / READY).touch()
    versions = largest.registry.list_versions()
    for catalogue in found.values():
        if not catalogue.registry.folder.exists():
            for version in versions:
                catalogue.registry.register(
                    MODEL, version.bundle_folder, version.metrics, version.tags
                )
    return found


def _speed(version: ModelVersion) -> float:
    return version.metrics.get("images_per_second", 0.0)


def _run(verb: str, catalogue: Catalogue, *arguments: str) -> None:
    options = ["-w", str(catalogue.warehouse), "--log-format", "json"]
    run_command([CATALOG_BATCH, verb, *arguments, *options])


def _link(source: str, target: str) -> None:
    # What a registry's database or a lock file holds is written in place.
    if source.endswith((".parquet", ".safetensors", ".json", ".crc")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def register_model(catalogue: Catalogue, data: Path, architecture: str = "resnet18") -> None:
    """Make the model that the catalogue's first photos are known to, and register it."""
    photos = make_photos(SMALL, catalogue.count, data)
    with photos.manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:PHOTOS_KNOWN]
    paths = sorted({row["category"] for row in rows})
    preprocessing = Preprocessing.for_side(224)
    pictures = np.stack(
        [preprocessing.decode((photos.images / row["image_uri"]).read_bytes()) for row in rows]
    )
    labels = torch.tensor([paths.index(row["category"]) for row in rows])
    spec = BundleSpec(
        architecture=architecture,
        classes=tuple(ClassLabel(category_id(path), path) for path in paths),
        preprocessing=preprocessing,
        taxonomy_version=1,
        training_table="training_examples",
        training_table_version=DeltaTable(catalogue.warehouse / "training_examples").version(),
        git_commit="0" * 40,
        metrics={},
        thresholds={},
        created_at="2026-01-01T00:00:00Z",
    )
    torch.manual_seed(17)
    network = build_network(architecture, len(paths))
    _fit(network, preprocessing.normalise(torch.from_numpy(pictures)), labels)
    folder = catalogue.folder / "bundle"
    shutil.rmtree(folder, ignore_errors=True)  # Of a run that was stopped.
    write_bundle(folder, network, spec, pictures[:8])
    tags = {
        "architecture": architecture,
        "training_table_version": str(spec.training_table_version),
        "taxonomy_version": str(spec.taxonomy_version),
        "git_commit": spec.git_commit,
        "training_run": "benchmark",
    }
    catalogue.registry.register(MODEL, folder, {"agreement": 1.0}, tags)


@torch.inference_mode()
def _fit(network: nn.Module, pixels: Tensor, labels: Tensor) -> None:
    """Take over the batch statistics, and make the head answer with the nearest mean."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # A plain mean over the batches.
    network.train()
    for batch in pixels.split(64):
        network(batch)
    network.eval()
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    head, found = heads[-1], list[Tensor]()
    hook = head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for batch in pixels.split(64):
        network(batch)
    hook.remove()
    features = torch.cat(found)
    features_of = [features[labels == label].mean(0) for label in range(int(labels.max()) + 1)]
    means = torch.stack(features_of)
    scale = 10 / (torch.cdist(means, means).square().mean() + 1e-6)
    head.weight.copy_(2 * scale * means)
    head.bias.copy_(-scale * means.square().sum(1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingest photos and register a model to score.")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    catalogue = make_catalogue(given.count, given.data)
    if not catalogue.registry.folder.exists():
        _run("build-training-set", catalogue)
        register_model(catalogue, given.data, given.architecture)
    print(catalogue.folder)


if __name__ == "__main__":
    main()

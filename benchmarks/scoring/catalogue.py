"""What scoring is timed on: an ingested catalogue, and a model that tells its photos apart.

    python -m benchmarks.scoring.catalogue --count 2640 --data build/bench-data

The photos are drawn by the project's generator and stored by ``catalog-batch ingest``. The model is
trained from nothing on the training split of one of these catalogues, in ten minutes on two cores.
Beside it are variants that ``catalog-batch optimise`` made of it on this machine.
"""

import argparse
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.commands import run_command
from benchmarks.ingest.lanes import CATALOG_BATCH, ingest_command
from benchmarks.ingest.photos import DATA, SHOWN, make_photos
from deltalake import DeltaTable
from torch import Tensor, nn

from catalog_batch.compress.trials import decoded
from catalog_batch.demo.silhouettes import CATEGORIES
from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.registry import ModelVersion, Registry
from catalog_batch.split_rows import TABLE as EXAMPLES
from catalog_batch.split_rows import find_split_rows
from catalog_batch.taxonomy import category_id

MODEL = "bench"
AGREES = 0.995
"""Share of the images whose best category a variant must share with the model as trained."""

INT8 = "onnx-int8"
WHOLE = ("onnx-fp32", INT8, "openvino-fp32", "openvino-bf16", "openvino-int8")
"""Those of ``optimise.variants``'s defaults that do without PyTorch."""

PRUNED = ("onnx-pruned-int8", "openvino-pruned-int8")
OF_ALL, OF_WHOLE, OF_INT8 = (*WHOLE, *PRUNED), WHOLE, (INT8,)
"""What a run of ``optimise`` is told to try; it registers the fastest that agrees."""

KNOWN = 3200
"""Photos of the catalogue that the model learns from."""

PRUNED_SHARE, PRUNING_STEPS = 0.6, 400
"""Of the channels that go, and batches that teach the others. Silhouettes are easy: of a network
that tells real photos apart, less can go before its answers change."""

BATCH = 32
SMALL_STEPS, WHOLE_STEPS = 240, 150
"""Batches that the model learns from, of small pictures and then of whole ones."""


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
    def in_int8(self) -> ModelVersion:
        """The whole network in int8, by ONNX Runtime."""
        return next(v for v in self.registry.list_versions() if v.tags.get("variant") == INT8)

    @property
    def whole(self) -> ModelVersion:
        """The variant that ``optimise`` kept of those of the whole network."""
        versions = self.registry.list_versions()
        return max((v for v in versions if v.tags.get("variant") in WHOLE), key=_speed)

    @property
    def shipped(self) -> ModelVersion:
        """The variant that ``optimise`` kept of all that it tried."""
        return max(self.registry.list_versions(), key=_speed)

    def tried(self) -> list[dict[str, Any]]:
        """Return what ``optimise`` found of each variant, of the catalogue the model learned from.

        In the order of its runs, and of their variants by speed.
        """
        rows = DeltaTable(self.warehouse / "model_variants").to_pyarrow_table().to_pylist()
        return sorted(rows, key=lambda row: (row["measured_at"], row["images_per_second"] or 0.0))

    def copy(self, folder: Path) -> "Catalogue":
        """Return the same in another folder: its files are linked, for none is ever changed."""
        shutil.copytree(self.folder, folder, copy_function=_link)
        return Catalogue(folder, self.count)


def make_catalogue(count: int, data: Path) -> Catalogue:
    """Return an ingested catalogue without a model, which is made when the cache lacks it."""
    made = Catalogue(data / f"scoring-{count}", count)
    if not made.folder.is_dir():
        photos = make_photos(SHOWN, count, data)
        print(f"ingesting {count:,} photos for scoring", flush=True)
        partial = Catalogue(data / f"{made.folder.name}.partial", count)
        shutil.rmtree(partial.folder, ignore_errors=True)
        run_command(ingest_command(photos, partial.warehouse))
        partial.folder.rename(made.folder)
    return made


def make_catalogues(
    counts: Iterable[int], data: Path, choices: Iterable[Sequence[str]]
) -> dict[int, Catalogue]:
    """Return catalogues by their number of images, all with the variants of one model.

    Args:
        counts: Of images.
        data: The cache folder.
        choices: What ``optimise`` is told to try, run by run.
    """
    known = make_catalogue(KNOWN, data)
    if not known.registry.list_versions():
        _run("build-training-set", known)
        register_model(known)
    pruning = (f"pruned_share={PRUNED_SHARE}", f"pruning_steps={PRUNING_STEPS}")
    for tried in choices:
        settings = (f"variants={','.join(tried)}", *pruning)
        done = known.folder / "-".join(("optimised", *settings))
        if not done.exists():
            print(f"looking for the fastest of {', '.join(tried)}", flush=True)
            _run("optimise", known, f"{MODEL}/1", *(f"--set=optimise.{text}" for text in settings))
            done.touch()
    found = {count: make_catalogue(count, data) for count in sorted(counts)}
    for catalogue in found.values():
        has = len(catalogue.registry.list_versions())
        for version in known.registry.list_versions()[has:]:
            catalogue.registry.register(MODEL, version.bundle_folder, version.metrics, version.tags)
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


def register_model(catalogue: Catalogue, architecture: str = "resnet18") -> None:
    """Train the model on the catalogue's training rows, and register it."""
    version = DeltaTable(catalogue.warehouse / EXAMPLES).version()
    rows = find_split_rows(str(catalogue.warehouse), version, "train")
    preprocessing = Preprocessing.for_side(224)
    batches = list(rows.batches(BATCH))
    pictures = np.stack([picture for batch in batches for picture in decoded(batch, preprocessing)])
    classes = tuple(ClassLabel(category_id(path), path) for path in sorted(CATEGORIES))
    places = {label.category_id: place for place, label in enumerate(classes)}
    labels = [places[category] for batch in batches for category in batch.category_ids]
    spec = BundleSpec(
        architecture=architecture,
        classes=classes,
        preprocessing=preprocessing,
        taxonomy_version=1,
        training_table=EXAMPLES,
        training_table_version=version,
        git_commit="0" * 40,
        metrics={},
        thresholds={},
        created_at="2026-01-01T00:00:00Z",
    )
    torch.manual_seed(17)
    network = build_network(architecture, len(classes)).to(memory_format=torch.channels_last)
    _train(network, preprocessing, torch.from_numpy(pictures), torch.tensor(labels))
    folder = catalogue.folder / "bundle"
    shutil.rmtree(folder, ignore_errors=True)  # Of a run that was stopped.
    write_bundle(folder, network, spec, pictures[:8])
    tags = {
        "architecture": architecture,
        "training_table_version": str(version),
        "taxonomy_version": str(spec.taxonomy_version),
        "git_commit": spec.git_commit,
        "training_run": "benchmark",
    }
    catalogue.registry.register(MODEL, folder, {"agreement": 1.0}, tags)


def _train(
    network: nn.Module, preprocessing: Preprocessing, pictures: Tensor, labels: Tensor
) -> None:
    """Train on pictures, uint8 [N, S, S, 3]: first on every third pixel, which takes a ninth."""
    chance = torch.Generator().manual_seed(17)
    for name, shown, steps, rate in (
        ("small", pictures[:, ::3, ::3].contiguous(), SMALL_STEPS, 2e-3),
        ("whole", pictures, WHOLE_STEPS, 1e-3),
    ):
        optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        network.train()
        for _ in range(steps):
            chosen = torch.randint(len(shown), (BATCH,), generator=chance)
            logits = network(preprocessing.normalise(shown[chosen]))
            loss = nn.functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"trained on {name} pictures: the last loss is {loss.item():.3f}", flush=True)
    network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingest photos and register a model to score.")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    catalogue = make_catalogue(given.count, given.data)
    if not catalogue.registry.folder.exists():
        _run("build-training-set", catalogue)
        register_model(catalogue, given.architecture)
    print(catalogue.folder)


if __name__ == "__main__":
    main()

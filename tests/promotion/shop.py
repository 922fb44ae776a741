"""A warehouse without a JVM: tables made from their DDL, a registry, models of one answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable, write_deltalake

from catalog_batch.config import Settings
from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.registry import ModelVersion, Registry

torch.set_num_threads(1)

CLASSES = ("bags", "lamps", "shoes")
SIDE = 32
Draw = Callable[..., bytes]


@dataclass(frozen=True)
class Shop:
    """A warehouse with a registry of ``catalogue`` models."""

    root: Path
    draw: Draw

    @cached_property
    def registry(self) -> Registry:
        """Open the registry, once: it takes half a second."""
        return Registry(self.settings().registry_folder)

    def settings(self, **promote: float) -> Settings:
        """Return bounds that anything passes, but for those given."""
        lax = {
            "min_accuracy": 0,
            "min_improvement": -1,
            "max_class_loss": 1,
            "min_class_rows": 1,
            "max_calibration_error": 1,
            "min_test_rows": 1,
        }
        return Settings.model_validate(
            {"warehouse": str(self.root), "promote": {**lax, **promote}, "score": {"batch_size": 4}}
        )

    def write_examples(self, test: Sequence[str], products: str = "test") -> None:
        """Write a version of the training table: a row of each class to train on, and test rows.

        Those are of the products ``test-000``, ..., unless another split's are wanted.
        """
        rows = [
            {
                "image_id": f"{split}-{index:03d}",
                "group_id": f"{products if split == 'test' else split}-{index:03d}",
                "content": self.draw(seed=index),
                "category_id": category,
                "category_path": f"Shop/{category}",
                "split": split,
            }
            for split, categories in (("train", CLASSES), ("test", test))
            for index, category in enumerate(categories)
        ]
        write_deltalake(
            str(self.root / "training_examples"),
            pa.Table.from_pylist(rows),
            mode="overwrite",
            partition_by=["split"],
        )

    def add_model(
        self,
        answer: str,
        classes: Sequence[str] = CLASSES,
        logit: float = 3.0,
        temperature: float = 1.0,
        table_version: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Register a network whose logits are 0 for all classes and ``logit`` for its answer."""
        network = build_network("squeezenet1_1", len(classes), image_side=SIDE)
        with torch.no_grad():
            last = network.get_submodule("classifier.1")
            last.weight.zero_()
            last.bias.zero_()
            last.bias[classes.index(answer)] = logit
        spec = spec_of(
            classes,
            temperature=temperature,
            training_table_version=table_version,
            training_table_id=str(DeltaTable(str(self.root / "training_examples")).metadata().id),
        )
        return self.register(network, spec, tags)

    def register(
        self, network: torch.nn.Module, spec: BundleSpec, more: Mapping[str, str] | None = None
    ) -> ModelVersion:
        """Bundle and register a network, as training does."""
        folder = self.root / "_runs" / f"run-{len(self.registry.list_versions())}"
        write_bundle(folder, network, spec, np.zeros((1, SIDE, SIDE, 3), np.uint8))
        tags = {
            "training_run": folder.name,
            "architecture": spec.architecture,
            "training_table_version": str(spec.training_table_version),
            "taxonomy_version": str(spec.taxonomy_version),
            "git_commit": spec.git_commit,
            **(more or {}),
        }
        return self.registry.register("catalogue", folder, {}, tags)

    def damage(self, version: int) -> None:
        """Empty the weights of a version."""
        folder = self.registry.resolve(f"catalogue/{version}").bundle_folder
        (folder / "model.safetensors").write_bytes(b"")

    def aliases(self) -> dict[str, int]:
        """Return the version that each alias points at."""
        versions = self.registry.list_versions()
        return {alias: version.version for version in versions for alias in version.aliases}

    def read(self, table: str) -> list[dict[str, Any]]:
        """Read a table's rows, in the order of the first column."""
        stored = DeltaTable(str(self.root / table)).to_pyarrow_table()
        rows: list[dict[str, Any]] = stored.sort_by(stored.column_names[0]).to_pylist()
        return rows


@contextmanager
def killed_where(owner: type, method: str, alias: str) -> Iterator[None]:
    """Let a run die where a method would be called with an alias."""
    original = getattr(owner, method)

    def die(self: Any, *arguments: Any) -> None:
        if alias in arguments:
            raise KeyboardInterrupt
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, method, die)
        yield


def spec_of(classes: Sequence[str] = CLASSES, **changes: Any) -> BundleSpec:
    """Describe a squeezenet over classes of the test."""
    fixed = {
        "architecture": "squeezenet1_1",
        "classes": tuple(ClassLabel(name, f"Shop/{name}") for name in classes),
        "preprocessing": Preprocessing.for_side(SIDE),
        "taxonomy_version": 1,
        "training_table": "training_examples",
        "training_table_version": 0,
        "git_commit": "0" * 40,
        "metrics": {},
        "thresholds": {},
        "created_at": "2026-01-01T00:00:00Z",
    }
    return BundleSpec(**{**fixed, **changes})

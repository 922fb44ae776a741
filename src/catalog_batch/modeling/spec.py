"""What a model bundle says about its model: the content of ``model.json``."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from catalog_batch.errors import BadInputError
from catalog_batch.modeling.preprocessing import Preprocessing

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ClassLabel:
    """What one output of the network stands for."""

    category_id: str
    path: str
    """The category's place in the taxonomy, for people."""


@dataclass(frozen=True)
class BundleSpec:
    """Everything about a model but its weights."""

    architecture: str
    """A torchvision classifier's name."""

    classes: tuple[ClassLabel, ...]
    """In the order of the network's outputs."""

    preprocessing: Preprocessing
    taxonomy_version: int
    training_table: str
    training_table_version: int
    git_commit: str
    metrics: dict[str, float]
    thresholds: dict[str, float]
    """Least confidence to accept a category by its id; may be empty."""

    created_at: str
    """ISO 8601, UTC."""

    temperature: float = 1.0
    """What logits are divided by before softmax."""

    def __post_init__(self) -> None:
        """Refuse classes that cannot name the outputs, and figures that JSON cannot hold."""
        ids = [label.category_id for label in self.classes]
        if not ids or len(set(ids)) != len(ids):
            raise BadInputError(f"Classes {ids} are none or repeat. Give each output its own id.")
        figures = {**self.metrics, **self.thresholds}
        if not all(math.isfinite(value) for value in figures.values()):
            raise BadInputError(f"Figures {figures} are not all finite. Leave those out.")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``model.json``."""
        plain = {**asdict(self), "preprocessing": self.preprocessing.to_json()}
        return {"format_version": FORMAT_VERSION, **plain}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BundleSpec":
        """Rebuild what ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: When it is something else.
        """
        if data["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format_version is {data['format_version']!r}, this release reads {FORMAT_VERSION}"
            )
        known = {"format_version", *cls.__dataclass_fields__}
        if set(data) != known:
            raise ValueError(f"the keys {sorted(set(data) ^ known)} are missing or unknown")
        return cls(
            architecture=_typed(data, "architecture", str),
            classes=tuple(
                ClassLabel(_typed(label, "category_id", str), _typed(label, "path", str))
                for label in _typed(data, "classes", list)
            ),
            preprocessing=Preprocessing.from_json(_typed(data, "preprocessing", dict)),
            taxonomy_version=_typed(data, "taxonomy_version", int),
            training_table=_typed(data, "training_table", str),
            training_table_version=_typed(data, "training_table_version", int),
            git_commit=_typed(data, "git_commit", str),
            metrics={name: float(value) for name, value in _typed(data, "metrics", dict).items()},
            thresholds={
                name: float(value) for name, value in _typed(data, "thresholds", dict).items()
            },
            created_at=_typed(data, "created_at", str),
            temperature=_typed(data, "temperature", float),
        )


def _typed(data: Any, name: str, kind: type[Any]) -> Any:
    value = data[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, not a {kind.__name__}")
    return value

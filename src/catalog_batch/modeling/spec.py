"""What a model bundle says about its model, ``model.json``: read without PyTorch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.manifest import SPEC, refusal, verify_bundle
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.variants import AS_TRAINED, VARIANTS

FORMAT_VERSION = 5
_ADDED: dict[int, dict[str, Any]] = {
    2: {"head": "linear", "temperature": 1.0},
    3: {"node_thresholds": {}, "energy_limit": None},
    4: {"variant": AS_TRAINED, "made_from": ""},
    5: {"training_table_id": "", "doubt": ""},
}
"""By format version: what bundles of earlier ones do not say, and what holds for them."""


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

    head: str = "linear"
    """``linear`` or ``article``, see ``build_network``."""

    temperature: float = 1.0
    """Confidences are the softmax of the logits divided by this: above 1 they are less sure."""

    node_thresholds: dict[str, float] = field(default_factory=dict)
    """Least sum of the confidences of the classes below an inner node of the taxonomy to give that
    node, by its category id; may be empty."""

    energy_limit: float | None = None
    """Energy (see ``Prediction``) above which a picture is unlike those of training."""

    variant: str = AS_TRAINED
    """How it is run, a name of ``VARIANTS``."""

    made_from: str = ""
    """Digest of the bundle that ``optimise`` made this variant from; empty as trained."""

    training_table_id: str = ""
    """Delta's own: a table that was dropped and built again has another, and its versions begin
    anew. Empty in bundles of earlier formats."""

    doubt: str = ""
    """Why its figures may be too good, for people: what goes on from it inherits that."""

    def __post_init__(self) -> None:
        """Refuse classes that cannot name the outputs, and figures that JSON cannot hold."""
        ids = [label.category_id for label in self.classes]
        if not ids or len(set(ids)) != len(ids):
            raise BadInputError(f"Classes {ids} are none or repeat. Give each output its own id.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise BadInputError(f"Temperature {self.temperature} is not a number above 0.")
        if self.variant not in VARIANTS:
            raise BadInputError(f"Variant {self.variant!r} is none of {', '.join(VARIANTS)}.")
        if self.energy_limit is not None and not math.isfinite(self.energy_limit):
            raise BadInputError(f"Energy limit {self.energy_limit} is not a number.")
        for figures in (self.metrics, self.thresholds, self.node_thresholds):
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
        version = data["format_version"]
        if version not in range(1, FORMAT_VERSION + 1):
            raise ValueError(
                f"format_version is {version!r}, this release reads 1 to {FORMAT_VERSION}"
            )
        for later in range(version + 1, FORMAT_VERSION + 1):
            data = {**_ADDED[later], **data}
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
            metrics=_figures(data, "metrics"),
            thresholds=_figures(data, "thresholds"),
            created_at=_typed(data, "created_at", str),
            head=_typed(data, "head", str),
            temperature=_typed(data, "temperature", float),
            node_thresholds=_figures(data, "node_thresholds"),
            energy_limit=_optional(data, "energy_limit"),
            variant=_typed(data, "variant", str),
            made_from=_typed(data, "made_from", str),
            training_table_id=_typed(data, "training_table_id", str),
            doubt=_typed(data, "doubt", str),
        )


def check_bundle(folder: Path) -> BundleSpec:
    """Compare the checksums and read ``model.json``: a fast refusal, before anything starts.

    Raises:
        ModelRefusedError: Naming the folder, what is wrong and what to do.
    """
    verify_bundle(folder)
    return read_spec(folder)


def read_spec(folder: Path) -> BundleSpec:
    """Read ``model.json`` of a bundle whose checksums were compared.

    Raises:
        ModelRefusedError: When it is no description of a model, or of one without its weights.
    """
    try:
        spec = BundleSpec.from_json(json.loads((folder / SPEC).read_bytes()))
    except (KeyError, TypeError, ValueError) as error:
        raise refusal(
            folder,
            f"{SPEC} is not a model's description: {type(error).__name__} {error}",
            "Load it with the release that wrote it, or train a new one.",
        ) from error
    weights = VARIANTS[spec.variant].weights_file
    if not (folder / weights).exists():
        raise refusal(folder, f"{SPEC} names the variant {spec.variant!r}, without {weights}")
    return spec


def refuse_embeddings(spec: BundleSpec) -> None:
    """Refuse a model whose embeddings cannot be kept.

    Raises:
        ModelRefusedError: For a variant other than the one that was trained.
    """
    if spec.variant != AS_TRAINED:
        raise ModelRefusedError(
            f"The model is the variant {spec.variant!r}, which gives no embeddings. Score with the "
            "version that it was made from, or with --set score.keep_embeddings=false."
        )


def _optional(data: Mapping[str, Any], name: str) -> float | None:
    return None if data[name] is None else float(_typed(data, name, float))


def _figures(data: Mapping[str, Any], name: str) -> dict[str, float]:
    return {key: float(value) for key, value in _typed(data, name, dict).items()}


def _typed(data: Any, name: str, kind: type[Any]) -> Any:
    value = data[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}, not a {kind.__name__}")
    return value

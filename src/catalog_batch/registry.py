"""The versions of a model, their aliases and where their bundles lie (MLflow, on sqlite).

::

    <folder>/mlflow.db                          names, versions, aliases, tags
    <folder>/bundles/<model>/<digest[:16]>/     one bundle per registered digest

Locations are stored relative to the folder, so that a warehouse can be moved.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog_batch.errors import ConfigError, ModelRefusedError
from catalog_batch.modeling.manifest import verify_bundle

logger = logging.getLogger(__name__)

STORE = "mlflow.db"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
INTRODUCED = "introduced"
"""Tag of a version that had an alias and lost it."""

DOUBT = "doubt"
"""Tag that says why a version's figures may be too good, which ``promote`` repeats."""

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
REFERENCE = re.compile(rf"(?P<name>{NAME})(@(?P<alias>{NAME})|/(?P<version>[0-9]{{1,9}}))")


@dataclass(frozen=True)
class ModelVersion:
    """One registered bundle."""

    model_name: str
    version: int
    aliases: tuple[str, ...]
    """Sorted; ``champion`` is the one that scores, ``previous`` the champion before it."""

    bundle_folder: Path
    digest: str
    metrics: dict[str, float]
    tags: dict[str, str]
    created_ms: int
    """Time of registration, in milliseconds since 1970, UTC."""

    had_alias: bool = False
    """Whether it had an alias and lost it."""

    @property
    def reference(self) -> str:
        """NAME/VERSION, by which it is resolved."""
        return f"{self.model_name}/{self.version}"

    @property
    def alias(self) -> str:
        """All aliases in one text, empty when there is none."""
        return ", ".join(self.aliases)


def open_store(folder: Path) -> Any:
    """Open the MLflow store in a folder, creating it on first use: an ``MlflowClient``.

    Creating the tables takes about 3 s; opening them later, 0.5 s.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return open_client(f"sqlite:///{folder.resolve() / STORE}")


def open_client(uri: str) -> Any:
    """Open the MLflow store at a URI: an ``MlflowClient``. The import takes about 3 s."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read on import: nothing is sent home
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


class Registry:
    """Registers bundles and finds them again."""

    def __init__(self, folder: Path) -> None:
        """Take the registry's folder; nothing is created before the first ``register``."""
        self.folder = folder
        self._opened: Any = None
        self._foreign: set[str] = set()

    def register(
        self,
        model_name: str,
        bundle_folder: Path,
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
        before_champion: Callable[[ModelVersion], None] = lambda version: None,
    ) -> ModelVersion:
        """Copy a bundle in and make it the model's next version; the same digest only once.

        The first version becomes ``champion``. Later ones become ``challenger``, which the
        job ``promote`` makes champion.

        Args:
            model_name: Of letters, digits, ``_`` and ``-``.
            bundle_folder: Stays as it is.
            metrics: Kept with the version.
            tags: Likewise.
            before_champion: Called with the version that is about to become champion, if it is:
                whoever writes that down does it before any scoring can ask for it.

        Raises:
            ConfigError: For a model name that could not be referred to.
            ModelRefusedError: When the bundle is damaged.
        """
        if not re.fullmatch(NAME, model_name):
            raise ConfigError(
                f"Model name {model_name!r} is refused: use letters, digits, '_' and '-', "
                "beginning with a letter or digit."
            )
        digest = verify_bundle(bundle_folder)
        known = self._versions(model_name)
        same = [version for version in known if version.digest == digest]
        if same:
            self._fill_aliases(same[0], known, before_champion)
            return self.resolve(f"{model_name}/{same[0].version}")
        location = self._copy_in(model_name, bundle_folder, digest)
        if not known:
            self._require_model(model_name)
        created = self._client.create_model_version(
            model_name,
            source=location,
            tags={**(tags or {}), "digest": digest, "metrics": json.dumps(dict(metrics))},
        )
        version = self.resolve(f"{model_name}/{created.version}")
        self._fill_aliases(version, known, before_champion)
        return self.resolve(f"{model_name}/{created.version}")

    def set_alias(self, model_name: str, version: int, alias: str) -> None:
        """Point an alias at a version, away from the one that had it."""
        self._mark_holder(model_name, alias)
        self._client.set_registered_model_alias(model_name, alias, str(version))

    def remove_alias(self, model_name: str, alias: str) -> None:
        """Take an alias away; nothing happens when no version has it."""
        self._mark_holder(model_name, alias)
        self._client.delete_registered_model_alias(model_name, alias)

    def resolve(self, reference: str) -> ModelVersion:
        """Find a version by ``NAME@ALIAS`` or ``NAME/VERSION``.

        Raises:
            ConfigError: For a text that is neither.
            ModelRefusedError: When there is no such model, or its bundle is gone or was replaced.
        """
        parts = REFERENCE.fullmatch(reference)
        if parts is None:
            raise ConfigError(f"{reference!r} is no model: write NAME@ALIAS or NAME/VERSION.")
        for version in self._versions(parts["name"]):
            if parts["alias"] in version.aliases or parts["version"] == str(version.version):
                return self._intact(version)
        known = [f"{version.model_name}/{version.version}" for version in self.list_versions()]
        raise ModelRefusedError(
            f"There is no model {reference!r} in {self.folder}. Known are: "
            f"{', '.join(known) or 'none'}. Name one of these, or train a model first."
        )

    def list_versions(self) -> list[ModelVersion]:
        """List all versions of all models that were registered here, oldest first."""
        if not (self.folder / STORE).is_file():
            return []
        names = sorted(model.name for model in self._client.search_registered_models())
        return [version for name in names for version in self._versions(name)]

    def _fill_aliases(
        self,
        newest: ModelVersion,
        known: Sequence[ModelVersion],
        before_champion: Callable[[ModelVersion], None],
    ) -> None:
        """Give a version without an alias one: champion if the model has none.

        Asked again for a version that is there already: a run killed between the two steps of
        registering would otherwise leave a model without a champion for good. A version that had
        one and lost it gets none again: it may have been rolled back.
        """
        if newest.aliases or newest.had_alias:
            return
        has_champion = any(CHAMPION in version.aliases for version in known)
        if not has_champion:
            before_champion(newest)
        alias = CHALLENGER if has_champion else CHAMPION
        for waiting in known:
            if alias in waiting.aliases:
                logger.warning(
                    "%s/%d is the challenger now, and no longer %s/%d, which was not promoted; "
                    "promote that one by its number.",
                    newest.model_name,
                    newest.version,
                    waiting.model_name,
                    waiting.version,
                )
        self.set_alias(newest.model_name, newest.version, alias)

    def _mark_holder(self, model_name: str, alias: str) -> None:
        """Tag who is about to lose an alias: before it does, so that no kill comes in between."""
        for version in self._versions(model_name):
            if alias in version.aliases:
                self._client.set_model_version_tag(
                    model_name, str(version.version), INTRODUCED, "yes"
                )

    @property
    def _client(self) -> Any:
        self._opened = self._opened or open_store(self.folder)
        return self._opened

    def _versions(self, model_name: str) -> list[ModelVersion]:
        if not (self.folder / STORE).is_file():
            return []
        models = self._client.search_registered_models(f"name = '{model_name}'")
        if not models:
            return []
        found = self._client.search_model_versions(f"name = '{model_name}'")
        aliases = models[0].aliases
        ours = [item for item in found if "digest" in item.tags]
        self._tell_of_foreign({f"{item.name}/{item.version}" for item in found if item not in ours})
        return sorted(
            (self._model_version(item, aliases) for item in ours),
            key=lambda version: version.version,
        )

    def _tell_of_foreign(self, references: set[str]) -> None:
        """Say once which versions somebody registered in MLflow by other means."""
        for reference in sorted(references - self._foreign):
            logger.warning(
                "%s in %s was not registered by catalog-batch: it has no bundle and is passed over",
                reference,
                self.folder,
            )
        self._foreign |= references

    def _model_version(self, item: Any, aliases: Mapping[str, str]) -> ModelVersion:
        own = {"digest", "metrics", INTRODUCED}
        return ModelVersion(
            model_name=item.name,
            version=int(item.version),
            aliases=tuple(
                sorted(alias for alias, at in aliases.items() if int(at) == int(item.version))
            ),
            bundle_folder=self.folder / item.source,
            digest=item.tags["digest"],
            metrics=json.loads(item.tags["metrics"]),
            tags={name: value for name, value in item.tags.items() if name not in own},
            created_ms=int(item.creation_timestamp),
            had_alias=INTRODUCED in item.tags,
        )

    def _intact(self, version: ModelVersion) -> ModelVersion:
        digest = verify_bundle(version.bundle_folder)
        if digest != version.digest:
            raise ModelRefusedError(
                f"The bundle in {version.bundle_folder} has the digest {digest}, and "
                f"{version.model_name}/{version.version} was registered with {version.digest}. "
                "Put the registered bundle back, or score with another version."
            )
        return version

    def _copy_in(self, model_name: str, bundle_folder: Path, digest: str) -> str:
        location = Path("bundles") / model_name / digest[:16]
        target = self.folder / location
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".copying-", dir=target.parent) as temporary:
                copy = Path(shutil.copytree(bundle_folder, Path(temporary) / digest))
                verify_bundle(copy)
                copy.rename(target)
        return location.as_posix()

    def _require_model(self, model_name: str) -> None:
        # A register that was cut off may have created the name and no version.
        if not self._client.search_registered_models(f"name = '{model_name}'"):
            self._client.create_registered_model(model_name)

"""A night: what a run of ``score`` works with, from its first image to its last decision."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from catalog_batch import tables
from catalog_batch.config import ScoreSettings
from catalog_batch.modeling.spec import BundleSpec
from catalog_batch.registry import ModelVersion
from catalog_batch.runs import Run
from catalog_batch.score import transforms
from catalog_batch.score.fingerprint import Versions
from catalog_batch.score.selection import Scope, of_products
from catalog_batch.warehouse import Warehouse

JOB = "score"


@dataclass(frozen=True)
class Night:
    """What a run works with."""

    warehouse: Warehouse
    model: ModelVersion
    spec: BundleSpec
    settings: ScoreSettings
    run: Run
    scope: Scope
    read: Versions
    """Of the tables, as they are throughout: what comes meanwhile waits for the next run."""

    @property
    def target(self) -> tables.Table:
        """Where decisions go."""
        return tables.SHADOW_PREDICTIONS if self.scope.shadow else tables.PRODUCT_PREDICTIONS

    @property
    def of_model(self) -> dict[str, str | int]:
        """The columns by which rows are of this model."""
        return {"model_name": self.model.model_name, "model_version": self.model.version}

    @property
    def stamp(self) -> dict[str, str]:
        """What each commit says, for a run that is killed is not in ``run_log``."""
        versions = {f"{name}_version": str(at) for name, at in of_tables(self.read).items()}
        return {"run_id": self.run.run_id, "job": JOB, **versions}

    def listed(self, table: tables.Table) -> DataFrame:
        """Return the rows of listed products in scope."""
        rows = self.warehouse.read(table, self.read[table.name])
        return of_products(rows.transform(transforms.keep_listed), self.scope.products)

    def predictions(self) -> DataFrame:
        """Return what the model has said of images."""
        return self.warehouse.read(tables.IMAGE_PREDICTIONS).transform(
            transforms.keep_of_model, self.model.model_name, self.model.version
        )


def of_tables(versions: Versions) -> dict[str, int]:
    """Return the versions of those tables that are there."""
    return {name: at for name, at in versions.items() if at is not None}


def literals(values: Mapping[str, object]) -> list[Column]:
    """Return columns of one value each, by name."""
    return [F.lit(value).alias(name) for name, value in values.items()]

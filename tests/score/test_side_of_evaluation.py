"""A report promises what scoring does: both decide alike from the same logits."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pyspark.sql import SparkSession
from tests.score.shop import SPEC
from torch import Tensor, nn

from catalog_batch.config import ScoreSettings
from catalog_batch.evaluate.back_off import decide, fit_node_thresholds
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.thresholds import fit_thresholds
from catalog_batch.modeling.bundle import Bundle, ClassLabel
from catalog_batch.modeling.confidence import energies
from catalog_batch.modeling.predictor import Prediction, Predictor
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.score import transforms
from catalog_batch.score.pipeline import _rules
from catalog_batch.score.udf import PREDICTION_DDL
from catalog_batch.score.worker import as_row
from catalog_batch.taxonomy import category_id

ROWS = 250
PATHS = [f"{top}/{middle}/{leaf}" for top in "AB" for middle in "xyz" for leaf in "123"] + ["C"]
TEMPERATURE = 1.3


class Remembered(nn.Module):
    """A network whose logits are those of the row that a picture's red stands for."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits, requires_grad=False)

    def forward(self, batch: Tensor) -> Tensor:
        return self.logits[(255 * batch[:, 0].mean(dim=(1, 2))).round().long()]


def picture(row: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), (row, 0, 0)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    """Make rows that are often right about the leaf, and mostly about what is above it."""
    generator = np.random.default_rng(11)
    labels = generator.integers(0, len(PATHS), ROWS)
    logits = generator.normal(0, 1.2, (ROWS, len(PATHS)))
    for row, label in enumerate(labels):
        near = [place for place, path in enumerate(PATHS) if path[:3] == PATHS[label][:3]]
        logits[row, near] += generator.uniform(0, 5)
        logits[row, label] += generator.uniform(0, 5)
    names = np.array([f"{row:03d}" for row in range(ROWS)])
    ids = tuple(category_id(path) for path in PATHS)
    return Predictions("test", ids, tuple(PATHS), names, names, labels, logits.astype(np.float32))


def test_the_report_and_the_job_decide_alike(spark: SparkSession, predictions: Predictions) -> None:
    thresholds = fit_thresholds(predictions, 0.9, TEMPERATURE)
    nodes = fit_node_thresholds(predictions, thresholds, 0.9, TEMPERATURE)
    energy = energies(predictions.logits, TEMPERATURE)
    limit = float(np.quantile(energy, 0.9))
    spec = replace(
        SPEC,
        classes=tuple(ClassLabel(category_id(path), path) for path in PATHS),
        preprocessing=Preprocessing(8, 8, mean=(0, 0, 0), std=(1, 1, 1)),
        temperature=TEMPERATURE,
        thresholds=thresholds,
        node_thresholds=nodes,
        energy_limit=limit,
    )
    promised = decide(predictions, thresholds, nodes, TEMPERATURE, withheld=energy > limit)

    bundle = Bundle(Remembered(torch.from_numpy(predictions.logits)).eval(), spec, "0" * 64)
    answers = Predictor(bundle).predict([picture(row) for row in range(ROWS)])
    assert all(isinstance(answer, Prediction) for answer in answers)
    names = predictions.product_ids.tolist()
    scored = spark.createDataFrame(
        [(name, *as_row(answer), 0.0) for name, answer in zip(names, answers, strict=True)],
        f"image_id STRING, {PREDICTION_DDL}",
    )
    links = spark.createDataFrame(
        [(name, name) for name in names], "product_id STRING, image_id STRING"
    )
    decided = (
        links.transform(transforms.select_product_scores, scored)
        .transform(transforms.with_every_product, links)
        .transform(transforms.with_decision, _rules(spec, ScoreSettings()))
    )
    found = {row["product_id"]: row for row in decided.collect()}

    for row, name in enumerate(names):
        best = PATHS[predictions.predicted[row]]
        level = int(promised.level[row])
        expected = category_id("/".join(best.split("/")[:level])) if level else None
        assert found[name]["category_id"] == expected, (name, found[name])
        assert (found[name]["decision"] == "accepted") == promised.is_class[row]
    kinds = {row["decision"] for row in found.values()}
    assert kinds == {"accepted", "backed_off", "abstained"}

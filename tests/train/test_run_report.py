"""The champion that a run's report compares with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.promotion.shop import CLASSES, SIDE, spec_of

from catalog_batch.config import Settings
from catalog_batch.errors import BadInputError
from catalog_batch.evaluate.predictions import SPLITS, Predictions, file_name
from catalog_batch.modeling.bundle import write_bundle
from catalog_batch.modeling.networks import build_network
from catalog_batch.registry import ModelVersion
from catalog_batch.train.run_report import judge_champion

LABELS = np.array([0, 1, 2, 1])


def answers(split: str, labels: np.ndarray = LABELS) -> Predictions:
    """Answer each row with its class of ``LABELS``, however it is labelled."""
    image_ids = np.array([f"{split}-{row}" for row in range(len(labels))])
    return Predictions(
        split=split,
        category_ids=CLASSES,
        category_paths=CLASSES,
        image_ids=image_ids,
        product_ids=image_ids,
        labels=labels,
        logits=3 * np.eye(len(CLASSES), dtype=np.float32)[LABELS],
    )


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    """Leave the run of a champion that had every row right; returns it as registered."""
    run = tmp_path_factory.mktemp("shop") / "_runs" / "night"
    torch.manual_seed(0)
    network = build_network("squeezenet1_1", len(CLASSES), image_side=SIDE)
    write_bundle(run / "bundle", network, spec_of(), np.zeros((1, SIDE, SIDE, 3), np.uint8))
    for split in SPLITS:
        answers(split).save(run / file_name(split))
    tags = {"training_run": "night"}
    return ModelVersion("catalogue", 1, ("champion",), run / "bundle", "0", {}, tags, 0)


def settings_of(champion: ModelVersion) -> Settings:
    root: Path = champion.bundle_folder.parents[2]
    return Settings.model_validate({"warehouse": str(root)})


def test_a_champion_is_judged_by_the_labels_of_today(champion: ModelVersion) -> None:
    own = {split: answers(split, np.array([0, 2, 2, 1])) for split in SPLITS}
    judged = judge_champion(settings_of(champion), champion, own)
    assert judged is not None
    for split in SPLITS:
        assert judged.judgement.evaluations[split].figures["accuracy"].value == 3 / 4
        assert judged.predictions[split].labels.tolist() == own[split].labels.tolist()


def test_a_champion_without_a_class_of_today_is_not_compared(champion: ModelVersion) -> None:
    ids = (*CLASSES[:2], "boots")
    own = {split: replace(answers(split), category_ids=ids) for split in SPLITS}
    with pytest.raises(BadInputError, match=r"labelled \['boots'\] now"):
        judge_champion(settings_of(champion), champion, own)

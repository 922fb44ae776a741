"""Going on from an earlier bundle when the classes have changed since."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.bundle import BundleSpec, ClassLabel, write_bundle
from catalog_batch.modeling.manifest import write_manifest
from catalog_batch.modeling.networks import build_network, default_preprocessing
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.starting import starting_network, starting_preprocessing

torch.set_num_threads(1)

SMALL = "mobilenet_v3_small"
OLD = ("bags", "lamps", "shoes")


def bundle(
    folder: Path,
    architecture: str = SMALL,
    side: int = 32,
    head: str = "linear",
    preprocessing: Preprocessing | None = None,
) -> tuple[Path, nn.Module]:
    """Write a bundle of the three old classes; returns the folder and the network in it."""
    torch.manual_seed(1)
    network = build_network(architecture, len(OLD), image_side=side, head=head)
    spec = BundleSpec(
        architecture=architecture,
        classes=tuple(ClassLabel(name, name) for name in OLD),
        preprocessing=preprocessing or Preprocessing.for_side(side),
        taxonomy_version=1,
        training_table="training_examples",
        training_table_version=1,
        git_commit="0" * 40,
        metrics={},
        thresholds={},
        created_at="2026-01-01T00:00:00Z",
        head=head,
    )
    golden = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    write_bundle(folder / "old", network, spec, golden)
    return folder / "old", network


def start(folder: Path, class_ids: tuple[str, ...], **changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(2)
    options = {"architecture": SMALL, "image_side": 32, **changes}
    network = starting_network(class_ids=class_ids, weights=str(folder), **options)
    return network.state_dict()


@pytest.mark.parametrize("head", ["linear", "article"])
def test_known_classes_keep_their_rows_and_the_backbone_is_whole(tmp_path: Path, head: str) -> None:
    folder, network = bundle(tmp_path, head=head)
    before = network.state_dict()
    output = "classifier.3" if head == "linear" else "classifier.3.4"

    after = start(folder, ("shoes", "hats", "bags", "socks"), head=head)

    weight, bias = f"{output}.weight", f"{output}.bias"
    assert all(torch.equal(after[it], before[it]) for it in before if it not in (weight, bias))
    assert after[weight].shape[0] == 4
    for new, old in ((0, 2), (2, 0)):
        assert torch.equal(after[weight][new], before[weight][old])
        assert torch.equal(after[bias][new], before[bias][old])


def test_classes_that_were_renamed_or_merged_keep_what_was_learnt(tmp_path: Path) -> None:
    folder, network = bundle(tmp_path)
    before = network.state_dict()
    renamed = {"bags": "sacks", "lamps": "things", "shoes": "things"}
    after = start(folder, ("hats", "sacks", "things"), renamed=renamed)
    torch.manual_seed(2)
    fresh = build_network(SMALL, 3, image_side=32).state_dict()
    for name in ("classifier.3.weight", "classifier.3.bias"):
        assert torch.equal(after[name][0], fresh[name][0])
        assert torch.equal(after[name][1], before[name][0])
        torch.testing.assert_close(after[name][2], (before[name][1] + before[name][2]) / 2)


def test_new_classes_start_as_in_a_network_without_a_past(tmp_path: Path) -> None:
    folder, _ = bundle(tmp_path)
    after = start(folder, ("bags", "hats"))
    torch.manual_seed(2)
    fresh = build_network(SMALL, 2, image_side=32).state_dict()
    assert torch.equal(after["classifier.3.weight"][1], fresh["classifier.3.weight"][1])
    assert not torch.equal(after["classifier.3.weight"][0], fresh["classifier.3.weight"][0])


def test_the_same_classes_give_the_same_logits(tmp_path: Path) -> None:
    folder, network = bundle(tmp_path)
    again = starting_network(SMALL, OLD, str(folder), image_side=32)
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again.eval()(batch), network.eval()(batch))


def test_without_a_known_class_the_backbone_is_still_taken(tmp_path: Path) -> None:
    folder, network = bundle(tmp_path)
    after = start(folder, ("hats",))
    assert torch.equal(after["features.0.0.weight"], network.state_dict()["features.0.0.weight"])
    assert after["classifier.3.weight"].shape == (1, 1024)


def test_auxiliary_heads_keep_the_rows_of_known_classes_too(tmp_path: Path) -> None:
    folder, network = bundle(tmp_path, "googlenet")
    before = network.state_dict()
    after = start(folder, ("hats", "lamps"), architecture="googlenet")
    for name in ("fc.weight", "aux1.fc2.weight", "aux2.fc2.bias"):
        assert torch.equal(after[name][1], before[name][1])
    assert torch.equal(after["aux1.conv.conv.weight"], before["aux1.conv.conv.weight"])


def test_an_auxiliary_head_that_the_bundle_lacks_starts_fresh(tmp_path: Path) -> None:
    folder, network = bundle(tmp_path, "inception_v3", side=80)
    after = start(folder, OLD, architecture="inception_v3", image_side=299)
    assert after["AuxLogits.fc.weight"].shape == (3, 768)
    assert torch.equal(after["fc.weight"], network.state_dict()["fc.weight"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architecture": "resnet18"}, "it is mobilenet_v3_small, linear, and resnet18"),
        ({"head": "article"}, "small, article was asked for. Set train"),
        ({"weights_sha256": "00ff"}, "not 00ff"),
    ],
)
def test_a_bundle_of_another_network_is_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    folder, _ = bundle(tmp_path)
    with pytest.raises(ModelRefusedError, match=match):
        start(folder, OLD, **changes)


def test_a_transformer_of_another_image_side_is_refused(tmp_path: Path) -> None:
    folder, _ = bundle(tmp_path)
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**spec, "architecture": "vit_b_32"}))
    (folder / "MANIFEST.sha256").unlink()
    write_manifest(folder)
    with pytest.raises(ModelRefusedError, match=r"vit_b_32, linear, 32, and .* 64 was asked for"):
        start(folder, OLD, architecture="vit_b_32", image_side=64)


def test_a_convolutional_network_goes_on_at_another_image_side(tmp_path: Path) -> None:
    folder, network = bundle(tmp_path)
    after = start(folder, OLD, image_side=48)
    assert all(torch.equal(after[name], value) for name, value in network.state_dict().items())


def test_a_damaged_bundle_is_refused_by_its_checksum(tmp_path: Path) -> None:
    folder, _ = bundle(tmp_path)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelRefusedError, match=r"model\.safetensors has SHA-256"):
        start(folder, OLD)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefusedError, match=r"is refused.*are missing"):
        start(tmp_path, OLD)


def test_a_path_that_leads_nowhere_says_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="a state_dict file or of a bundle's folder"):
        start(tmp_path / "nowhere", OLD)


def test_a_state_dict_file_still_leaves_the_head_fresh(tmp_path: Path) -> None:
    published = build_network(SMALL, 10, image_side=32).state_dict()
    torch.save(published, tmp_path / "published.pth")
    after = start(tmp_path / "published.pth", OLD, head="article")
    assert torch.equal(after["classifier.0.weight"], published["classifier.0.weight"])
    assert after["classifier.3.4.weight"].shape == (3, 512)


OF_THE_BUNDLE = Preprocessing(32, 40, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic")


@pytest.mark.parametrize(
    ("image_side", "expected"),
    [
        (0, OF_THE_BUNDLE),
        (32, OF_THE_BUNDLE),
        (48, replace(OF_THE_BUNDLE, side=48, resize_side=60)),
    ],
)
def test_pictures_are_prepared_as_for_the_bundle_at_the_side_that_is_set(
    tmp_path: Path, image_side: int, expected: Preprocessing
) -> None:
    folder, _ = bundle(tmp_path, preprocessing=OF_THE_BUNDLE)
    assert starting_preprocessing(SMALL, str(folder), image_side) == expected


def test_without_a_bundle_pictures_are_prepared_as_the_architecture_has_it(tmp_path: Path) -> None:
    for weights in ("none", "imagenet", str(tmp_path / "published.pth")):
        assert starting_preprocessing(SMALL, weights, 48) == default_preprocessing(SMALL, 48)

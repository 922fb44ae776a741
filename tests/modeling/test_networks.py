import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torchvision.models import get_model_weights, list_models, squeezenet1_1

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.heads import classifier_name
from catalog_batch.modeling.networks import (
    build_network,
    default_preprocessing,
    default_side,
    refuse_untrainable,
    require_one_network,
)

torch.set_num_threads(1)

SMALL = "squeezenet1_1"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write what torchvision publishes: a state_dict with the 1000 classes of ImageNet."""
    path = tmp_path / "weights.pth"
    torch.save(squeezenet1_1().state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        ("resnet18", 32),
        ("vgg11", 32),
        ("inception_v3", 80),
        ("mobilenet_v2", 32),
        ("mobilenet_v3_small", 32),
        ("googlenet", 32),
        ("efficientnet_b0", 32),
        ("convnext_tiny", 32),
        ("swin_t", 32),
        ("squeezenet1_0", 32),
        ("vit_b_32", 32),
    ],
)
def test_every_family_gives_one_logit_per_class(architecture: str, side: int) -> None:
    with torch.device("meta"), torch.no_grad():  # shapes alone, without the work
        network = build_network(architecture, 5, image_side=side).eval()
        assert network(torch.zeros(2, 3, side, side)).shape == (2, 5)
    assert classifier_name(network).split(".")[0] in ("fc", "classifier", "head", "heads")


@pytest.mark.parametrize(
    ("architecture", "batch_size", "side", "reason"),
    [
        ("alexnet", 8, 32, "Output size is too small"),
        ("resnet18", 1, 32, "more than 1 value per channel"),
        ("inception_v3", 8, 32, "Kernel size can't be greater"),
    ],
)
def test_what_no_step_could_be_made_with_is_refused(
    architecture: str, batch_size: int, side: int, reason: str
) -> None:
    with pytest.raises(BadInputError, match=f"{batch_size} pictures of side {side}: .*{reason}"):
        refuse_untrainable(architecture, 5, batch_size, side)


@pytest.mark.parametrize("head", ["linear", "article"])
@pytest.mark.parametrize(
    ("architecture", "batch_size", "side"),
    [("resnet18", 2, 32), ("resnet18", 1, 64), ("inception_v3", 2, 299), ("googlenet", 2, 64)],
)
def test_what_steps_can_be_made_with_is_let_through(
    architecture: str, batch_size: int, side: int, head: str
) -> None:
    state = torch.get_rng_state()
    refuse_untrainable(architecture, 5, batch_size, side, head)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_architecture_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(BadInputError, match=r"'resnet-18'.*resnet18"):
        build_network("resnet-18", 5)


def test_a_detection_model_is_not_a_classifier() -> None:
    with pytest.raises(BadInputError, match="Unknown architecture"):
        build_network("fasterrcnn_resnet50_fpn", 5)


def test_a_side_the_architecture_cannot_take_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"side 33.*Use 224"):
        build_network("vit_b_32", 5, image_side=33)


@pytest.mark.parametrize(
    ("architecture", "side", "test_side"), [("vit_b_32", 224, 256), ("inception_v3", 128, 299)]
)
def test_scoring_at_a_side_that_the_network_is_not_built_for_is_refused(
    architecture: str, side: int, test_side: int
) -> None:
    require_one_network(architecture, side, side)
    require_one_network(SMALL, side, test_side)
    with pytest.raises(BadInputError, match=rf"{architecture}.* {side} .*{test_side}"):
        require_one_network(architecture, side, test_side)


def test_no_classes_are_refused() -> None:
    with pytest.raises(BadInputError, match="give 1 or more"):
        build_network(SMALL, 0)


@pytest.mark.parametrize(("architecture", "side"), [("resnet18", 224), ("inception_v3", 299)])
def test_the_default_side_is_the_one_of_the_published_weights(architecture: str, side: int) -> None:
    assert default_side(architecture) == side


@pytest.mark.parametrize(
    ("architecture", "resize_side", "side", "interpolation"),
    [
        ("resnet18", 256, 224, "bilinear"),
        ("resnet50", 232, 224, "bilinear"),
        ("inception_v3", 342, 299, "bilinear"),
        ("swin_t", 232, 224, "bicubic"),
        ("efficientnet_b2", 288, 288, "bicubic"),
    ],
)
def test_at_its_own_side_an_architecture_has_the_steps_of_its_published_weights(
    architecture: str, resize_side: int, side: int, interpolation: str
) -> None:
    steps = default_preprocessing(architecture)
    assert (steps.resize_side, steps.side) == (resize_side, side)
    assert steps.interpolation == interpolation
    assert default_preprocessing(architecture, side) == steps


def test_at_another_side_the_cut_is_as_large_a_part_as_224_is_of_256() -> None:
    steps = default_preprocessing("efficientnet_v2_l", 112)
    assert (steps.side, steps.resize_side) == (112, 128)
    assert steps.mean == steps.std == (0.5, 0.5, 0.5)


def test_every_architecture_has_steps_that_can_be_taken() -> None:
    for architecture in list_models(module=torchvision.models):
        assert default_preprocessing(architecture).resize_side >= default_side(architecture)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_leave_only_the_head_new(weights: Path, suffix: str) -> None:
    published = torch.load(weights, weights_only=True)
    path = weights.with_suffix(suffix)
    if suffix == ".safetensors":
        safetensors.torch.save_file(published, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    state = build_network(SMALL, 5, str(path), digest).state_dict()

    backbone = {name for name in published if not name.startswith("classifier.1.")}
    assert all(torch.equal(state[name], published[name]) for name in backbone)
    assert state["classifier.1.weight"].shape == (5, 512, 1, 1)


def test_weights_of_googlenet_load_with_and_without_auxiliary_heads(tmp_path: Path) -> None:
    published = build_network("googlenet", 7).state_dict()
    path = tmp_path / "googlenet.safetensors"
    for skipped in ("fc.", "aux"):
        kept = {name: value for name, value in published.items() if not name.startswith(skipped)}
        safetensors.torch.save_file(kept, path)
        state = build_network("googlenet", 5, str(path)).state_dict()
        assert torch.equal(state["conv1.conv.weight"], published["conv1.conv.weight"])
        assert state["aux1.fc2.weight"].shape == (5, 1024)


def test_names_of_densenets_first_release_are_understood(tmp_path: Path) -> None:
    published = build_network("densenet121", 5).state_dict()
    path = tmp_path / "densenet.pth"
    torch.save(
        {
            name.replace("norm1", "norm.1").replace("conv2", "conv.2"): value
            for name, value in published.items()
        },
        path,
    )
    state = build_network("densenet121", 5, str(path)).state_dict()
    name = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(state[name], published[name])


def test_weights_with_another_checksum_are_refused(weights: Path) -> None:
    with pytest.raises(ModelRefusedError, match=r"not 00ff.*correct the checksum"):
        build_network(SMALL, 5, str(weights), "00ff")


def test_weights_of_another_architecture_are_refused_by_name(weights: Path) -> None:
    with pytest.raises(ModelRefusedError, match=r"ShuffleNetV2: conv1\.0\.weight is missing"):
        build_network("shufflenet_v2_x0_5", 5, str(weights))


def test_weights_of_another_width_are_refused_with_both_shapes(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["features.0.weight"] = torch.zeros(8, 3, 3, 3)
    torch.save(state, weights)
    with pytest.raises(ModelRefusedError, match=r"features.0.weight.*\[8, 3, 3, 3\]"):
        build_network(SMALL, 5, str(weights))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_state_dict_is_refused(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelRefusedError, match="cannot be read"):
        build_network(SMALL, 5, str(path))


def test_a_whole_network_is_refused_in_place_of_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(ModelRefusedError, match=r"Save network.state_dict\(\)"):
        build_network(SMALL, 5, str(path))


def test_a_missing_weights_file_is_bad_input() -> None:
    with pytest.raises(BadInputError, match=r"'nowhere\.pth' cannot be read"):
        build_network(SMALL, 5, "nowhere.pth")


def test_imagenet_weights_that_cannot_be_downloaded_say_what_to_give_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(BadInputError, match="Give the path of a state_dict file"):
        build_network(SMALL, 5, "imagenet")


def test_imagenet_weights_go_into_all_but_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    """As torchvision publishes them: the file's name ends in the first digits of its hash."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    published = tmp_path / f"squeezenet1_1-{digest[:8]}.pth"
    weights.rename(published)
    enum = get_model_weights(SMALL)
    monkeypatch.setattr(enum.DEFAULT.value, "url", published.as_uri())
    network = build_network(SMALL, 5, "imagenet")
    assert (tmp_path / "home" / "hub" / "checkpoints" / published.name).is_file()
    state = torch.load(published, weights_only=True)
    head = classifier_name(network)
    loaded = {name: value for name, value in network.state_dict().items() if head not in name}
    assert loaded
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_imagenet_weights_are_taken_from_the_cache_only_if_they_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a download")
    with pytest.raises(ModelRefusedError, match="not b8a52dc0"):
        build_network(SMALL, 5, "imagenet")

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.bundle import (
    BundleSpec,
    ClassLabel,
    check_bundle,
    load_bundle,
    write_bundle,
)
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.preprocessing import Preprocessing

torch.set_num_threads(1)

SPEC = BundleSpec(
    architecture="squeezenet1_1",
    classes=tuple(ClassLabel(f"c{index}", f"Shop > {index}") for index in range(4)),
    preprocessing=Preprocessing(side=48, resize_side=54),
    taxonomy_version=3,
    training_table="training_examples",
    training_table_version=12,
    git_commit="0" * 40,
    metrics={"accuracy": 0.91},
    thresholds={"c0": 0.4},
    created_at="2026-01-01T00:00:00Z",
)
GOLDEN = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)


def network_of(classes: int = 4, architecture: str = "squeezenet1_1") -> nn.Module:
    torch.manual_seed(0)
    return build_network(architecture, classes, image_side=48)


def logits_of(network: nn.Module) -> Tensor:
    with torch.inference_mode():
        result: Tensor = network.eval()(SPEC.preprocessing.normalise(torch.from_numpy(GOLDEN)))
    return result


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "model"
    write_bundle(folder, network_of(), SPEC, GOLDEN)
    return folder


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "model"))


def list_again(folder: Path) -> None:
    """Write the manifest anew, as whoever changed the files on purpose would."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "MANIFEST.sha256")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    text = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    (folder / "MANIFEST.sha256").write_text(text)


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    list_again(folder)


def change_spec(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, **changes}))
    list_again(folder)


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelRefusedError, match=match) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value)


def test_a_bundle_gives_back_the_same_logits_and_description(tmp_path: Path) -> None:
    network = network_of()
    digest = write_bundle(tmp_path / "runs" / "model", network, SPEC, GOLDEN)
    loaded = load_bundle(tmp_path / "runs" / "model")
    assert torch.equal(logits_of(loaded.network), logits_of(network))
    assert (loaded.spec, loaded.digest) == (SPEC, digest)
    assert not loaded.network.training
    assert (
        digest
        == hashlib.sha256(
            (tmp_path / "runs" / "model" / "MANIFEST.sha256").read_bytes()
        ).hexdigest()
    )


def test_the_same_model_is_written_with_the_same_digest(tmp_path: Path, written: Path) -> None:
    assert (
        write_bundle(tmp_path / "model", network_of(), SPEC, GOLDEN) == load_bundle(written).digest
    )


def test_all_files_of_a_bundle_can_be_read_by_the_same_people(written: Path) -> None:
    assert len({path.stat().st_mode for path in written.iterdir()}) == 1


def test_writing_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = network_of().to(memory_format=torch.channels_last).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    write_bundle(tmp_path / "model", network, SPEC, GOLDEN)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("architecture", ["googlenet", "mnasnet0_5", "shufflenet_v2_x0_5"])
def test_networks_with_more_than_weights_make_the_round_trip(
    tmp_path: Path, architecture: str
) -> None:
    network = network_of(architecture=architecture)
    network(torch.rand(2, 3, 48, 48))  # moves the batch statistics
    write_bundle(tmp_path / "model", network, replace(SPEC, architecture=architecture), GOLDEN)
    loaded = load_bundle(tmp_path / "model")
    torch.testing.assert_close(logits_of(loaded.network), logits_of(network))


def test_head_and_temperature_make_the_round_trip_and_golden_logits_stay_raw(
    tmp_path: Path,
) -> None:
    network = build_network("squeezenet1_1", 4, head="article")
    spec = replace(SPEC, head="article", temperature=1.7)
    write_bundle(tmp_path / "model", network, spec, GOLDEN)
    loaded = load_bundle(tmp_path / "model")
    assert loaded.spec == spec
    with np.load(tmp_path / "model" / "golden.npz") as golden:
        expected = torch.from_numpy(golden["logits"])
    torch.testing.assert_close(logits_of(loaded.network), expected)


VERSION_1 = """
{
  "format_version": 1,
  "architecture": "squeezenet1_1",
  "classes": [
    {"category_id": "c0", "path": "Shop > 0"}, {"category_id": "c1", "path": "Shop > 1"},
    {"category_id": "c2", "path": "Shop > 2"}, {"category_id": "c3", "path": "Shop > 3"}
  ],
  "preprocessing": {
    "side": 48, "resize_side": 54, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
  },
  "taxonomy_version": 3,
  "training_table": "training_examples",
  "training_table_version": 12,
  "git_commit": "0000000000000000000000000000000000000000",
  "metrics": {"accuracy": 0.91},
  "thresholds": {"c0": 0.4},
  "created_at": "2026-01-01T00:00:00Z"
}
"""


def test_a_bundle_of_format_version_1_is_linear_bilinear_and_of_temperature_1(
    bundle: Path,
) -> None:
    (bundle / "model.json").write_text(VERSION_1)
    list_again(bundle)
    loaded = load_bundle(bundle)
    assert loaded.spec == SPEC
    assert (loaded.spec.head, loaded.spec.temperature) == ("linear", 1.0)
    assert loaded.spec.preprocessing.interpolation == "bilinear"


def test_a_bundle_of_format_version_2_must_say_its_head(bundle: Path) -> None:
    (bundle / "model.json").write_text(VERSION_1.replace(": 1,", ": 2,", 1))
    list_again(bundle)
    refused(bundle, r"\['head', 'temperature'\] are missing")


def test_a_folder_that_exists_is_never_written_over(written: Path) -> None:
    with pytest.raises(BadInputError, match="a folder of its own"):
        write_bundle(written, network_of(), SPEC, GOLDEN)


def nan_in(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(network.parameters())[0] = float("nan")
    return network


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (network_of(classes=5), "classifier.1.weight"),
        (network_of(architecture="squeezenet1_0"), "features"),
        (nan_in(network_of()), "not finite"),
        (nn.Sequential(network_of()), "is missing"),
    ],
    ids=["classes", "architecture", "nan", "wrapped"],
)
def test_a_network_that_is_not_the_described_one_leaves_nothing_behind(
    tmp_path: Path, network: nn.Module, match: str
) -> None:
    with pytest.raises(ModelRefusedError, match=match):
        write_bundle(tmp_path / "model", network, SPEC, GOLDEN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "images", [GOLDEN[:0], np.repeat(GOLDEN, 5, axis=0), GOLDEN[:, :40]], ids=["0", "20", "size"]
)
def test_golden_images_of_another_shape_are_refused(
    tmp_path: Path, images: npt.NDArray[np.uint8]
) -> None:
    with pytest.raises(BadInputError, match="Give 1 to 16"):
        write_bundle(tmp_path / "model", network_of(), SPEC, images)


@pytest.mark.parametrize("classes", [(), (SPEC.classes[0], SPEC.classes[0])])
def test_outputs_without_a_name_of_their_own_are_refused(classes: tuple[ClassLabel, ...]) -> None:
    with pytest.raises(BadInputError, match="its own id"):
        replace(SPEC, classes=classes)


def test_figures_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(BadInputError, match="not all finite"):
        replace(SPEC, metrics={"loss": float("nan")})


def test_a_fast_check_reads_the_description(written: Path) -> None:
    assert check_bundle(written) == SPEC


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such folder")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.json", "golden.npz", "MANIFEST.sha256"]
)
def test_a_missing_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"{name}.* missing")


def test_a_file_that_is_not_part_of_a_bundle_is_refused(bundle: Path) -> None:
    (bundle / "model.pkl").write_bytes(b"")
    refused(bundle, "'model.pkl'.* extra")
    list_again(bundle)
    refused(bundle, "'model.pkl'.* extra")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "golden.npz"])
@pytest.mark.parametrize("check", [check_bundle, load_bundle])
def test_a_truncated_file_is_refused_by_its_checksum(
    bundle: Path, name: str, check: Callable[[Path], object]
) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelRefusedError, match=f"{name} has SHA-256"):
        check(bundle)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "golden.npz"])
def test_one_flipped_bit_is_refused(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    refused(bundle, f"{name} has SHA-256")


@pytest.mark.parametrize("name", ["model.safetensors", "golden.npz"])
def test_a_truncated_file_with_the_right_checksum_is_refused(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: len(content) // 2])
    list_again(bundle)
    refused(bundle, name)


@pytest.mark.parametrize("line", ["../model.json", "/etc/passwd", "..", "a/b"])
def test_a_listed_path_outside_the_folder_is_refused(bundle: Path, line: str) -> None:
    with (bundle / "MANIFEST.sha256").open("a") as manifest:
        manifest.write(f"{'0' * 64}  {line}\n")
    refused(bundle, "has the line")


def put_nan(tensors: dict[str, Tensor]) -> None:
    tensors["features.0.weight"][0] = float("nan")


def test_a_weight_that_is_not_a_number_is_refused(bundle: Path) -> None:
    change_weights(bundle, put_nan)
    refused(bundle, r"\['features.0.weight'\] hold values that are not finite")


def test_weights_of_another_architecture_are_refused(bundle: Path) -> None:
    other = network_of(architecture="squeezenet1_0").state_dict()
    safetensors.torch.save_file(other, bundle / "model.safetensors")
    list_again(bundle)
    refused(bundle, "not those of squeezenet1_1 with the linear head and 4 classes")


def test_weights_of_half_precision_are_refused(bundle: Path) -> None:
    change_weights(
        bundle, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()})
    )
    refused(bundle, "is torch.float16")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"classes": [{"category_id": "c0", "path": "a"}]}, "and 1 classes: classifier.1.weight"),
        ({"architecture": "squeezenet1_0"}, "not those of squeezenet1_0"),
        ({"architecture": "no_such_net"}, "Unknown architecture 'no_such_net'"),
        ({"format_version": 6}, "format_version is 6, this release reads 1 to 5"),
        ({"head": "deep"}, "Unknown head 'deep'"),
        ({"head": "article"}, "not those of squeezenet1_1 with the article head"),
        ({"temperature": 0.0}, "Temperature 0.0 is not a number above 0"),
        ({"temperature": float("inf")}, "Temperature inf is not a number above 0"),
        ({"temperature": "1.5"}, "temperature is '1.5', not a float"),
        ({"classes": "c0"}, "classes is 'c0', not a list"),
        ({"classes": [{"category_id": 7, "path": "a"}]}, "category_id is 7, not a str"),
        ({"taxonomy_version": "3"}, "taxonomy_version is '3', not a int"),
        ({"preprocessing": {"side": 48}}, "preprocessing has the keys"),
        ({"metrics": {"accuracy": float("nan")}}, "not all finite"),
        ({"comment": ""}, "comment"),
    ],
)
def test_another_description_is_refused(bundle: Path, changes: dict[str, Any], match: str) -> None:
    change_spec(bundle, **changes)
    refused(bundle, match)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{}", b"\xff\xfe{"])
def test_a_description_that_is_none_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "model.json").write_bytes(content)
    list_again(bundle)
    with pytest.raises(ModelRefusedError, match=r"model.json is not a model's description"):
        check_bundle(bundle)


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.path, "ran")


def test_a_pickle_under_the_name_of_the_weights_is_refused_and_not_run(
    bundle: Path, tmp_path: Path
) -> None:
    (bundle / "model.safetensors").write_bytes(pickle.dumps(Marker(tmp_path / "marker")))
    list_again(bundle)
    refused(bundle, "not in the safetensors format")
    assert not (tmp_path / "marker").exists()
    pickle.loads((bundle / "model.safetensors").read_bytes())
    assert (tmp_path / "marker").exists(), "the pickle would not have run at all"


def test_a_pickle_in_the_golden_batch_is_refused_and_not_run(bundle: Path, tmp_path: Path) -> None:
    logits = np.array([Marker(tmp_path / "marker")], dtype=object)
    np.savez(bundle / "golden.npz", inputs=GOLDEN, logits=logits)
    list_again(bundle)
    refused(bundle, "golden.npz cannot be read")
    assert not (tmp_path / "marker").exists()


def swap_classes(tensors: dict[str, Tensor]) -> None:
    tensors["classifier.1.weight"] = tensors["classifier.1.weight"][[1, 0, 2, 3]]


def permute_channels(tensors: dict[str, Tensor]) -> None:
    name = "features.7.squeeze.weight"
    tensors[name] = tensors[name].flip(0).contiguous()


@pytest.mark.parametrize("change", [swap_classes, permute_channels])
def test_permuted_weights_are_refused_by_the_golden_batch(
    bundle: Path, change: Callable[[dict[str, Tensor]], None]
) -> None:
    change_weights(bundle, change)
    refused(bundle, "the golden pictures give logits that are off by")


def test_another_preprocessing_is_refused_by_the_golden_batch(bundle: Path) -> None:
    preprocessing = {**SPEC.preprocessing.to_json(), "mean": [0.5, 0.5, 0.5]}
    change_spec(bundle, preprocessing=preprocessing)
    refused(bundle, "the weights or the preprocessing are not the ones")


@pytest.mark.parametrize(
    "logits", [np.zeros((4, 3), np.float32), np.full((4, 4), np.nan, np.float32)]
)
def test_golden_logits_that_cannot_be_compared_are_refused(
    bundle: Path, logits: npt.NDArray[np.float32]
) -> None:
    np.savez(bundle / "golden.npz", inputs=GOLDEN, logits=logits)
    list_again(bundle)
    refused(bundle, "golden")

"""The predictor on a GPU beside the same on the CPU; needs no Spark."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.scoring.random_bundle import write_random_bundle
from PIL import Image

from catalog_batch.modeling.bundle import load_bundle, write_bundle
from catalog_batch.modeling.predictor import Failure, Prediction, Predictor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

CLASSES, SIDE = 7, 96


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_bundle(tmp_path_factory.mktemp("model") / "b", "resnet18", CLASSES, SIDE)


def picture(seed: int) -> bytes:
    """Draw coarse noise: of fine noise all pictures are alike for a network."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((140, 120), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


BATCH = 8
# The second batch has no good picture at all.
CONTENTS = [picture(1), b"no picture", picture(2), *[None] * 14, *map(picture, range(3, 40))]


@pytest.mark.parametrize("threads", [0, 4])
def test_answers_are_those_of_a_cpu(bundle: Path, threads: int) -> None:
    found = {
        device: Predictor(
            load_bundle(bundle, device), 3, BATCH, device, threads, keep_embeddings=True
        ).predict(CONTENTS)
        for device in ("cpu", "cuda:0")
    }
    assert len(found["cuda:0"]) == len(CONTENTS)
    for on_cpu, on_gpu in zip(*found.values(), strict=True):
        if isinstance(on_cpu, Failure):
            assert on_gpu == on_cpu
            continue
        assert isinstance(on_gpu, Prediction)
        assert on_gpu.energy == pytest.approx(on_cpu.energy, rel=2e-3)
        assert on_gpu.embedding == pytest.approx(on_cpu.embedding, rel=2e-2, abs=2e-3)
        shares = dict(on_cpu.top_k + on_cpu.others)
        for category, share in on_gpu.top_k:
            assert share == pytest.approx(shares[category], abs=2e-3)


def test_a_network_on_a_gpu_is_written_as_a_bundle_that_a_cpu_loads(
    bundle: Path, tmp_path: Path
) -> None:
    first = load_bundle(bundle, "cuda")
    golden = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    digest = write_bundle(tmp_path / "again", first.module, first.spec, golden)
    assert digest == first.digest
    assert next(first.module.parameters()).is_cuda

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from catalog_batch.errors import BadInputError
from catalog_batch.modeling import predictor
from catalog_batch.modeling.bundle import Bundle, BundleSpec, ClassLabel
from catalog_batch.modeling.confidence import energies
from catalog_batch.modeling.networks import build_network
from catalog_batch.modeling.predictor import (
    LEAST_SHARE,
    SPARE_BATCHES,
    Failure,
    Prediction,
    Predictor,
)
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.taxonomy import category_id

torch.set_num_threads(1)


def bundle_of(classes: int) -> Bundle:
    torch.manual_seed(0)
    spec = BundleSpec(
        architecture="squeezenet1_1",
        classes=tuple(ClassLabel(f"c{index}", f"Shop/{index}") for index in range(classes)),
        preprocessing=Preprocessing(side=32, resize_side=36),
        taxonomy_version=1,
        training_table="training_examples",
        training_table_version=1,
        git_commit="0" * 40,
        metrics={},
        thresholds={},
        created_at="2026-01-01T00:00:00Z",
    )
    return Bundle(build_network("squeezenet1_1", classes).eval(), spec, digest="0" * 64)


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def the_prediction(result: Prediction | Failure) -> Prediction:
    assert isinstance(result, Prediction)
    return result


def test_good_and_bad_pictures_are_answered_in_order() -> None:
    predictor = Predictor(bundle_of(3), batch_size=2)
    contents = [picture(1), None, b"no picture", picture(2), b"", picture(3)]
    results = predictor.predict(contents)
    assert [getattr(result, "reason", "predicted") for result in results] == [
        "predicted",
        "no_content",
        "undecodable",
        "predicted",
        "no_content",
        "predicted",
    ]


def test_threads_that_decode_ahead_change_nothing() -> None:
    contents = [picture(1), None, *(picture(seed) for seed in range(2, 12)), b""]
    alone = Predictor(bundle_of(3), batch_size=2).predict(contents)
    ahead = Predictor(bundle_of(3), batch_size=2, decode_threads=3)
    assert ahead.predict(contents) == alone
    assert ahead.predict([]) == []
    assert list(ahead.stream(iter(contents[:2]))) == alone[:2]


def test_an_embedding_is_what_the_head_is_given() -> None:
    bundle = bundle_of(3)
    contents = [picture(1), None, picture(2), picture(3)]
    plain = Predictor(bundle, batch_size=2).predict(contents)
    kept = Predictor(bundle, batch_size=2, keep_embeddings=True).predict(contents)
    assert all(the_prediction(plain[place]).embedding == () for place in (0, 2, 3))
    without = [f if isinstance(f, Failure) else replace(f, embedding=()) for f in kept]
    assert without == plain
    images = [bundle.spec.preprocessing.decode(content) for content in contents if content]
    batch = bundle.spec.preprocessing.normalise(torch.from_numpy(np.stack(images)))
    with torch.inference_mode():
        maps = bundle.network.features(batch)
    for place, expected in zip((0, 2, 3), maps.mean(dim=(2, 3)), strict=True):
        embedding = torch.tensor(the_prediction(kept[place]).embedding)
        assert embedding.shape == (512,)
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)


def test_a_stream_is_answered_before_it_ends() -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(True)
            yield picture(1)

    predictor = Predictor(bundle_of(3), batch_size=2, decode_threads=1)
    assert isinstance(next(predictor.stream(endless())), Prediction)
    # What is answered, what the thread decodes and what is ready.
    assert len(taken) == 2 * (1 + 1 + SPARE_BATCHES)


def test_bad_neighbours_do_not_change_a_prediction() -> None:
    predictor = Predictor(bundle_of(3))
    alone = the_prediction(predictor.predict([picture(1)])[0])
    among = the_prediction(predictor.predict([None, picture(2), picture(1), b"bad"])[2])
    assert [name for name, _ in among.top_k] == [name for name, _ in alone.top_k]
    assert among.margin == pytest.approx(alone.margin, abs=1e-6)


def test_confidences_are_the_softmax_of_the_networks_logits() -> None:
    bundle = bundle_of(4)
    pixels = bundle.spec.preprocessing.decode(picture(1))
    with torch.inference_mode():
        batch = bundle.spec.preprocessing.normalise(torch.tensor(pixels[None]))
        expected = bundle.network(batch)[0].softmax(dim=0).tolist()
    prediction = the_prediction(Predictor(bundle).predict([picture(1)])[0])
    assert dict(prediction.top_k) == pytest.approx(
        {f"c{index}": value for index, value in enumerate(expected)}, abs=1e-6
    )
    ranked = sorted(expected, reverse=True)
    assert [value for _, value in prediction.top_k] == pytest.approx(ranked, abs=1e-6)
    assert prediction.margin == pytest.approx(ranked[0] - ranked[1], abs=1e-6)


def test_confidences_are_the_softmax_of_logits_over_the_temperature() -> None:
    bundle = bundle_of(4)
    pixels = bundle.spec.preprocessing.decode(picture(1))
    with torch.inference_mode():
        batch = bundle.spec.preprocessing.normalise(torch.tensor(pixels[None]))
        expected = (bundle.network(batch)[0] / 0.25).softmax(dim=0).tolist()
    sharper = replace(bundle, spec=replace(bundle.spec, temperature=0.25))
    prediction = the_prediction(Predictor(sharper).predict([picture(1)])[0])
    assert dict(prediction.top_k) == pytest.approx(
        {f"c{index}": value for index, value in enumerate(expected)}, abs=1e-6
    )
    ranked = sorted(expected, reverse=True)
    assert prediction.margin == pytest.approx(ranked[0] - ranked[1], abs=1e-6)


def test_top_k_is_cut_to_what_is_asked_and_to_what_there_is() -> None:
    for classes, top_k, expected in ((4, 1, 1), (4, 3, 3), (2, 5, 2)):
        predictor = Predictor(bundle_of(classes), top_k=top_k)
        assert len(the_prediction(predictor.predict([picture(1)])[0]).top_k) == expected


def test_the_margin_looks_at_the_second_class_even_when_one_is_kept() -> None:
    one, two = (
        the_prediction(Predictor(bundle_of(3), top_k=k).predict([picture(1)])[0]) for k in (1, 2)
    )
    assert one.margin == two.margin == pytest.approx(two.top_k[0][1] - two.top_k[1][1])


def test_a_single_class_has_its_confidence_as_margin() -> None:
    prediction = the_prediction(Predictor(bundle_of(1)).predict([picture(1)])[0])
    assert (prediction.top_k, prediction.margin) == ((("c0", 1.0),), 1.0)


def test_equal_confidences_come_in_class_order() -> None:
    bundle = bundle_of(6)
    with torch.no_grad():
        for parameter in bundle.network.parameters():
            parameter.zero_()
    prediction = the_prediction(Predictor(bundle, top_k=6).predict([picture(1)])[0])
    assert [name for name, _ in prediction.top_k] == ["c0", "c1", "c2", "c3", "c4", "c5"]


def test_a_picture_without_finite_logits_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.array([[1, 2], [np.nan, 1], [np.inf, 1], [3, 1]], np.float32)
    monkeypatch.setattr(predictor, "begin_logits", lambda network, steps, pixels: lambda: logits)
    contents = [picture(seed) for seed in range(4)]
    results = Predictor(bundle_of(2)).predict(contents)
    assert [getattr(result, "reason", "predicted") for result in results] == [
        "predicted",
        "not_finite",
        "not_finite",
        "predicted",
    ]
    assert [the_prediction(results[place]).top_k[0][0] for place in (0, 3)] == ["c1", "c0"]


def test_no_pictures_and_only_bad_pictures_give_no_predictions() -> None:
    predictor = Predictor(bundle_of(2))
    assert predictor.predict([]) == []
    assert predictor.predict([None]) == [Failure("no_content", "there are no bytes")]


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(BadInputError, match="batch_size 0"):
        Predictor(bundle_of(2), batch_size=0)


def test_a_node_has_the_sum_of_the_classes_below_it_and_small_sums_are_left_out() -> None:
    bundle = bundle_of(4)
    paths = ("Fruit/Apple/Fuji", "Fruit/Apple/Gala", "Fruit", "Milk")
    classes = tuple(ClassLabel(f"c{index}", path) for index, path in enumerate(paths))
    # Sums of a random network are alike; a low temperature parts them.
    spec = replace(bundle.spec, classes=classes, temperature=0.01)
    for seed in range(5):
        predictor = Predictor(replace(bundle, spec=spec), top_k=4)
        [result] = map(the_prediction, predictor.predict([picture(seed)]))
        shares = dict(result.top_k)
        apple = shares["c0"] + shares["c1"]
        expected = {"Fruit": apple + shares["c2"], "Fruit/Apple": apple}
        kept = {
            category_id(path): total for path, total in expected.items() if total >= LEAST_SHARE
        }
        assert dict(result.nodes) == pytest.approx(kept, abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 12])
@pytest.mark.parametrize("temperature", [0.02, 1.0])
def test_categories_beyond_the_likeliest_are_kept_where_they_count(
    temperature: float, top_k: int
) -> None:
    bundle = bundle_of(12)
    bundle = replace(bundle, spec=replace(bundle.spec, temperature=temperature))
    pictures = [picture(seed) for seed in range(5)]
    every = map(the_prediction, Predictor(bundle, top_k=12).predict(pictures))
    some = map(the_prediction, Predictor(bundle, top_k=top_k).predict(pictures))
    for whole, result in zip(every, some, strict=True):
        beyond = whole.top_k[top_k:]
        assert result.top_k == whole.top_k[:top_k]
        assert result.others == tuple(guess for guess in beyond if guess[1] >= LEAST_SHARE)
        assert result.margin == whole.margin


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_energy_is_that_of_the_scaled_logits(temperature: float) -> None:
    bundle = bundle_of(3)
    bundle = replace(bundle, spec=replace(bundle.spec, temperature=temperature))
    steps = bundle.spec.preprocessing
    pixels = torch.tensor(steps.decode(picture(1))[None])
    with torch.inference_mode():
        logits = bundle.network(steps.normalise(pixels))
    [result] = map(the_prediction, Predictor(bundle).predict([picture(1)]))
    assert result.energy == pytest.approx(float(energies(logits.numpy(), temperature)[0]), rel=1e-4)

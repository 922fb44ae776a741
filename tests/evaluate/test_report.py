import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score
from tests.evaluate.samples import predicted_as, predictions_of, simulated

from catalog_batch.evaluate.judgement import Decider, Judgement, fit_decider, judge
from catalog_batch.evaluate.predictions import Predictions
from catalog_batch.evaluate.report import (
    TOP_LOSSES,
    Champion,
    ReportInputs,
    figure_title,
    figure_value,
    percent,
    render_report,
    signed,
    spread,
    write_report,
)
from catalog_batch.evaluate.thumbnails import SIDE, embedded

SECTIONS = [
    "summary",
    "training",
    "figures",
    "confusion",
    "calibration",
    "acceptance",
    "classes",
    "pairs",
    "losses",
    "augmentation",
    "comparison",
    "settings",
]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a page consists of; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self._open, self.getpos())

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, attribute: str, tag: str = "") -> list[str]:
        return [
            str(found[attribute])
            for name, found in self.attributes
            if attribute in found and tag in ("", name)
        ]


def picture(seed: int, side: int = 256) -> bytes:
    # Noise, which compresses worst.
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).save(target, "JPEG", quality=90)
    return target.getvalue()


def judged(validation: Predictions, test: Predictions, target: float = 0.9) -> Judgement:
    splits = {"validation": validation, "test": replace(test, split="test")}
    return judge(splits, fit_decider(validation, target), seed=1, resamples=20)


def epoch(number: int, **figures: Any) -> dict[str, Any]:
    usual = {
        "epoch": number,
        "train_loss": 1.0 / (number + 1),
        "validation_loss": 1.2 / (number + 1),
        "train_accuracy": 0.6,
        "validation_accuracy": 0.6,
        "learning_rate": 0.001,
        "images_per_second": 200.0,
        "wait_share": 0.1,
        "improved": number < 2,
        "validation_rows": 400,
    }
    return {**usual, **figures}


def inputs_of(validation: Predictions, test: Predictions, **others: Any) -> ReportInputs:
    test = replace(test, split="test")
    return ReportInputs(
        **{
            "model": "catalogue version 7",
            "run": "run-1",
            "architecture": "resnet18",
            "training_table": "training_examples",
            "training_table_version": 4,
            "git_commit": "0123abcd",
            "created_at": "2026-01-01T00:00:00+00:00",
            "settings": {"learning_rate": 0.001, "weights": ""},
            "history": [],  # charts take most of the time
            "judgement": judged(validation, test),
            "predictions": {"validation": validation, "test": test},
            "target_precision": 0.9,
            "photo": lambda image_id: picture(int(image_id), 64),
            **others,
        }
    )


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    validation, test = simulated(400, scale=2.0), simulated(300, scale=2.0, seed=1)
    champion = simulated(300, scale=2.0, seed=1)
    worse = champion.logits.copy()
    worse[:40] = np.roll(worse[:40], 1, axis=1)
    champion = replace(champion, logits=worse)
    return inputs_of(
        validation,
        test,
        history=[epoch(0), epoch(1), epoch(2)],
        augmentation_sheet=picture(0),
        champion=Champion("catalogue version 6", judged(validation, champion), {"test": champion}),
    )


@pytest.fixture(scope="module")
def bare(inputs: ReportInputs) -> ReportInputs:
    return replace(inputs, history=[], champion=None)


@pytest.fixture(scope="module")
def page(inputs: ReportInputs) -> str:
    return render_report(inputs)


def test_the_headline_figures_are_those_of_the_judgement(inputs: ReportInputs, page: str) -> None:
    text, evaluation = Page(page).text, inputs.judgement.evaluations["test"]
    accuracy = evaluation.figures["accuracy"]
    assert f"{percent(accuracy.value)} of 300 test photos" in text.replace(" </b>", "")
    assert f"Accuracy, test {percent(accuracy.value)} {spread(accuracy.interval)}" in text
    for title, name in (
        ("Right in the top 5", "top5_accuracy"),
        ("F1, mean of classes", "macro_f1"),
        ("Right department", "accuracy_level_1"),
        ("Right down to level 2", "accuracy_level_2"),
        ("Calibration error", "calibration_error"),
    ):
        assert f"{title} {percent(evaluation.figures[name].value)}" in text
    accepted = inputs.judgement.acceptance["test"].overall
    assert f"Accepted share {percent(accepted.coverage)} {accepted.accepted} products" in text
    assert f"Precision of accepted {percent(accepted.precision)} target 90.0%" in text


def test_every_section_is_there_in_order_and_every_link_leads_to_one(page: str) -> None:
    found = Page(page)
    assert found.values("id", "section") == SECTIONS
    ids = found.values("id")
    assert len(set(ids)) == len(ids)
    links = found.values("href", "a")
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)


def test_the_page_needs_no_network_and_no_script(page: str) -> None:
    found = Page(page)
    assert "http" not in page.replace("http-equiv", "")
    assert found.tags["script"] == found.tags["link"] == found.tags["iframe"] == 0
    for address in found.values("src") + found.values("xlink:href", "image"):
        assert address.startswith("data:image/")
    assert not [name for _, found in Page(page).attributes for name in found if name[:2] == "on"]
    assert "default-src 'none'" in page


def test_pictures_have_texts_and_tables_have_captions(page: str) -> None:
    found = Page(page)
    assert found.tags["img"] > 30
    assert all(len(alt) > 10 for alt in found.values("alt", "img"))
    assert len(found.values("alt", "img")) == found.tags["img"]
    assert found.tags["table"] == found.tags["caption"] >= 6
    charts = [kept for tag, kept in found.attributes if tag == "svg" and "aria-hidden" not in kept]
    assert len(charts) == 5 + 3  # of the epochs; matrix, reliability and coverage
    assert all(len(chart["aria-label"] or "") > 10 for chart in charts)
    regions = [kept for _, kept in found.attributes if kept.get("role") == "region"]
    assert regions and all(kept["tabindex"] == "0" and kept["aria-label"] for kept in regions)


def test_texts_of_tables_are_written_as_they_are() -> None:
    evil = '<script>alert("1")</script>'
    paths = [f"Fruit/{evil}", "Fruit/&amp;", "Milk/'\"", f"{evil}/x"]
    hostile = replace(predicted_as([0, 1, 2, 3, 0], [1, 0, 3, 2, 0]), category_paths=tuple(paths))
    found = inputs_of(
        hostile,
        hostile,
        model=evil,
        run=evil,
        settings={evil: evil},
        champion=Champion(evil, judged(hostile, hostile), {"test": replace(hostile, split="test")}),
    )
    text = render_report(found)
    page = Page(text)
    assert page.tags["script"] == 0
    assert "<script" not in text
    assert page.text.count('alert("1")') > 10
    assert "&amp;amp;" in text


def test_the_same_inputs_give_the_same_bytes_in_a_file_that_replaces_an_older_one(
    tmp_path: Path, inputs: ReportInputs, page: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, inputs)
    assert path.read_text(encoding="utf-8") == page
    assert list(tmp_path.iterdir()) == [path]


def test_81_classes_with_large_photos_and_a_sheet_stay_below_5_megabytes() -> None:
    validation, test = simulated(300, classes=81), simulated(2485, classes=81, seed=1)
    other = replace(simulated(2485, classes=81, seed=1), split="test")
    other = replace(other, logits=np.roll(other.logits, 1, axis=1))
    found = inputs_of(
        validation,
        test,
        history=[epoch(number) for number in range(30)],
        photo=lambda image_id: picture(int(image_id)),
        augmentation_sheet=picture(1, 1600),
        champion=Champion("catalogue version 6", judged(validation, other), {"test": other}),
    )
    page = render_report(found)
    assert 1_000_000 < len(page.encode()) < 5_000_000


def test_photos_are_shrunk_to_thumbnails(page: str) -> None:
    first = Page(page).values("src", "img")[0]
    with Image.open(io.BytesIO(base64.b64decode(first.split(",")[1]))) as image:
        assert image.size == (64, 64)  # a smaller photo keeps its size
    thumbnail = embedded(picture(1, 600))
    assert thumbnail is not None and (thumbnail.width, thumbnail.height) == (SIDE, SIDE)


def test_a_photo_that_is_missing_or_damaged_is_said_to_be(bare: ReportInputs) -> None:
    for content in (None, b"", b"no picture", picture(1)[:500]):
        assert embedded(content) is None
    without = replace(bare, photo=lambda image_id: None, augmentation_sheet=None)
    found = Page(render_report(without))
    assert found.tags["img"] == 0
    assert "no photo" in found.text and "There is no sheet of augmented photos" in found.text


def test_pairs_and_losses_show_the_photos_of_their_rows(bare: ReportInputs) -> None:
    asked: list[str] = []

    def photo(image_id: str) -> None:
        asked.append(image_id)

    text = render_report(replace(bare, photo=photo))
    assert asked and len(set(asked)) == len(asked)  # each is asked for once
    assert all(f"<code>{image_id}</code>" in text for image_id in asked)
    test = bare.predictions["test"]
    from_wrong = set(test.image_ids[~test.correct].tolist())
    assert from_wrong & set(asked)


@pytest.mark.parametrize(
    ("keep", "which"), [("best", "the one with the lowest validation loss"), ("last", "the last")]
)
def test_the_epoch_whose_weights_are_kept_is_told(
    inputs: ReportInputs, keep: str, which: str
) -> None:
    text = render_report(replace(inputs, champion=None, settings={"keep": keep}))
    assert f"whose weights are kept: {which}.</p>" in section(text, "training")


def section(page: str, name: str) -> str:
    [found] = re.findall(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return str(found)


def ids_in(html: str) -> list[str]:
    return re.findall("<code>(.*?)</code>", html)


def test_pairs_losses_and_classes_are_the_worst_of_the_test_rows(
    inputs: ReportInputs, page: str
) -> None:
    test = inputs.predictions["test"]
    logits = test.logits / inputs.judgement.decider.temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    own = shares[np.arange(test.rows), test.labels] / shares.sum(axis=1)
    assert ids_in(section(page, "losses")) == test.image_ids[np.argsort(own)[:TOP_LOSSES]].tolist()
    matrix = confusion_matrix(test.labels, test.predicted)
    np.fill_diagonal(matrix, 0)
    true, taken_for = np.unravel_index(matrix.argmax(), matrix.shape)
    first, *_ = section(page, "pairs").split('<div class="pair">')[1:]
    mistaken, typical = first.split("looks like")
    wrong = test.image_ids[(test.labels == true) & (test.predicted == taken_for)]
    right = test.image_ids[(test.labels == taken_for) & test.correct]
    assert 0 < len(ids_in(mistaken)) == len(set(ids_in(mistaken)) & set(wrong.tolist()))
    assert 0 < len(ids_in(typical)) == len(set(ids_in(typical)) & set(right.tolist()))
    order = np.argsort(f1_score(test.labels, test.predicted, average=None))
    rows = section(page, "classes").split("<tbody>")[1].split("<tr")[1:]
    named = [int(found) for row in rows for found in re.findall(r"Class (\d)", row)[:1]]
    assert named == order.tolist()


def test_the_comparison_counts_new_and_gone_mistakes(inputs: ReportInputs, page: str) -> None:
    assert inputs.champion is not None
    now, before = inputs.predictions["test"].correct, inputs.champion.predictions["test"].correct
    gone, new = int((now & ~before).sum()), int((~now & before).sum())
    assert gone > new
    text = Page(page).text
    assert f"{gone} mistakes are gone and {new} are new" in text
    assert "The champion is catalogue version 6" in text
    figures = inputs.champion.judgement.evaluations["test"].figures
    difference = inputs.judgement.evaluations["test"].figures["accuracy"].value
    difference -= figures["accuracy"].value
    assert f"{signed(difference)} better" in text


def test_what_chance_is_computed_from_is_said(page: str) -> None:
    text = Page(page).text
    assert "bootstrap intervals of 95%, over products with all their photos" in text
    assert "sign test over products" in text


def test_without_a_champion_there_is_nothing_to_compare(bare: ReportInputs) -> None:
    text = Page(render_report(bare)).text
    assert "There is no champion that was judged on the same split" in text


def test_without_test_rows_validation_speaks_and_that_is_said(inputs: ReportInputs) -> None:
    validation = inputs.predictions["validation"]
    empty = predictions_of([], [], validation.category_paths)
    text = Page(render_report(inputs_of(validation, empty))).text
    assert "There are no test rows" in text
    assert "of 400 validation photos" in text


def test_without_validation_rows_test_speaks_and_nothing_is_fitted(inputs: ReportInputs) -> None:
    test = inputs.predictions["test"]
    empty = predictions_of([], [], test.category_paths)
    history = [epoch(0, validation_rows=0)]
    text = Page(render_report(inputs_of(empty, test, history=history))).text
    assert "of 300 test photos" in text
    assert "It has no thresholds" in text
    assert "0 validation rows are fewer than 50" in text


def test_without_any_rows_the_page_says_so() -> None:
    empty = predictions_of([], [])
    found = Page(render_report(inputs_of(empty, empty, history=[])))
    assert "neither the validation nor the test split has rows" in found.text
    assert found.values("id", "section") == [
        "summary",
        "training",
        "augmentation",
        "comparison",
        "settings",
    ]
    ids = found.values("id")
    assert all(link[1:] in ids for link in found.values("href", "a"))


def test_a_model_of_two_classes_without_a_mistake_has_a_report() -> None:
    right = predictions_of([0, 1] * 60, [[3, 0], [0, 3]] * 60, ["a", "b"])
    text = Page(render_report(inputs_of(right, right))).text
    assert "100.0% of 120 test photos get the right one of 2 classes" in text
    assert "No row is wrong" in text
    assert "Right department" not in text  # one level says nothing that accuracy does not


def test_figures_of_epochs_that_a_history_lacks_are_not_drawn(bare: ReportInputs) -> None:
    old = [{"epoch": 0, "train_loss": 1.0, "validation_loss": 1.0, "improved": True}]
    found = Page(render_report(replace(bare, history=old)))
    labels = found.values("aria-label", "svg")
    assert [label for label in labels if "by epoch" in label] == [
        "Loss by epoch; in the last one training 1, validation 1."
    ]


def test_every_concern_leads_to_a_section(page: str) -> None:
    listed = page[page.index('class="concerns"') :]
    found = re.findall(r'<a href="#(\w+)">Look</a>', listed[: listed.index("</ul>")])
    assert found and set(found) <= set(SECTIONS)


def test_figures_that_are_too_good_are_the_first_concern(bare: ReportInputs) -> None:
    page = render_report(replace(bare, doubt="It has seen 3 of 9 test rows."))
    concerns = page[page.index('class="concerns"') :]
    assert concerns.index("It has seen 3 of 9 test rows.") < concerns.index("</li>")
    assert "It has seen" not in render_report(bare)


def test_a_judgement_without_thresholds_has_a_report(bare: ReportInputs) -> None:
    judgement = judge(bare.predictions, Decider(1.0, {}), seed=1, resamples=5)
    text = Page(render_report(replace(bare, judgement=judgement))).text
    assert "There are no thresholds: scoring accepts what reaches score.min_confidence" in text
    assert "Threshold Accepted" not in text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.9123), "91.2%"),
        (percent(None), "none"),
        (figure_value(1.23456, "calibrated_loss"), "1.235"),
        (figure_value(0.5, "macro_f1"), "50.0%"),
        (figure_title("top5_accuracy"), "Top 5 accuracy"),
        (figure_title("macro_f1"), "Macro F1"),
        (spread((0.1, 0.25)), "10.0 to 25.0%"),
        (spread((2.0, 2.5), "mistake_severity"), "2.000 to 2.500"),
        (signed(-0.0123), "-1.2"),
        (signed(-0.0001), "+0.0"),
        (signed(0.5, "loss"), "+0.500"),
    ],
)
def test_figures_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected

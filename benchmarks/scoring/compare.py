"""Is scoring as fast as no engine at all, and how much faster than the usual ways?

    python -m benchmarks.scoring.compare fp32|int8|usual [--quick] [--force] [--data DIR]

Every lane scores the images of the same Delta table and writes the same columns, in a process of
its own and a new folder. Each round runs all lanes on a part of the images, on all of them and on
the part again, for a start-up varies by seconds from one minute to the next: the bare loops,
catalog-batch and, where it takes part, Daft, which are close, in turns of some seconds in which the
others stand still, so that a machine that is slower from one minute to the next is so for all of
them; and the others in the same way, before them in every other round. Five at once would slow each
other down, for all are in memory. A part is a whole number of batches of 64 for each of two
processes, the same for both. A warm-up before the rounds is dropped. From the first answer on the
median run on all, less the median run on a part, is the time that the other images take: the steady
state. What is left of a run is start-up. Pages of memory that lanes share count for each in part.

No other lane decides what a product is, so catalog-batch stands here twice, by the same runs: until
the predictions of images are committed, which is the work of the other lanes and what they are
compared with, and to the end of the night, with every product decided and published. Processor time
and memory are of the whole night in both. The runs of others end with their process: what that
takes is in their start-up and in all their seconds, not in the steady state.

- fp32 and int8: the bare loop, Ray Data, Daft, Spark with one iterator UDF and catalog-batch call
  the same function for each image, with the model as it was trained, and in int8, where the engine
  shows.
- usual: catalog-batch with the variant that ``catalog-batch optimise`` keeps on this machine when
  it is told to try pruning, too, which it does not by itself (of photos as easy as these six
  channels of ten can go), and with the one that it keeps of the whole network, as by itself; beside
  the ways that published benchmarks score, with their arithmetic: a bare loop, and Spark with one
  iterator UDF and with two UDFs. The best category of an image should be that of the bare loop with
  the model as trained for 99.5 % of them.

Daft is left out, and the page says so, where it cannot be imported:
``benchmarks/scoring/daft_frames.py`` says how it gets there.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.commands import Finished
from benchmarks.measure import Goal, Runs, argument_parser, require_idle, table, write_result
from benchmarks.scoring.catalogue import AGREES, KNOWN, Catalogue, make_catalogues
from benchmarks.scoring.lanes import (
    BARE,
    DAFT,
    HAS_DAFT,
    ITERATOR,
    OURS,
    PLAIN,
    QUESTIONS,
    RAY,
    SHIPPED,
    TWO_UDFS,
    UNPRUNED,
    Lane,
    Question,
    Size,
)
from benchmarks.turns import run_in_turns
from deltalake import DeltaTable

from catalog_batch.modeling.bundle import check_bundle

FIRST_ANSWER = "first_answer_seconds"
"""What the status of a run has besides what the lane says."""


@dataclass
class ScoringRuns(Runs):
    """The timed runs of one lane, and what it answered."""

    agreement: float = 1.0
    """Share of the images whose best category is that of the bare loop."""

    def steady_seconds(self, run: Finished) -> float:
        """Return the time from the first answer on."""
        return run.seconds - float(run.status[FIRST_ANSWER])

    def until_published(self) -> "ScoringRuns":
        """Return runs of ours as if they ended when the predictions of images are committed."""
        part, whole = (
            [replace(run, seconds=run.seconds_to("published_seconds")) for run in of]
            for of in (self.part, self.whole)
        )
        return replace(self, part=part, whole=whole)


LaneRuns = dict[str, ScoringRuns]


def best_categories(output: Path) -> dict[str, str]:
    """Read the best category of each image from a table of predictions."""
    best = dict[str, str]()
    for file in _files_of(output):
        rows = file.read(columns=["image_id", "top_k"]).to_pylist()
        best |= {row["image_id"]: row["top_k"][0]["category_id"] for row in rows}
    return best


def first_answer_at(output: Path) -> float:
    """Return when a lane of others had its first answer, by its table, in seconds since 1970."""
    name = "answered_at"
    columns = [file.read([name])[name] for file in _files_of(output)]
    return float(min(pc.min(column).as_py() for column in columns if len(column)))


def _files_of(output: Path) -> list[pq.ParquetFile]:
    uris = DeltaTable(str(output)).file_uris()
    return [pq.ParquetFile(unquote(uri.removeprefix("file://"))) for uri in uris]


def measure_lanes(question: Question, size: Size, data: Path) -> LaneRuns:
    """Run all lanes round by round; the warm-up is not returned, and our nights are added."""
    catalogues = make_catalogues(counts_of(question, size), data, question.variants)
    found = {
        lane.name: ScoringRuns(replace(size, whole=lane.images(size))) for lane in question.lanes
    }
    for lanes in question.groups:
        run_lanes(lanes, [catalogues[size.part]] * len(lanes))
    for number in range(1, size.rounds + 1):
        best = dict[str, dict[str, str]]()
        for lanes in question.groups if number % 2 else reversed(question.groups):
            before = run_lanes(lanes, [catalogues[size.part]] * len(lanes))
            whole = run_lanes(lanes, [catalogues[lane.images(size)] for lane in lanes])
            after = run_lanes(lanes, [catalogues[size.part]] * len(lanes))
            of_lanes = zip(lanes, before, whole, after, strict=True)
            for lane, (first, _), (long, answers), (last, _) in of_lanes:
                best[lane.name] = answers
                found[lane.name].part += [first, last]
                found[lane.name].whole.append(long)
                seconds = ", ".join(f"{run.seconds:.1f}" for run in (first, long, last))
                print(f"round {number}, {lane.name}: {seconds} s", flush=True)
        reference = best[question.lanes[0].name]
        for name, runs in found.items():
            runs.agreement = min(runs.agreement, agreement(best[name], reference))
    for lane in question.own:
        found[lane.night] = found[lane.name]
        found[lane.name] = found[lane.name].until_published()
    return found


def agreement(best: Mapping[str, str], reference: Mapping[str, str]) -> float:
    """Return the share of the images with the reference's category, of those that both scored.

    Raises:
        ValueError: When they have no image in common.
    """
    both = best.keys() & reference.keys()
    if not both:
        raise ValueError("Two lanes have no image in common: their catalogues are not of one pool.")
    return sum(best[image] == reference[image] for image in both) / len(both)


def counts_of(question: Question, size: Size) -> set[int]:
    """Return the sizes of the catalogues that the lanes score."""
    return {size.part, *(lane.images(size) for lane in question.lanes)}


def run_lanes(
    lanes: Sequence[Lane], catalogues: Sequence[Catalogue]
) -> list[tuple[Finished, dict[str, str]]]:
    """Score a catalogue by each lane, in turns; return how it went, and the best categories.

    Raises:
        SystemExit: When not every image has an answer: a lane may not win by losing rows.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=catalogues[0].folder.parent) as place:
        commands = [
            lane.prepare(catalogue, Path(place, str(number)))
            for number, (lane, catalogue) in enumerate(zip(lanes, catalogues, strict=True))
        ]
        runs = run_in_turns([words for words, _ in commands])
        best = [best_categories(output) for _, output in commands]
        runs = [
            _with_first_answer(run, output if lane.module else None)
            for lane, run, (_, output) in zip(lanes, runs, commands, strict=True)
        ]
    for lane, catalogue, answers in zip(lanes, catalogues, best, strict=True):
        if len(answers) != catalogue.count:
            scored = f"{len(answers):,} of {catalogue.count:,} images"
            sys.exit(f"{lane.name} scored {scored}: no figure.")
    return list(zip(runs, best, strict=True))


def _with_first_answer(run: Finished, output: Path | None) -> Finished:
    """Return a run that says after how many seconds it had its first answer.

    What a lane of others has written tells when, and ours itself.
    """
    if output is None:
        first = run.seconds_to("start_up_seconds")
    else:
        first = run.seconds_until(first_answer_at(output))
    return replace(run, status={**run.status, FIRST_ANSWER: round(first, 3)})


_Bounds = Sequence[tuple[Lane, str, float]]
"""Least ratios of our images per second to those of other lanes."""

_ENGINES: _Bounds = (
    (BARE, "bare", 0.95),
    (RAY, "ray_data", 1.0),
    (DAFT, "daft", 1.0),
    (PLAIN, "iterator_udf", 1.0),
)
_USUAL: _Bounds = ((ITERATOR, "iterator_udf", 6.0), (TWO_UDFS, "two_udfs", 20.0))


def ratio(found: LaneRuns, lane: Lane, other: Lane) -> float:
    """Return a lane's images per second over another's."""
    return found[lane.name].images_per_second / found[other.name].images_per_second


def first_image_seconds(runs: Sequence[Finished]) -> float:
    """Return after how many seconds runs had their first answer; the median."""
    return statistics.median(float(run.status[FIRST_ANSWER]) for run in runs)


def goals_of(question: Question, found: LaneRuns) -> list[Goal]:
    if question.name == "usual":
        ours = found[SHIPPED.name]
        return [
            *_goals("scoring_as_shipped", SHIPPED, found, _USUAL),
            *_goals("scoring_unpruned", UNPRUNED, found, _USUAL),
            Goal("scoring_as_shipped_agreement", ours.agreement, AGREES),
            Goal("scoring_first_image_seconds", first_image_seconds(ours.part), 15, at_most=True),
        ]
    return _goals(f"scoring_{question.name}", OURS, found, _ENGINES)


def _goals(name: str, ours: Lane, found: LaneRuns, bounds: _Bounds) -> list[Goal]:
    """Return the goals for the same work as the others', and for all that a night does."""
    lanes = {name: ours, f"{name}_night": replace(ours, name=ours.night)}
    return [
        Goal(f"{prefix}_vs_{beside}", ratio(found, lane, other), bound)
        for prefix, lane in lanes.items()
        for other, beside, bound in bounds
        if other.name in found
    ]


def page_of(question: Question, found: LaneRuns, variants: str) -> str:
    """Return the page, as Markdown."""
    header = (
        "lane", "threads", "images/s, steady", "against the first", "CPU ms/image", "start-up s",
        "a part s (range)", "images", "all s (range)", "peak memory MiB", "same best category",
    )  # fmt: skip
    intro = f"# Scoring, {question.name}\n\n{__doc__.partition('[--data DIR]')[2].strip()}\n"
    title = f"\n## Stored images, ResNet-18; {variants}\n\n"
    missing = "" if HAS_DAFT else "\nDaft could not be imported and is in no table.\n"
    nights = [replace(lane, name=lane.night) for lane in question.own]
    lines = [_line(lane, question.lanes[0], found) for lane in (*question.lanes, *nights)]
    ours = [_spent(lane, found[lane.name]) for lane in question.own]
    return f"{intro}{title}{table(header, lines)}\n{missing}{''.join(ours)}"


def tried_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what ``optimise`` found of each variant, as Markdown."""
    header = (
        "variant", "verdict", "images/s of the network", "times as trained", "agreement",
        "accuracy", "accepted", "why not",
    )  # fmt: skip
    figures = ("agreement", "accuracy", "accepted")
    lines = [
        [
            row["variant"],
            row["verdict"],
            f"{row['images_per_second'] or 0:.1f}",
            f"{row['speed_up'] or 0:.2f}",
            *("-" if row[name] is None else f"{row[name]:.2%}" for name in figures),
            row["reason"] or "",
        ]
        for row in rows
    ]
    return f"## What `optimise` found, run by run\n\n{table(header, lines)}\n"


def _line(lane: Lane, first: Lane, found: LaneRuns) -> list[str]:
    runs = found[lane.name]
    return [
        lane.name,
        lane.threads,
        f"{runs.images_per_second:.1f}",
        f"{ratio(found, lane, first):.2f}",
        f"{runs.cpu_ms_per_image:.1f}",
        f"{runs.start_up_seconds:.1f}",
        _median_and_range(runs.part),
        f"{runs.size.whole:,}",
        _median_and_range(runs.whole),
        f"{max(run.peak_mib for run in runs.whole):,.0f}",
        f"{runs.agreement:.2%}",
    ]


def _spent(lane: Lane, runs: ScoringRuns) -> str:
    """Say when a lane of ours had its first answer, and where its processors' time goes."""
    of_role = {
        role: runs.cpu_ms_more(lambda run, role=role: run.cpu_seconds_by_role.get(role, 0.0))
        for role in sorted({role for run in runs.whole for role in run.cpu_seconds_by_role})
    }
    roles = ", ".join(f"{role} {ms:.2f}" for role, ms in of_role.items())
    first = first_image_seconds(runs.part)
    return f"{lane.name}: first image after {first:.1f} s; CPU ms an image more: {roles}.\n\n"


def _median_and_range(runs: Sequence[Finished]) -> str:
    seconds = [run.seconds for run in runs]
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f}-{max(seconds):.1f})"


def _as_json(lane: Lane, runs: ScoringRuns) -> dict[str, Any]:
    return {
        "threads": lane.threads,
        "images": [runs.size.part, runs.size.whole],
        "images_per_second": round(runs.images_per_second, 2),
        "start_up_seconds": round(runs.start_up_seconds, 2),
        "agreement": runs.agreement,
        "part": [_stored(run) for run in runs.part],
        "whole": [_stored(run) for run in runs.whole],
    }


def _stored(run: Finished) -> dict[str, Any]:
    """Return a run as JSON: of its pauses the sum, by which its status is longer than it."""
    stood_still = sum(until - since for since, until in run.pauses)
    return asdict(run) | {"pauses": round(stood_still, 2)}


def main() -> None:
    parser = argument_parser("Compare scoring with a bare loop, other engines and the usual ways.")
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument(
        "--images", type=int, metavar="N", help="of a longer run, where this machine is slow"
    )
    given = parser.parse_args()
    question = QUESTIONS[given.question]
    size = question.quick if given.quick else question.full
    size = replace(size, whole=given.images or size.whole)
    data = given.data.resolve()
    catalogue = make_catalogues(counts_of(question, size), data, question.variants)[size.part]
    chosen = {
        lane.name: check_bundle(lane.model_of(catalogue).bundle_folder).variant
        for lane in question.own
    }
    idle = require_idle(given.force)
    found = measure_lanes(question, size, data)
    result = {
        "quick": given.quick,
        "forced": given.force,
        "idle_before": idle,
        "variants": chosen,
        "lanes": {lane.name: _as_json(lane, found[lane.name]) for lane in question.lanes},
        "seconds_until": {lane.name: "images are published" for lane in question.own},
        "nights": {lane.night: _as_json(lane, found[lane.night]) for lane in question.own},
    }
    told = ", ".join(f"{name}: {variant}" for name, variant in chosen.items())
    page, goals = page_of(question, found, told), goals_of(question, found)
    if question.name == "usual":
        page += tried_of(Catalogue(data / f"scoring-{KNOWN}", KNOWN).tried())
    command = f"python -m benchmarks.scoring.compare {question.name}"
    command += f" --images {given.images}" if given.images else ""
    write_result(f"scoring-{question.name}", result, page, goals, command)


if __name__ == "__main__":
    main()

"""What became of each variant, by what it showed and the bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.markup import escape
from rich.table import Column, Table

from catalog_batch.compress.trials import Trial
from catalog_batch.config import OptimiseSettings
from catalog_batch.evaluate.gate import at_least
from catalog_batch.modeling.variants import AS_TRAINED


class Verdict(StrEnum):
    """What became of a variant."""

    REFERENCE = "reference"
    """The model as trained, which the others are measured against."""

    KEPT = "kept"
    """The fastest of those within the bounds: it was registered."""

    NOT_FASTEST = "not_fastest"
    """Within the bounds, but another one is faster, or it is hardly faster than the reference."""

    REFUSED = "refused"
    """Its answers differ too often, or are less often right, or it is far too slow."""

    NOT_MADE = "not_made"
    """It could not be made or loaded on this machine."""


@dataclass(frozen=True)
class Finding:
    """A variant, what it showed, and what became of it."""

    variant: str
    verdict: Verdict
    trial: Trial | None
    """None where it was not made."""

    speed_up: float | None
    """Images per second over the reference's."""

    reason: str
    """Which bound it missed, or what went wrong; empty where there is nothing to say."""


def judge(
    trials: Sequence[Trial], problems: Mapping[str, str], bounds: OptimiseSettings
) -> list[Finding]:
    """Say of each variant whether it is kept, and if not, why.

    Args:
        trials: Of the model as trained and of the variants that were made.
        problems: By variant, why the others were not.
        bounds: What agreement, accuracy and speed are asked for.
    """
    [reference] = [trial for trial in trials if trial.variant == AS_TRAINED]
    speed_ups = {
        trial.variant: trial.images_per_second / reference.images_per_second for trial in trials
    }
    missed = {trial.variant: _missed_bound(trial, reference, bounds) for trial in trials}
    within = [name for name, reason in missed.items() if not reason and name != AS_TRAINED]
    best = max(within, key=lambda name: speed_ups[name], default=None)
    if best and speed_ups[best] < bounds.min_speed_up:
        best = None

    def verdict(name: str) -> Verdict:
        if name == AS_TRAINED:
            return Verdict.REFERENCE
        if missed[name]:
            return Verdict.REFUSED
        return Verdict.KEPT if name == best else Verdict.NOT_FASTEST

    return [
        *(
            Finding(
                trial.variant,
                verdict(trial.variant),
                trial,
                speed_ups[trial.variant],
                missed[trial.variant],
            )
            for trial in trials
        ),
        *(Finding(name, Verdict.NOT_MADE, None, None, why) for name, why in problems.items()),
    ]


def _missed_bound(trial: Trial, reference: Trial, bounds: OptimiseSettings) -> str:
    if trial.images < reference.images:
        return f"it was far too slow, and stopped after {trial.images:,} images"
    lost = reference.accuracy - trial.accuracy
    if not at_least(trial.agreement, bounds.min_agreement):
        return f"agreement {trial.agreement:.4f} is below {bounds.min_agreement:g}"
    if not at_least(bounds.max_accuracy_loss, lost):
        return f"accuracy falls by {lost:.4f}, more than {bounds.max_accuracy_loss:g}"
    changed, most = trial.accepted - reference.accepted, bounds.max_accepted_change
    if not at_least(most, abs(changed)):
        return f"the share accepted changes by {changed:+.4f}, more than {most:g}"
    return ""


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table for a console, a line each."""
    table = Table(
        Column("variant", no_wrap=True),
        "",
        "images/s",
        "times as fast",
        "agreement",
        "accuracy",
        "accepted",
        Column("", overflow="fold"),
    )
    colours = {Verdict.KEPT: "bold green", Verdict.REFUSED: "red", Verdict.NOT_MADE: "red"}
    for finding in findings:
        trial, colour = finding.trial, colours.get(finding.verdict, "default")
        table.add_row(
            finding.variant,
            f"[{colour}]{finding.verdict.replace('_', ' ')}[/]",
            f"{trial.images_per_second:.1f}" if trial else "-",
            f"{finding.speed_up:.2f}" if finding.speed_up else "-",
            f"{trial.agreement:.4f}" if trial else "-",
            f"{trial.accuracy:.4f}" if trial else "-",
            f"{trial.accepted:.4f}" if trial else "-",
            escape(finding.reason),
        )
    return table

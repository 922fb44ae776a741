"""What a search tries: a space of settings in TOML, and the configurations drawn from it.

::

    method = "asha"                     # grid, random, asha
    trials = 12                         # of random and asha

    [space]
    "train.learning_rate" = { log_uniform = [1e-5, 1e-2] }
    "train.architecture" = ["resnet18", "mobilenet_v2"]     # a list is a choice, and a grid's axis
"""

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from catalog_batch.config import TrainSettings, read_toml
from catalog_batch.errors import ConfigError

PREFIX = "train."
SPACE = "space"

NOT_SEARCHED = {"model_name", "weights_sha256", "target_precision", "compile"}
"""Settings that change no figure of the validation rows."""

MOST_TRIALS = 1000
DIGITS = 4
"""Significant digits of a number that is drawn."""

DRAWS_PER_TRIAL = 1_000
"""Draws after which the space is taken to hold no more combinations."""

Metric = Literal["validation_accuracy", "validation_loss"]


class SearchOptions(BaseModel):
    """How a space is searched: everything in its file but the space."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["grid", "random", "asha"] = "random"
    """``grid`` tries every combination of choices; ``random`` draws; ``asha`` draws, and stops a
    trial that is not among the best after few epochs (Li et al. 2020, arXiv:1810.05934)."""

    trials: int = Field(default=10, ge=1, le=MOST_TRIALS)
    """Configurations that ``random`` and ``asha`` draw; raised later, the search goes on."""

    metric: Metric = "validation_accuracy"
    """What is best: the highest accuracy or the lowest loss, of the weights that a run keeps."""

    seed: int = Field(default=17, ge=0)
    """Of the draws: the same space and seed give the same trials."""

    grace_epochs: int = Field(default=1, ge=1)
    """Epochs after which ``asha`` may first stop a trial."""

    reduction_factor: int = Field(default=3, ge=2)
    """``asha`` lets about one in so many trials pass, after ``grace_epochs`` and again each time
    the epochs have grown by this factor."""

    @property
    def mode(self) -> Literal["max", "min"]:
        """Whether the highest or the lowest figure is best."""
        return "max" if self.metric == "validation_accuracy" else "min"


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    @property
    def count(self) -> float:
        """Different values that can be drawn."""
        return len(self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one, all equally likely."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Range:
    """A number between two, both included; a whole one for a setting that is whole."""

    low: float
    high: float
    is_log: bool
    """Whether the number's logarithm is drawn evenly."""

    is_whole: bool

    @property
    def count(self) -> float:
        """Different values that can be drawn."""
        return self.high - self.low + 1 if self.is_whole else math.inf

    def draw(self, rng: np.random.Generator) -> float | int:
        """Draw one, rounded to ``DIGITS`` so that it can be read and typed."""
        # A whole number stands for the half before and after it: the ends are as likely as others.
        margin = 0.5 if self.is_whole else 0.0
        low, high = self.low - margin, self.high + margin
        if self.is_log:
            number = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            number = float(rng.uniform(low, high))
        rounded = round(number) if self.is_whole else float(f"{number:.{DIGITS}g}")
        inside = min(max(rounded, self.low), self.high)
        return int(inside) if self.is_whole else inside


Axis = Choice | Range


@dataclass(frozen=True)
class Trial:
    """One configuration of a search; a training run of this name."""

    name: str
    values: dict[str, Any]
    """By setting, without ``train.``."""

    settings: TrainSettings


@dataclass(frozen=True)
class SearchSpace:
    """A file with a space, checked."""

    options: SearchOptions
    axes: dict[str, Axis]
    """By setting, without ``train.``, in the order of the file."""

    written: dict[str, Any]
    """The axes as the file has them, to be compared with the file of an earlier start."""

    def trials(self, search: str, base: TrainSettings) -> list[Trial]:
        """Draw the trials; fewer of them are the first of more.

        Args:
            search: Name of the search: its trials are runs ``NAME-0001``, ...
            base: Settings that are not searched.

        Raises:
            ConfigError: When a grid or a draw is too large for the space.
        """
        is_grid = self.options.method == "grid"
        drawn = list(self._grid() if is_grid else self._draws())
        return [
            Trial(f"{search}-{number:04d}", values, with_values(base, values))
            for number, values in enumerate(drawn, start=1)
        ]

    def _grid(self) -> Iterator[dict[str, Any]]:
        count = math.prod(axis.count for axis in self.axes.values())
        if count > MOST_TRIALS:
            raise ConfigError(
                f"The grid has {count:,.0f} combinations, more than {MOST_TRIALS:,}. Take choices "
                'out, or set method = "random".'
            )
        choices = [axis.values for axis in self.axes.values() if isinstance(axis, Choice)]
        for values in itertools.product(*choices):
            yield dict(zip(self.axes, values, strict=True))

    def _draws(self) -> Iterator[dict[str, Any]]:
        """Draw each combination once at most."""
        count = math.prod(axis.count for axis in self.axes.values())
        if self.options.trials > count:
            raise ConfigError(
                f"The space has {count:.0f} combinations, fewer than trials = "
                f'{self.options.trials}. Lower trials, or set method = "grid".'
            )
        rng = np.random.default_rng(self.options.seed)
        seen: set[tuple[Any, ...]] = set()
        for _ in range(DRAWS_PER_TRIAL * self.options.trials):
            values = {name: axis.draw(rng) for name, axis in self.axes.items()}
            if (key := tuple(values.values())) not in seen:
                seen.add(key)
                yield values
            if len(seen) == self.options.trials:
                return
        raise ConfigError(
            f"Only {len(seen)} different combinations were drawn, for numbers are rounded to "
            f"{DIGITS} digits: fewer than trials = {self.options.trials}. Lower trials, or widen "
            "the ranges."
        )


def load_space(path: Path, base: TrainSettings, elsewhere: Set[str] = frozenset()) -> SearchSpace:
    """Read a space and check every name, choice and bound against the settings.

    Args:
        path: TOML file.
        base: Settings that are not searched.
        elsewhere: Settings of where a run happens, which say nothing of a model.

    Raises:
        ConfigError: For a file that is missing or no TOML; an unknown key, with the nearest known
            one; a setting that cannot be searched; a value that the setting does not take; a range
            in a grid.
    """
    contents = read_toml(path)
    written = _flat(contents.pop(SPACE, {}))
    _refuse_unknown(path, contents, {*SearchOptions.model_fields, SPACE})
    try:
        options = SearchOptions.model_validate(contents)
    except ValidationError as error:
        raise ConfigError(f"{path} refused: {_problems(error)}.") from error
    if not written:
        raise ConfigError(
            f"{path} has no [space] to search. Name settings there, for example "
            '"train.learning_rate" = { log_uniform = [1e-5, 1e-2] }.'
        )
    known = set(TrainSettings.model_fields) - NOT_SEARCHED - elsewhere
    axes = {_known(path, name, known): value for name, value in written.items()}
    space = SearchSpace(
        options, {name: _axis(path, name, value, base) for name, value in axes.items()}, written
    )
    _refuse_misfits(path, space, base)
    return space


def with_values(base: TrainSettings, values: Mapping[str, Any]) -> TrainSettings:
    """Return settings with some of them replaced, all checked.

    Raises:
        ConfigError: When the values do not go together.
    """
    try:
        return TrainSettings.model_validate({**base.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(f"Settings of a trial refused, {values}: {_problems(error)}.") from error


def _refuse_misfits(path: Path, space: SearchSpace, base: TrainSettings) -> None:
    options = space.options
    ranges = [name for name, axis in space.axes.items() if isinstance(axis, Range)]
    if options.method == "grid" and ranges:
        raise ConfigError(
            f"{path}: a grid has no ranges, and {PREFIX}{ranges[0]} is one. Give it a list of "
            'values, or set method = "random".'
        )
    if options.method == "asha":
        axis = space.axes.get("epochs", Choice((base.epochs,)))
        most = max(axis.values) if isinstance(axis, Choice) else axis.high
        if options.grace_epochs >= most:
            raise ConfigError(
                f"{path}: grace_epochs = {options.grace_epochs} leaves nothing to stop of "
                f"train.epochs = {most:.0f}. Raise train.epochs, lower grace_epochs, or set "
                'method = "random".'
            )


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Let ``train.x = ...`` stand without quotes too, which TOML reads as a table in a table."""
    flat: dict[str, Any] = {}
    for name, value in section.items():
        is_section = isinstance(value, Mapping) and f"{prefix}{name}." == PREFIX
        flat |= _flat(value, f"{prefix}{name}.") if is_section else {f"{prefix}{name}": value}
    return flat


def _known(path: Path, name: str, known: Set[str]) -> str:
    setting = name.removeprefix(PREFIX)
    if name.startswith(PREFIX) and setting in known:
        return setting
    if name.startswith(PREFIX) and setting in TrainSettings.model_fields:
        raise ConfigError(
            f"{path}: {name!r} cannot be searched: it does not decide what a model learns. Take it "
            f"out, and give it as --set {name}=VALUE."
        )
    nearest = difflib.get_close_matches(name, [PREFIX + each for each in sorted(known)], 1, 0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"{path}: unknown setting {name!r} in [space].{hint}")


def _axis(path: Path, name: str, value: Any, base: TrainSettings) -> Axis:
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"{path}: {PREFIX}{name} = [] leaves nothing to choose from.")
        choices = [_checked(path, name, choice, base) for choice in value]
        if len(set(choices)) < len(choices):
            raise ConfigError(f"{path}: {PREFIX}{name} = {value} names a value twice.")
        return Choice(tuple(choices))
    kinds = {"uniform": False, "log_uniform": True}
    if not (isinstance(value, Mapping) and len(value) == 1 and set(value) <= set(kinds)):
        raise ConfigError(
            f"{path}: {PREFIX}{name} = {value!r} is neither choices nor a range. Write a list, "
            "{ uniform = [LOW, HIGH] } or { log_uniform = [LOW, HIGH] }."
        )
    [(kind, ends)] = value.items()
    return _range(path, name, ends, kinds[kind], base)


def _range(path: Path, name: str, ends: Any, is_log: bool, base: TrainSettings) -> Range:
    annotation = TrainSettings.model_fields[name].annotation
    if annotation not in (int, float):
        raise ConfigError(f"{path}: {PREFIX}{name} is no number. Give it a list of values.")
    is_pair = isinstance(ends, list) and len(ends) == 2
    if not is_pair or not all(type(end) in (int, float) for end in ends) or ends[0] >= ends[1]:
        raise ConfigError(
            f"{path}: the range {ends!r} of {PREFIX}{name} is not [LOW, HIGH] with LOW below HIGH."
        )
    low, high = (_checked(path, name, end, base) for end in ends)
    if is_log and low <= 0:
        raise ConfigError(
            f"{path}: log_uniform of {PREFIX}{name} begins at {low}, which has no logarithm. Begin "
            "above 0, or write uniform."
        )
    return Range(low, high, is_log, is_whole=annotation is int)


def _checked(path: Path, name: str, value: Any, base: TrainSettings) -> Any:
    """Return a value as its setting has it: a number for a text that is one, say."""
    try:
        return getattr(TrainSettings.model_validate({**base.model_dump(), name: value}), name)
    except ValidationError as error:
        raise ConfigError(f"{path} refused: {_problems(error)}.") from error


def _refuse_unknown(path: Path, contents: Mapping[str, Any], known: Set[str]) -> None:
    for name in contents:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            if name.startswith(PREFIX.rstrip(".")):
                hint = " Settings to search stand under [space]."
            raise ConfigError(f"{path}: unknown key {name!r}.{hint}")


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}"
        for item in error.errors()
    )

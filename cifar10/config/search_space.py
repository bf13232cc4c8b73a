"""The search space of a sweep: settings and their values, from a file of `conf/sweep/` or from lists with commas.

The file is one of `conf/sweep/`, or any YAML file by its path. On the command line, `optimizer.lr=0.1,0.2` is a list of
values; several of them make a grid, in which each combination is tried once.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, model_validator
from yaml import MarkedYAMLError, YAMLError

from cifar10.config import conf_folder
from cifar10.config.advice import setting
from cifar10.config.foreign_yaml import parse_yaml
from cifar10.config.overrides import parsed_list
from cifar10.config.schema import Section
from cifar10.config.validation import problems_of, validate
from cifar10.errors import UsageError, first_line
from cifar10.files import read_text

Value = bool | int | float | str | list[Any] | None
"""Of a setting: a number, text, true, false, null, or a list."""
Values = Mapping[str, Value]
"""Key of a setting -> its value in one trial."""

_MOST_POINTS = 100_000  # of a grid


class Parameter(Section):
    """The values of one setting: from `low` to `high`, or one of `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    """Included. If both ends are whole numbers, so are the values; with a point, as in 0.0, they are fractions."""
    log: bool = False
    """Draw the logarithm evenly: for settings that are right in order of magnitude, such as a learning rate."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Between two values. null: every value for fractions, 1 for whole numbers."""
    choices: Annotated[list[Value], Field(min_length=1, max_length=1000)] | None = None
    """Values, or for a group such as `model` the names of its files."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> "Parameter":
        if (self.low is None) != (self.high is None) or (self.low is None) == (self.choices is None):
            raise ValueError("needs either low and high, or choices")
        if self.choices is not None:
            if self.log or self.step is not None:
                raise ValueError("log and step are for low and high, not for choices")
            repeated = [setting("", value)[1:] for value in self.choices if self.choices.count(value) > 1]
            if repeated:
                raise ValueError(f"each choice must occur once, and {repeated[0]} does not")
            return self
        assert self.low is not None
        assert self.high is not None
        if not self.low < self.high:
            raise ValueError(f"low must be below high, not low={self.low} and high={self.high}")
        if self.step is not None and not self.step <= self.high - self.low:
            raise ValueError(f"step={self.step} is larger than the range, {self.low} to {self.high}; make it smaller")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; leave out one of them")
        if self.log and self.low <= 0:
            raise ValueError(f"log: true needs low above 0, not {self.low}")
        if self.is_whole and isinstance(self.step, float):
            raise ValueError(f"step={self.step} is a fraction, and low and high are whole; write low as {self.low}.0")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the values of a range are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def samples(self) -> list[Value]:
        """Values of which each must be possible: all choices, or both ends of a range."""
        return self.choices if self.choices is not None else [self.low, self.high]


class SearchSpace(Section):
    """What a sweep tries, and how."""

    parameters: Annotated[dict[str, Parameter], Field(min_length=1, max_length=100)]
    """Key of a setting, such as `optimizer.lr`, or a group, such as `model` -> its values."""
    trials: Annotated[int, Field(gt=0, le=_MOST_POINTS)]
    """Trainings in all."""
    sampler: Literal["tpe", "gp", "random"]
    """How values are drawn: by a tree-structured Parzen estimator, by a Gaussian process, or at random."""
    pruner: Literal["median", "halving", "hyperband", "none"]
    """Which trials are stopped early: those below the median of the others at the same epoch, or by halving."""
    startup_trials: Annotated[int, Field(ge=0, le=10_000)]
    """Trials that are drawn at random, before the sampler learns from the others and the median pruner compares."""
    warmup_epochs: Annotated[int, Field(ge=0, le=40_000)]
    """Of each trial, before the median pruner may stop it."""
    is_grid: bool = False
    """Whether each combination of choices is tried once; set by lists with commas."""

    @model_validator(mode="after")
    def _grid_is_complete(self) -> "SearchSpace":
        if self.is_grid and self.trials != self.num_points:
            raise ValueError("the trials of a grid are its points")
        return self

    @property
    def num_points(self) -> int:
        """Number of combinations of the choices of a grid."""
        return math.prod(len(parameter.choices or ()) for parameter in self.parameters.values())

    def points(self) -> list[Values]:
        """Return the combinations of the choices of a grid; the last parameter changes fastest."""
        choices = [parameter.choices or [] for parameter in self.parameters.values()]
        return [dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*choices)]


def read_space(name: str) -> SearchSpace:
    """Read a file of `conf/sweep/`, or any YAML file by its path.

    Raises:
        UsageError: It does not exist or is not valid.
    """
    file = conf_folder.option_file("sweep", name, "search space")
    values: Any = None
    try:
        text = read_text(file)
        if not isinstance(parse_yaml(text), dict):
            raise ValueError("it must be a mapping with the key parameters")
        values = OmegaConf.to_container(OmegaConf.create(text))  # numbers such as 1e-3 as in the other files
        values = {**_defaults(), **{str(key): value for key, value in values.items()}}
        return validate(SearchSpace, {key: value for key, value in values.items() if key != "is_grid"})
    except FileNotFoundError:
        raise UsageError(f"sweep: there is no file {file}") from None
    except UnicodeDecodeError:
        raise UsageError(f"sweep: {file} is not text in UTF-8; name a YAML file") from None
    except OSError as error:
        raise UsageError(f"sweep: {file} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        names = [*SearchSpace.model_fields, *Parameter.model_fields]
        raise UsageError(f"sweep: {file}: {'; '.join(map(str, problems_of(error, values, names)))}") from None
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"sweep: {file}{line}: {error.problem}") from None
    except (ValueError, TypeError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise UsageError(f"sweep: {file}: {first_line(error)}") from None


def grid_of(lists: Mapping[str, Sequence[Value]]) -> SearchSpace:
    """Return the grid of all combinations of the values of each key.

    Raises:
        UsageError: There are too many, or one value is given twice.
    """
    number = math.prod(map(len, lists.values()))
    if number > _MOST_POINTS:
        raise UsageError(f"{' x '.join(lists)} has {number:,} points, at most {_MOST_POINTS:,} can be tried")
    values: dict[str, Any] = {
        "parameters": {key: {"choices": list(choices)} for key, choices in lists.items()},
        "trials": number,
        "is_grid": True,
        "sampler": "random",  # has nothing to draw: each trial is a point
        "pruner": "none",  # each point is trained to its end, so that all can be compared
        "startup_trials": 0,
        "warmup_epochs": 0,
    }
    try:
        return validate(SearchSpace, values)
    except ValidationError as error:
        problems = [str(each).removeprefix("parameters.") for each in problems_of(error, values, [])]
        raise UsageError("\n".join(problems)) from None


def lists_of(words: Sequence[str]) -> tuple[list[str], dict[str, list[Value]]]:
    """Return the words that set one value, and the values of those that list several, by key.

    Raises:
        UsageError: A key is listed twice, or Hydra cannot list its values.
    """
    single: list[str] = []
    lists: dict[str, list[Value]] = {}
    for word in words:
        override = parsed_list(word)
        if override is None:
            single.append(word)
            continue
        key = override.key_or_group
        if key in lists:
            raise UsageError(f"{key} is listed twice; write all its values in one list: {key}=A,B,C")
        lists[key] = _values_of(override, word)
    return single, lists


def _values_of(override: Override, word: str) -> list[Value]:
    try:
        texts = [str(text) for text in override.sweep_string_iterator()]
    except HydraException:
        example = f"{override.key_or_group}: {{low: 0.1, high: 1.0}}"
        raise UsageError(f"{word}: only lists A,B,C and range(...) make a grid; for a range, write {example}") from None
    values: list[Any] = []
    for text in texts:
        one = parsed_list(f"{override.key_or_group}={text}", lists_only=False)
        if one is None:
            raise UsageError(f"{word}: Hydra cannot read {text}; put it in quotes")
        values.append(one.value())
    return values


def _defaults() -> dict[str, Any]:
    """Return how a file of the user searches if it does not say: as `conf/sweep/default.yaml` does."""
    content = conf_folder.content_of("sweep", "default")
    return {key: value for key, value in content.items() if key != "parameters"}

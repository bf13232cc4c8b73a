"""From words to a run: `conf/` plus overrides -> a frozen, checked Config. The only file that composes Hydra.

Hydra stops at the first fault and advises to append an unknown key with `+`. So choices are looked up before it runs,
values are forced in, and the schema finds those that should not be there: all faults at once, each with its key.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import MarkedYAMLError

from cifar10.build import argument_names, complete, component_problems, locate
from cifar10.conf_folder import CONF, settings
from cifar10.config import Component, Config
from cifar10.errors import Misuse
from cifar10.mlflow_uri import uri_problem
from cifar10.nearest import nearest
from cifar10.overrides import parse_overrides
from cifar10.validation import Problem, problems_of, shown, validate

PROVIDED: Mapping[str, Collection[str]] = {
    "data_loading": (),
    "model": ("num_classes", "image_size"),
    "selection": ("num_classes", "image_size"),
    "optimizer": ("network", "params"),
    "schedule": (),
}
"""The components of a Config, and the arguments of each that the program supplies."""

_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, MarkedYAMLError)
_hydra_is_global = threading.Lock()


class ConfigError(Misuse):
    """The configuration cannot be meant. `problems` has one line for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Composition:
    """What Hydra made of the files and overrides, before the values are checked."""

    values: dict[str, Any]
    overrides: list[Override]
    problems: list[Problem] = field(default_factory=list)
    """What was wrong with the overrides that were left out."""

    def layers(self) -> list[ResultDefault]:
        """Return the files, in the order in which they are laid over each other."""
        with _hydra():
            loader = GlobalHydra.instance().config_loader()
            return list(loader.compute_defaults_list("config", _lines(self.overrides), RunMode.RUN).defaults)


def load_config(overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that `conf/` and `overrides` make, checked, with every default filled in.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return checked(composed(overrides))


def composed(overrides: Sequence[str] = ()) -> Composition:
    """Return what Hydra composes of the overrides that it can use, interpolations such as ${oc.env:NAME} resolved.

    Raises:
        ConfigError: The files themselves do not compose.
    """
    parsed, problems = parse_overrides(overrides)
    try:
        return Composition(_values(parsed), parsed, problems)
    except _COMPOSE_ERRORS as error:
        culprits = _culprits(parsed)
        if not culprits:
            raise ConfigError([*map(str, problems), _first_line(error)]) from error
    usable = [override for index, override in enumerate(parsed) if index not in culprits]
    return Composition(_values(usable), usable, [*problems, *culprits.values()])


def checked(composition: Composition) -> Config:
    """Return the values of `composition` as a Config.

    Raises:
        ConfigError: with everything that is wrong.
    """
    values = composition.values
    unknown = {problem.key for problem in composition.problems}  # what follows from a choice left out is not told
    found = [problem for problem in _wrong_values(values) if problem.key.partition(".")[0] not in unknown]
    problems = [*composition.problems, *found]
    if problems:
        raise ConfigError([str(problem) for problem in problems])
    config = validate(Config, values)
    components = {name: complete(getattr(config, name), provided) for name, provided in PROVIDED.items()}
    return config.model_copy(update=components)


def _wrong_values(values: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        validate(Config, values)
    except ValidationError as error:
        yield from problems_of(error, values, _known_keys(values))
    except ValueError as error:  # json.dumps: a value that is no plain value
        yield Problem("", str(error))
    yield from _tracking_problems(values.get("tracking"))
    for name, provided in PROVIDED.items():
        section = values.get(name)
        if isinstance(section, dict) and isinstance(section.get("_target_"), str):
            problems = component_problems(Component.model_validate(section), provided)
            yield from (problem.within(name) for problem in problems)


def _tracking_problems(section: Any) -> Iterator[Problem]:
    """Refuse an address that no store can have; not in the schema, which old checkpoints must go on to fit."""
    if isinstance(section, dict) and section.get("backend") == "mlflow" and isinstance(section.get("uri"), str):
        problem = uri_problem(section["uri"])
        if problem is not None:
            yield Problem("tracking.uri", problem)


def _known_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """Return every key that a configuration with these components may have, dotted."""
    for name, setting in Config.model_fields.items():
        section = setting.annotation
        yield name
        if name in PROVIDED:
            yield from (f"{name}.{argument}" for argument in _component_keys(values.get(name), PROVIDED[name]))
        elif isinstance(section, type) and issubclass(section, BaseModel):
            yield from (f"{name}.{key}" for key in section.model_fields)


def _component_keys(section: Any, provided: Collection[str]) -> list[str]:
    try:
        return argument_names(locate(section["_target_"]), provided)
    except (Misuse, KeyError, TypeError, AttributeError):
        return []


def _values(overrides: Sequence[Override]) -> dict[str, Any]:
    with _hydra():
        config = compose("config", _lines(overrides))
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _lines(overrides: Sequence[Override]) -> list[str]:
    return [str(override.input_line) for override in overrides]


@contextmanager
def _hydra() -> Iterator[None]:
    """Make Hydra's global state ours, and afterwards again that of the program around us, if it has one."""
    with _hydra_is_global:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), job_name="cifar10", version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = outer


def _culprits(overrides: Sequence[Override]) -> dict[int, Problem]:
    """Return what is wrong with each override that does not even compose alone, by its position."""
    culprits = {}
    for index, override in enumerate(overrides):
        try:
            _values([override])
        except _COMPOSE_ERRORS as error:
            culprits[index] = _culprit(override, error.__cause__ or error)
    return culprits


def _culprit(override: Override, error: BaseException) -> Problem:
    key = override.key_or_group
    if override.is_delete():
        return Problem(key, "there is no such value to leave out", nearest(key, settings()))
    return Problem(key, f"cannot be set to {shown(override.value())}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).strip().splitlines()[0]

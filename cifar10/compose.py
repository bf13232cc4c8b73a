"""From words to a run: `conf/` plus overrides -> a frozen, checked Config. The only file that composes Hydra.

Hydra stops at the first fault and advises to append an unknown key with `+`. So choices are looked up before it,
values are always forced in, and what should not be there the schema finds: all faults at once, each with its key.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from cifar10.nearest import nearest
from cifar10.overrides import parse_overrides
from cifar10.validation import Problem, problems_of, shown, validate

PROVIDED: Mapping[str, Collection[str]] = {
    "data_loading": (),
    "model": ("num_classes", "image_size"),
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
    """What Hydra made of the files and overrides, before anything is checked."""

    values: dict[str, Any]
    layers: tuple[ResultDefault, ...]
    """The files, in the order in which they are laid over each other."""
    overrides: tuple[Override, ...]


def load_config(overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that `conf/` and `overrides` make, checked, with every default filled in.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return checked(composed(overrides).values)


def composed(overrides: Sequence[str] = ()) -> Composition:
    """Return what Hydra composes, with interpolations such as ${oc.env:NAME} resolved.

    Raises:
        ConfigError: An override cannot be read, chooses what there is not, or does not fit where it points.
    """
    parsed, problems = parse_overrides(overrides)
    if problems:
        raise ConfigError([str(problem) for problem in problems])
    try:
        return _compose(parsed)
    except _COMPOSE_ERRORS as error:
        raise ConfigError(list(_culprits(parsed)) or [_first_line(error)]) from error


def checked(values: Mapping[str, Any]) -> Config:
    """Return `values` as a Config.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = list(_all_problems(values))
    if problems:
        raise ConfigError([str(problem) for problem in problems])
    config = validate(Config, values)
    components = {name: complete(getattr(config, name), provided) for name, provided in PROVIDED.items()}
    return config.model_copy(update=components)


def _all_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        validate(Config, values)
    except ValidationError as error:
        yield from problems_of(error, values, _known_keys(values))
    except ValueError as error:  # json.dumps: a value that is no plain value
        yield Problem("", str(error))
    for name, provided in PROVIDED.items():
        section = values.get(name)
        if isinstance(section, dict) and isinstance(section.get("_target_"), str):
            problems = component_problems(Component.model_validate(section), provided)
            yield from (problem.within(name) for problem in problems)


def _known_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """Return every key that a configuration with these components may have, dotted."""
    for name, field in Config.model_fields.items():
        section = field.annotation
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


def _compose(overrides: Sequence[Override]) -> Composition:
    lines = [str(override.input_line) for override in overrides]
    with _hydra_is_global:
        outer = GlobalHydra.instance().hydra  # of a program that uses this package, say
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), job_name="cifar10", version_base="1.3"):
                values = OmegaConf.to_container(compose("config", lines), resolve=True)
                layers = GlobalHydra.instance().config_loader().compute_defaults_list("config", lines, RunMode.RUN)
        finally:
            GlobalHydra.instance().hydra = outer
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    return Composition(plain, tuple(layers.defaults), tuple(overrides))


def _culprits(overrides: Sequence[Override]) -> Iterator[str]:
    """Return what is wrong with each override that does not even compose alone."""
    for override in overrides:
        try:
            _compose([override])
        except _COMPOSE_ERRORS as error:
            yield str(_culprit(override, error.__cause__ or error))


def _culprit(override: Override, error: BaseException) -> Problem:
    key = override.key_or_group
    if override.is_delete():
        return Problem(key, "there is no such value to leave out", nearest(key, settings()))
    return Problem(key, f"cannot be set to {shown(override.value())}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).strip().splitlines()[0]

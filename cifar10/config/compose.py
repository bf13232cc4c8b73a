"""Compose the configuration: `conf/` and overrides -> a frozen, validated Config. No other module uses Hydra's compose.

Hydra stops at the first error, and for an unknown key it advises to add it with `+`. So it composes the chosen files
only. The values are then set one by one, and the schema reports all errors at once, each with its key.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import MarkedYAMLError

from cifar10.config.build import fill_defaults, wrong_components
from cifar10.config.conf_folder import CONF
from cifar10.config.overrides import as_strings, is_choice, parse_overrides, typed
from cifar10.config.schema import Component, Config, flatten
from cifar10.config.targets import METRIC, ROLES, Role
from cifar10.config.validation import Problem, problems_of, shown, validate
from cifar10.errors import UsageError, first_line
from cifar10.suggest import nearest
from cifar10.system.home import expanded, expanded_uri

_VALUE_ERRORS = (OmegaConfBaseException, ValueError, TypeError, LookupError, AttributeError, RecursionError)
_MOST_PROBLEMS = 20  # reported at once
_PATHS = ("models_dir", "weights", "tracking.uri", "tracking.artifacts")
_UNUSABLE = object()
_hydra_is_global = threading.Lock()


class ConfigError(UsageError):
    """The configuration is wrong. `problems` has one line for each error, up to twenty."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - _MOST_PROBLEMS
        self.problems = [*problems[:_MOST_PROBLEMS], *([f"and {more:,} more like these"] if more > 0 else [])]
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Composition:
    """The composed files and overrides, before the values are validated."""

    values: dict[str, Any]
    overrides: list[Override]
    problems: list[Problem]
    """One for each override that could not be used."""

    def layers(self) -> list[ResultDefault]:
        """Return the files, in the order in which they override each other."""
        with _hydra():
            loader = GlobalHydra.instance().config_loader()
            choices = [str(override.input_line) for override in self.overrides if is_choice(override)]
            return list(loader.compute_defaults_list("config", choices, RunMode.RUN).defaults)


def load_config(overrides: Sequence[str] = ()) -> Config:
    """Return the validated configuration of `conf/` and `overrides`, with the defaults of its components filled in.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return validate_config(compose_config(overrides))


def compose_config(overrides: Sequence[str] = ()) -> Composition:
    """Return the files with those overrides that can be used, interpolations and `~` in paths resolved.

    Raises:
        ConfigError: The files themselves do not compose.
    """
    parsed, problems = parse_overrides(overrides)
    try:
        with _hydra():
            config = compose("config", [str(override.input_line) for override in parsed if is_choice(override)])
    except (HydraException, OmegaConfBaseException, MarkedYAMLError) as error:
        reason = first_line(error)
        if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
            reason = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
        raise ConfigError([*map(str, problems), reason]) from error
    return _composition(config, parsed, problems)


def validate_config(composition: Composition) -> Config:
    """Return the values of `composition` as a Config, with the defaults of its components filled in.

    A component whose module must be imported, and PyTorch with it, is checked only if nothing else is wrong.

    Raises:
        ConfigError: with everything that is wrong, except for consequences of an override that could not be used.
    """
    values = composition.values
    config, found = _validated(values)
    found += wrong_components(values, Role.declaration)
    if not found and not composition.problems:
        found = wrong_components(values, Role.declared)
    _raise_problems(composition, found)
    assert config is not None
    components: dict[str, Any] = {name: fill_defaults(role, getattr(config, name)) for name, role in ROLES.items()}
    components["metric"] = {name: fill_defaults(METRIC, metric) for name, metric in config.metric.items()}
    return config.model_copy(update=components)


def load_component(group: str, overrides: Sequence[str]) -> Component:
    """Return one validated component of `conf/` and `overrides`, with the defaults of its signature filled in.

    Args:
        group: Such as `model`.
        overrides: Of this group only.

    Raises:
        ConfigError: with everything that is wrong.
    """
    composition = compose_config(overrides)
    values = {group: composition.values.get(group)}
    _, found = _validated(composition.values)
    found = [problem for problem in found if f"{problem.key}.".startswith(f"{group}.")]
    _raise_problems(composition, found + wrong_components(values, Role.declared))
    return fill_defaults(ROLES[group], Component.model_validate(values[group]))


def checked_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of `conf/` with `overrides`, which are to change the configuration of a checkpoint.

    Only their own values are validated; ConfigError is raised if one is wrong. Rules between settings and arguments of
    components depend on the checkpoint; `with_changes` checks them.
    """
    composition = compose_config(overrides)
    keys = tuple(f"{override.key_or_group}." for override in composition.overrides)
    _, found = _validated(composition.values)
    _raise_problems(composition, [problem for problem in found if f"{problem.key}.".startswith(keys)])
    return composition.values


def _validated(values: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    try:
        return validate(Config, values, is_typed=True), []
    except ValidationError as error:
        return None, problems_of(error, values, [*values, *flatten(values)])


def _raise_problems(composition: Composition, found: list[Problem]) -> None:
    """Raise ConfigError if there are problems, but without those of `found` that follow from an unusable override.

    Where quotes are missing, the message has the word to type: one for each word.
    """
    unusable = tuple(f"{problem.key}." for problem in composition.problems)
    problems: dict[Problem | str, Problem] = {}
    values = [override for override in composition.overrides if not is_choice(override)]
    for problem in found:
        if f"{problem.key}.".startswith(unusable):
            continue
        sources = [override for override in values if f"{problem.key}.".startswith(f"{override.key_or_group}.")]
        if problem.unquoted and sources and "${" not in str(sources[-1].input_line):
            key, line = sources[-1].key_or_group, typed(as_strings(sources[-1]))
            problems.setdefault(key, Problem(key, f"{problem.message}: {line}"))
        else:
            problems[problem] = problem
    if problems or unusable:
        raise ConfigError([*map(str, composition.problems), *map(str, problems.values())])


def with_changes(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config`, such as a checkpoint's, with `overrides` applied.

    Only the overrides may contain interpolations: in an untrusted checkpoint, ${oc.env:NAME} would read a variable.

    Raises:
        ConfigError: with everything that is wrong.
    """
    parsed, problems = parse_overrides(overrides)
    values = _mapped(config.plain(), lambda _, text: re.sub(r"(\\*)\$\{", r"\1\1\\${", text))
    for override in filter(is_choice, parsed):
        group = override.key_or_group
        values[group] = compose_config([str(override.input_line)]).values[group]
    return validate_config(_composition(OmegaConf.create(values), parsed, problems))


def _composition(config: DictConfig, overrides: Sequence[Override], problems: list[Problem]) -> Composition:
    """Return `config` as plain values, with those `overrides` applied that set a value and can be used."""
    usable = []
    for override in overrides:
        problem = None if is_choice(override) else _apply(config, override)
        if problem is None:
            usable.append(override)
        else:
            problems.append(problem)

    def finish(key: str, text: str) -> Any:
        try:
            if text == "???":
                raise ValueError("it is a placeholder; set a value")
            value = OmegaConf.select(config, key) if "${" in text else text
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            return _mapped(value, _expand_home, key)
        except _VALUE_ERRORS as error:
            problems.append(_unsettable(key, text, error))
            return _UNUSABLE

    return Composition(_mapped(OmegaConf.to_container(config), finish), usable, problems)


def _mapped(value: Any, change: Callable[[str, str], Any], key: str = "") -> Any:
    """Return `value`, found at `key`, with `change(key, text)` for each string in it; _UNUSABLE is left out."""
    if isinstance(value, dict):
        inner = {str(name): _mapped(item, change, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
        return {name: item for name, item in inner.items() if item is not _UNUSABLE}
    if isinstance(value, list):
        items = [_mapped(item, change, f"{key}.{index}") for index, item in enumerate(value)]
        return [item for item in items if item is not _UNUSABLE]
    return change(key, value) if isinstance(value, str) else value


def _apply(config: DictConfig, override: Override) -> Problem | None:
    """Set or delete the value that `override` names, or return why that is not possible."""
    key, value = override.key_or_group, override.value()
    parent_key, _, name = key.rpartition(".")
    try:
        if not override.is_delete():
            try:
                OmegaConf.update(config, key, value, merge=True, force_add=True)
            except _VALUE_ERRORS:  # a mapping in place of a list; the schema reports which is right
                OmegaConf.update(config, key, value, merge=False, force_add=True)
            return None
        parent = OmegaConf.select(config, parent_key) if parent_key else config
        if not isinstance(parent, DictConfig) or name not in parent:
            known: Any = OmegaConf.to_container(config)
            return Problem(key, "there is no such value to leave out", nearest(key, [*known, *flatten(known)]))
        if value is not None and value != parent[name]:
            return Problem(key, f"is {shown(parent[name])}, not {shown(value)}; to leave it out: {typed(f'~{key}')}")
        with open_dict(parent):
            del parent[name]
    except _VALUE_ERRORS as error:
        return _unsettable(key, value, error)
    return None


def _unsettable(key: str, value: Any, error: BaseException) -> Problem:
    """Return a problem with OmegaConf's message, without its prefix."""
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line(error)).strip('"')
    return Problem(key, f"cannot be set to {shown(value)}: {reason}")


def _expand_home(key: str, text: str) -> str:
    """Return `text` with `~` expanded if it is a path. In a list, a name without `/` may be a class."""
    section, _, name = key.partition(".")
    is_path = key in _PATHS or (section in ROLES and ("/" in text or not name.rpartition(".")[2].isdecimal()))
    return expanded(expanded_uri(text)) if is_path else text


@contextmanager
def _hydra() -> Iterator[None]:
    """Initialise Hydra with `conf/`, and restore the global state of a calling program afterwards."""
    with _hydra_is_global:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), job_name="cifar10", version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = outer

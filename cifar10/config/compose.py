"""Compose the configuration: `conf/` and overrides -> a frozen, validated Config. No other module uses Hydra's compose.

Hydra stops at the first fault and advises to append an unknown key with `+`. So it composes the chosen files only.
Values are then laid over them one by one, and the schema finds those that should not be there: all faults at once,
each with its key.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from cifar10.config.build import component_problems, fill_defaults
from cifar10.config.conf_folder import CONF
from cifar10.config.overrides import as_strings, is_choice, parse_overrides, typed
from cifar10.config.schema import Component, Config, flatten
from cifar10.config.targets import METRIC, ROLES, Role, Target, roles_in
from cifar10.config.validation import Problem, problems_of, shown, validate
from cifar10.errors import UsageError, first_line
from cifar10.suggest import nearest
from cifar10.system.home import expanded, expanded_uri

_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, MarkedYAMLError)
_VALUE_ERRORS = (
    OmegaConfBaseException,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)  # OmegaConf raises them all
_MOST_PROBLEMS = 20  # told at once
_PATHS = ("models_dir", "weights", "tracking.uri", "tracking.artifacts")
_UNUSABLE = object()
_hydra_is_global = threading.Lock()


class ConfigError(UsageError):
    """The configuration cannot be meant. `problems` has one line for each thing that is wrong, up to twenty."""

    def __init__(self, problems: Sequence[str]) -> None:
        more = len(problems) - _MOST_PROBLEMS
        self.problems = [*problems[:_MOST_PROBLEMS], *([f"and {more:,} more like these"] if more > 0 else [])]
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Composition:
    """What Hydra made of the files and overrides, before the values are checked."""

    values: dict[str, Any]
    overrides: list[Override]
    problems: list[Problem]
    """What was wrong with the overrides that were left out."""

    def layers(self) -> list[ResultDefault]:
        """Return the files, in the order in which they are laid over each other."""
        with _hydra():
            loader = GlobalHydra.instance().config_loader()
            return list(loader.compute_defaults_list("config", _choices(self.overrides), RunMode.RUN).defaults)


def load_config(overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that `conf/` and `overrides` make, checked, with every default filled in.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return validate_config(compose_config(overrides))


def compose_config(overrides: Sequence[str] = ()) -> Composition:
    """Return what comes of the files and those overrides that can be used, interpolations and `~` in paths resolved.

    Raises:
        ConfigError: The files themselves do not compose.
    """
    parsed, problems = parse_overrides(overrides)
    try:
        with _hydra():
            config = compose("config", _choices(parsed))
    except _COMPOSE_ERRORS as error:
        raise ConfigError([*map(str, problems), _reason_of_files(error)]) from error
    return _composition(config, parsed, problems)


def validate_config(composition: Composition) -> Config:
    """Return the values of `composition` as a Config, with the defaults of its components filled in.

    A component whose module must be imported, and PyTorch with it, is checked only if nothing else is wrong.

    Raises:
        ConfigError: with everything that is wrong, but for what follows from an override that was left out.
    """
    values, told = composition.values, [problem.key for problem in composition.problems]
    found: list[Problem] = []
    try:
        config = validate(Config, values, is_typed=True)
    except ValidationError as error:
        found += problems_of(error, values, _keys(values))
    found += _wrong_components(values, Role.declaration)
    if not found and not told:
        found = _wrong_components(values, Role.declared)
    found = [problem for problem in found if not any(f"{problem.key}.".startswith(f"{key}.") for key in told)]
    if found or told:
        raise ConfigError(list(map(str, composition.problems + _with_typed_quotes(found, composition.overrides))))
    components: dict[str, Any] = {name: fill_defaults(role, getattr(config, name)) for name, role in ROLES.items()}
    components["metric"] = {name: fill_defaults(METRIC, metric) for name, metric in config.metric.items()}
    return config.model_copy(update=components)


def with_changes(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config`, such as a checkpoint's, with `overrides` laid over it.

    Only the overrides may refer to other values: in a stranger's checkpoint, ${oc.env:NAME} would read a variable.

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
    """Return `config` as plain values, with those `overrides` laid over it that set a value and can be used."""
    usable = []
    for override in overrides:
        problem = None if is_choice(override) else _lay_over(config, override)
        if problem is None:
            usable.append(override)
        else:
            problems.append(problem)

    def resolve(key: str, text: str) -> Any:
        if text == "???":
            problems.append(Problem(key, "is missing: ??? only holds the place of a value"))
            return _UNUSABLE
        try:
            value = OmegaConf.select(config, key) if "${" in text else text
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except (*_VALUE_ERRORS, RecursionError) as error:
            problems.append(Problem(key, f"cannot be set to {shown(text)}: {_reason(error)}"))
            return _UNUSABLE

    def expand_home(key: str, text: str) -> str:
        try:
            return expanded(expanded_uri(text)) if _is_path(key, text) else text
        except ValueError as error:
            problems.append(Problem(key, str(error)))
            return text

    values = _mapped(_mapped(OmegaConf.to_container(config), resolve), expand_home)
    return Composition(values, usable, problems)


def _mapped(value: Any, change: Callable[[str, str], Any], key: str = "") -> Any:
    """Return `value`, what stands at `key`, with `change(key, text)` for each text in it; _UNUSABLE is left out."""
    if isinstance(value, dict):
        inner = {str(name): _mapped(item, change, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
        return {name: item for name, item in inner.items() if item is not _UNUSABLE}
    if isinstance(value, list):
        items = [_mapped(item, change, f"{key}.{index}") for index, item in enumerate(value)]
        return [item for item in items if item is not _UNUSABLE]
    return change(key, value) if isinstance(value, str) else value


def _lay_over(config: DictConfig, override: Override) -> Problem | None:
    """Set or delete what `override` says, whether it was there or not; return why that is not possible."""
    key, value = override.key_or_group, override.value()
    try:
        if override.is_delete():
            return _leave_out(config, key, value)
        try:
            OmegaConf.update(config, key, value, merge=True, force_add=True)
        except _VALUE_ERRORS:  # a mapping where a list was; the schema knows what is right
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    except _VALUE_ERRORS as error:
        return Problem(key, f"cannot be set to {shown(value)}: {_reason(error)}")
    return None


def _leave_out(config: DictConfig, key: str, value: Any) -> Problem | None:
    parent_key, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, parent_key) if parent_key else config
    if not isinstance(parent, DictConfig) or name not in parent:
        known = _keys(OmegaConf.to_container(config))
        return Problem(key, "there is no such value to leave out", nearest(key, known))
    if value is not None and value != parent[name]:
        return Problem(key, f"is {shown(parent[name])}, not {shown(value)}; to leave it out: {typed(f'~{key}')}")
    with open_dict(parent):
        del parent[name]
    return None


def _is_path(key: str, value: str) -> bool:
    """Return whether `value` names a file, if it begins with `~`. In a list, a name without `/` may be a class."""
    section, _, name = key.partition(".")
    return key in _PATHS or (section in ROLES and ("/" in value or not name.rpartition(".")[2].isdecimal()))


def _wrong_components(values: Mapping[str, Any], find: Callable[[Role, str], Target | None]) -> list[Problem]:
    return [
        problem.within(name)
        for name, role in roles_in(values).items()
        for section in [_at(values, name)]
        if isinstance(section, dict) and isinstance(section.get("_target_"), str)
        for problem in component_problems(role, Component.model_validate(section), find)
    ]


def _at(values: Mapping[str, Any], key: str) -> Any:
    """Return what stands at the dotted `key`, None if nothing does."""
    section, _, name = key.partition(".")
    return values[section].get(name) if name else values.get(section)


def _with_typed_quotes(problems: list[Problem], overrides: Sequence[Override]) -> list[Problem]:
    """Return `problems` with the word to type where quotes were missing: one problem for each word."""
    told: dict[Problem | str, Problem] = {}
    for problem in problems:
        source = _source(problem.key, overrides) if problem.unquoted else None
        if source is None:
            told[problem] = problem
        else:
            message = f"{problem.message}: {typed(as_strings(source))}"
            told.setdefault(source.key_or_group, Problem(source.key_or_group, message))
    return list(told.values())


def _source(key: str, overrides: Sequence[Override]) -> Override | None:
    """Return the last of `overrides` that sets the value at `key` as it was typed, None if no one does."""
    sources = [o for o in overrides if f"{key}.".startswith(f"{o.key_or_group}.") and not is_choice(o)]
    return sources[-1] if sources and "${" not in str(sources[-1].input_line) else None


def _keys(values: Any) -> list[str]:
    """Return the dotted keys of all values, those of the top level first."""
    return [*map(str, values), *flatten(values)]


def _choices(overrides: Sequence[Override]) -> list[str]:
    return [str(override.input_line) for override in overrides if is_choice(override)]


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


def _reason(error: BaseException) -> str:
    """Return the first line of what OmegaConf says, without the Python around it."""
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", first_line(error)).strip('"')


def _reason_of_files(error: BaseException) -> str:
    """Return why the files do not compose, with the place in a file that is no YAML."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return first_line(error)

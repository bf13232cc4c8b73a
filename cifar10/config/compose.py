"""From words to a run: `conf/` plus overrides -> a frozen, checked Config. The only file that composes Hydra.

Hydra stops at the first fault and advises to append an unknown key with `+`. So it composes the chosen files only.
Values are then laid over them one by one, and the schema finds those that should not be there: all faults at once,
each with its key.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import MarkedYAMLError

from cifar10.config.build import component_problems, fill_defaults
from cifar10.config.conf_folder import CONF
from cifar10.config.mlflow_uri import uri_problem
from cifar10.config.overrides import as_strings, is_choice, parse_overrides, typed
from cifar10.config.run_name import refusal_of_run_name
from cifar10.config.schema import Component, Config
from cifar10.config.targets import ROLES, Role, Target
from cifar10.config.validation import Problem, problems_of, shown, validate
from cifar10.errors import UsageError
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
    problems: list[Problem] = field(default_factory=list)
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
        raise ConfigError([*map(str, problems), _first_line(error)]) from error
    usable = []
    for override in parsed:
        problem = None if is_choice(override) else _lay_over(config, override)
        if problem is None:
            usable.append(override)
        else:
            problems.append(problem)
    values = _resolved(config, OmegaConf.to_container(config), "", problems)
    return Composition(_home_expanded(values, "", problems), usable, problems)


def validate_config(composition: Composition) -> Config:
    """Return the values of `composition` as a Config.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems = [*composition.problems, *_wrong_values(composition)]
    if problems:
        raise ConfigError([str(problem) for problem in problems])
    config = validate(Config, composition.values)
    components = {name: fill_defaults(role, getattr(config, name)) for name, role in ROLES.items()}
    return config.model_copy(update=components)


def with_changes(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config`, such as a checkpoint's, with `overrides` laid over it.

    Only the overrides may refer to other values: in a stranger's checkpoint, ${oc.env:NAME} would read a variable.

    Raises:
        ConfigError: with everything that is wrong.
    """
    parsed, problems = parse_overrides(overrides)
    values = _without_references(config.plain())
    for override in parsed:
        if is_choice(override):
            group = override.key_or_group
            values[group] = compose_config([str(override.input_line)]).values[group]
    changed = OmegaConf.create(values)
    for override in parsed:
        problem = None if is_choice(override) else _lay_over(changed, override)
        problems += [] if problem is None else [problem]
    resolved = _resolved(changed, OmegaConf.to_container(changed), "", problems)
    return validate_config(Composition(_home_expanded(resolved, "", problems), parsed, problems))


def _without_references(value: Any) -> Any:
    """Return `value` so that OmegaConf takes each ${ in it for what stands there."""
    if isinstance(value, dict):
        return {name: _without_references(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_references(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


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


def _resolved(config: DictConfig, raw: Any, key: str, problems: list[Problem]) -> Any:
    """Return `raw`, what stands at `key` of `config`, as plain values; what cannot be resolved is left out and told."""
    if isinstance(raw, dict):
        inner = {name: _resolved(config, value, f"{key}.{name}".lstrip("."), problems) for name, value in raw.items()}
        return {str(name): value for name, value in inner.items() if value is not _UNRESOLVED}
    if isinstance(raw, list):
        items = [_resolved(config, value, f"{key}.{index}", problems) for index, value in enumerate(raw)]
        return [value for value in items if value is not _UNRESOLVED]
    if raw == "???":
        problems.append(Problem(key, "is missing: ??? only holds the place of a value"))
        return _UNRESOLVED
    if not isinstance(raw, str) or "${" not in raw:
        return raw
    try:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (*_VALUE_ERRORS, RecursionError) as error:
        problems.append(Problem(key, f"cannot be set to {shown(raw)}: {_reason(error)}"))
        return _UNRESOLVED


_UNRESOLVED = object()


def _home_expanded(value: Any, key: str, problems: list[Problem]) -> Any:
    """Return `value`, what stands at `key`, with `~` expanded in every path in it; a home that is not known is told."""
    if isinstance(value, dict):
        return {name: _home_expanded(inner, f"{key}.{name}".lstrip("."), problems) for name, inner in value.items()}
    if isinstance(value, list):
        return [_home_expanded(inner, f"{key}.{index}", problems) for index, inner in enumerate(value)]
    if not isinstance(value, str) or not _is_path(key, value):
        return value
    try:
        return expanded(expanded_uri(value))
    except ValueError as error:
        problems.append(Problem(key, str(error)))
        return value


def _is_path(key: str, value: str) -> bool:
    """Return whether `value` names a file, if it begins with `~`. In a list, a name without `/` may be a class."""
    section, _, name = key.partition(".")
    return key in _PATHS or (section in ROLES and ("/" in value or not name.rpartition(".")[2].isdecimal()))


def _wrong_values(composition: Composition) -> list[Problem]:
    """Return what is wrong with the values, but for what follows from an override that was left out.

    A component whose module must be imported, which may import PyTorch, is checked if nothing else is wrong.
    """
    values, told = composition.values, {problem.key for problem in composition.problems}
    found: list[Problem] = []
    try:
        validate(Config, values)
    except ValidationError as error:
        found += problems_of(error, values, [*Config.model_fields, *_keys(values), *_schema_keys()])
    except ValueError as error:  # json.dumps: a value that is no plain value
        found.append(Problem("", str(error)))
    found += _tracking_problems(values.get("tracking"))
    name = values.get("run_name")
    if isinstance(name, str) and all(problem.key != "run_name" for problem in found):
        refusal = refusal_of_run_name(name)
        found += [Problem("run_name", refusal)] if refusal else []
    found += _wrong_components(values, Role.declaration)
    if not found and not told:
        found = _wrong_components(values, Role.declared)
    found = [problem for problem in found if not any(f"{problem.key}.".startswith(f"{key}.") for key in told)]
    return _with_typed_quotes(found, composition.overrides)


def _tracking_problems(section: Any) -> list[Problem]:
    """Refuse an address that no store can have, and a name that looks like another.

    Not in the schema, which old checkpoints must go on to fit.
    """
    if not isinstance(section, dict) or section.get("backend") != "mlflow":
        return []
    problems = []
    if isinstance(section.get("uri"), str) and (problem := uri_problem(section["uri"])) is not None:
        problems.append(Problem("tracking.uri", problem))
    name = section.get("experiment")
    if isinstance(name, str) and name != name.strip():
        told = f"{json.dumps(name, ensure_ascii=False)} begins or ends with a space, and would be"
        problems.append(Problem("tracking.experiment", f"{told} another experiment than {name.strip()}; leave it out"))
    return problems


def _wrong_components(values: Mapping[str, Any], find: Callable[[Role, str], Target | None]) -> list[Problem]:
    sections = {name: values.get(name) for name in ROLES}
    return [
        problem.within(name)
        for name, section in sections.items()
        if isinstance(section, dict) and isinstance(section.get("_target_"), str)
        for problem in component_problems(ROLES[name], Component.model_validate(section), find)
    ]


def _with_typed_quotes(problems: list[Problem], overrides: Sequence[Override]) -> list[Problem]:
    """Return `problems` with the word to type where quotes were missing: one problem for each word."""
    told: dict[Problem, None] = {}
    for problem in problems:
        source = _source(problem.key, overrides) if problem.unquoted else None
        if source is None:
            told[problem] = None
        elif not any(other.unquoted and other.key == source.key_or_group for other in told):
            message = f"{problem.message}: {typed(as_strings(source))}"
            told[problem._replace(key=source.key_or_group, message=message)] = None
    return list(told)


def _source(key: str, overrides: Sequence[Override]) -> Override | None:
    """Return the last of `overrides` that sets the value at `key` as it was typed, None if no one does."""
    sources = [o for o in overrides if f"{key}.".startswith(f"{o.key_or_group}.") and not is_choice(o)]
    return sources[-1] if sources and "${" not in str(sources[-1].input_line) else None


def _keys(values: Any, outside: str = "") -> Iterator[str]:
    """Yield the dotted key of every value within `values`, and of every section."""
    for name, value in values.items():
        yield f"{outside}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{outside}{name}.")


def _schema_keys() -> Iterator[str]:
    """Yield the dotted key of every setting that the schema itself has within a section."""
    for name, setting in Config.model_fields.items():
        section = setting.annotation
        if isinstance(section, type) and issubclass(section, BaseModel) and name not in ROLES:
            yield from (f"{name}.{key}" for key in section.model_fields)


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
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", text).strip('"')


def _first_line(error: BaseException) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).strip().splitlines()[0]

"""Build objects from `{_target_: ..., argument: ...}`. No other module instantiates components.

The role of a section (`targets.py`) decides which targets it may name. Their signatures and type hints are the schema
of the arguments.
"""

import contextlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from cifar10.config import conf_folder
from cifar10.config.schema import Component, Config
from cifar10.config.targets import METRIC, MODEL, ROLES, BuildError, Role, Target
from cifar10.config.validation import Problem, problems_of, validate
from cifar10.errors import UsageError, first_line


def read_component(group: str, option: str) -> Component:
    """Read a file of `conf/` that consists of one component.

    Raises:
        UsageError: It cannot be read or is not a component.
    """
    file = conf_folder.CONF / group / f"{option}.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Component.model_validate(content)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{file}{line}: {error.problem}") from None
    except ValidationError as error:
        raise UsageError(f"{file} {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read: {first_line(error)}") from None


def build(role: Role, component: Component, **provided: Any) -> Any:
    """Call `component`'s target with its arguments, and with those of `provided` that it has parameters for.

    Raises:
        BuildError: The target is not one of `role`, or an argument does not fit.
    """
    target = role.locate(component.target)
    arguments, problems = _read_arguments(target, role, component)
    if problems:
        raise BuildError("\n".join(f"{component.target}: {problem}" for problem in problems))
    parameters = inspect.signature(target).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return target(**arguments, **{name: provided[name] for name in provided if takes_all or name in parameters})


def component_problems(
    role: Role, component: Component, find: Callable[[Role, str], Target | None] = Role.locate
) -> list[Problem]:
    """Return everything that is wrong with `component`, keyed by argument; an empty list if it can be built.

    `find` returns a function or class with the parameters of a target; if it returns None, they are not checked.
    """
    try:
        target = find(role, component.target)
    except BuildError as error:
        return [Problem("_target_", str(error))]
    return [] if target is None else _read_arguments(target, role, component)[1]


def wrong_components(values: Mapping[str, Any], find: Callable[[Role, str], Target | None]) -> list[Problem]:
    """Return what is wrong with the components in the configuration `values`; see `component_problems`."""
    sections = {name: (role, values.get(name)) for name, role in ROLES.items()}
    if isinstance(metrics := values.get("metric"), dict):
        sections |= {f"metric.{name}": (METRIC, metric) for name, metric in metrics.items()}
    sections |= {key: (MODEL, section) for key, section in _compared_networks(values).items()}
    return [
        problem.within(key)
        for key, (role, section) in sections.items()
        if isinstance(section, dict) and isinstance(section.get("_target_"), str)
        for problem in component_problems(role, Component.model_validate(section), find)
    ]


def _compared_networks(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network of each way in `pooling`, by its key: a target with the arguments of `model`."""
    pooling, model = values.get("pooling"), values.get("model")
    ways = pooling.get("ways") if isinstance(pooling, dict) else None
    if not (isinstance(ways, dict) and isinstance(model, dict)):
        return {}
    return {f"pooling.ways.{name}": {**model, "_target_": target} for name, target in ways.items()}


def require_buildable(config: Config) -> None:
    """Import the targets of all components and check them; `load_config` imports as few as possible.

    Raises:
        BuildError: with everything that is wrong.
    """
    problems = wrong_components(config.plain(), Role.locate)
    if problems:
        raise BuildError("\n".join(map(str, problems)))


def fill_defaults(role: Role, component: Component) -> Component:
    """Return `component` with the defaults of its target's signature filled in, if they can be written as YAML."""
    arguments = dict(component.arguments)
    for name, parameter in _parameters(role.declared(component.target), role.provided).items():
        if name not in arguments and parameter.default is not parameter.empty:
            with contextlib.suppress(TypeError, ValueError):  # not a plain value
                arguments[name] = json.loads(json.dumps(parameter.default))
    return component.model_copy(update={"arguments": arguments})


def argument_names(target: Target, provided: Collection[str] = ()) -> list[str]:
    """Return the names of `target`'s parameters that a configuration may set."""
    return list(_parameters(target, provided))


def _parameters(target: Target, provided: Collection[str]) -> dict[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(target).parameters
    return {name: p for name, p in parameters.items() if p.kind not in variadic and name not in provided}


def _schema(target: Target, provided: Collection[str]) -> type[BaseModel]:
    """Return a model with one field for each parameter, checked by its type hint."""
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except NameError:  # names that exist for type checkers only
        hints = {}
    fields: dict[str, Any] = {}
    for index, (name, parameter) in enumerate(_parameters(target, provided).items()):
        default = ... if parameter.default is parameter.empty else parameter.default
        # An alias, since a parameter may have a name that a model's field cannot, such as `copy` or `json`.
        fields[f"argument_{index}"] = (hints.get(name, Any), Field(default, alias=name))
    rules = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    return create_model("Arguments", __config__=rules, **fields)


def _read_arguments(target: Target, role: Role, component: Component) -> tuple[dict[str, Any], list[Problem]]:
    """Return the arguments of `component`, converted to the type hints of `target`, and the problems found."""
    names = argument_names(target, role.provided)
    given = {name: value for name, value in component.arguments.items() if name not in role.provided}
    taken = [Problem(name, "is set by the program; leave it out") for name in component.arguments if name not in given]
    try:
        model = validate(_schema(target, role.provided), given)
    except ValidationError as error:
        return {}, taken + problems_of(error, given, names)
    fields = zip(type(model).model_fields, names, strict=True)
    return {name: getattr(model, field) for field, name in fields if field in model.model_fields_set}, taken

"""Build objects from `{_target_: ..., argument: ...}`. No other module instantiates components.

What a target may be is decided by its role (`targets.py`). Its signature and type hints are the schema of its
arguments.
"""

import contextlib
import inspect
import json
from collections.abc import Callable, Collection, Iterator
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from cifar10.config.schema import Component, Config
from cifar10.config.targets import METRIC, ROLES, BuildError, Role, Target
from cifar10.config.validation import Problem, problems_of, validate


def build(role: Role, component: Component, **provided: Any) -> Any:
    """Return `component`'s target called with its arguments, and with those of `provided` that it has parameters for.

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

    Args:
        find: Returns what has the parameters of a target; None: they are not checked.
    """
    try:
        target = find(role, component.target)
    except BuildError as error:
        return [Problem("_target_", str(error))]
    return [] if target is None else _read_arguments(target, role, component)[1]


def require_buildable(config: Config) -> None:
    """Import the targets of all components and check them; `load_config` imports none that it can do without.

    Raises:
        BuildError: with everything that is wrong.
    """
    problems: list[Problem] = []
    components = {name: (role, getattr(config, name)) for name, role in ROLES.items()}
    components |= {f"metric.{name}": (METRIC, metric) for name, metric in config.metric.items()}
    for name, (role, component) in components.items():
        problems += (problem.within(name) for problem in component_problems(role, component))
    if problems:
        raise BuildError("\n".join(map(str, problems)))


def fill_defaults(role: Role, component: Component) -> Component:
    """Return `component` with the defaults of its target's signature filled in, where YAML can write them."""
    arguments = dict(component.arguments)
    for parameter in _parameters(role.declared(component.target), role.provided):
        if parameter.name not in arguments and parameter.default is not parameter.empty:
            with contextlib.suppress(TypeError, ValueError):  # no plain value
                arguments[parameter.name] = json.loads(json.dumps(parameter.default))
    return component.model_copy(update={"arguments": arguments})


def argument_names(target: Target, provided: Collection[str] = ()) -> list[str]:
    """Return the names of `target`'s parameters that a configuration may set."""
    return [parameter.name for parameter in _parameters(target, provided)]


def _parameters(target: Target, provided: Collection[str]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and parameter.name not in provided:
            yield parameter


def _schema(target: Target, provided: Collection[str]) -> type[BaseModel]:
    """Return a model with one field for each parameter, checked by its type hint."""
    hints = _hints(target)
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(_parameters(target, provided)):
        default = ... if parameter.default is parameter.empty else parameter.default
        # An alias, since a parameter may have a name that a model's field cannot, such as `copy` or `json`.
        fields[f"argument_{index}"] = (hints.get(parameter.name, Any), Field(default, alias=parameter.name))
    rules = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    return create_model("Arguments", __config__=rules, **fields)


def _hints(target: Target) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except NameError:  # names that exist for type checkers only
        return {}


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

"""From `{_target_: ..., argument: ...}` to the object: the only place that instantiates.

What a target may be is decided by its role (`targets.py`). Its signature and type hints are the schema of its
arguments.
"""

import inspect
import json
from collections.abc import Collection, Iterator
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from cifar10.config.schema import Component
from cifar10.config.targets import BuildError, Role, Target
from cifar10.config.validation import Problem, problems_of, validate


def build(role: Role, component: Component, **provided: Any) -> Any:
    """Return `component`'s target called with its arguments, and with those of `provided` that it has parameters for.

    Raises:
        BuildError: The target is not one of `role`, or an argument does not fit.
    """
    problems = component_problems(role, component)
    if problems:
        raise BuildError("\n".join(f"{component.target}: {problem}" for problem in problems))
    target = role.locate(component.target)
    arguments = _validated(target, component, role.provided)
    return target(**arguments, **_accepted(target, provided))


def component_problems(role: Role, component: Component) -> list[Problem]:
    """Return everything that is wrong with `component`, keyed by argument; an empty list if it can be built."""
    try:
        target = role.locate(component.target)
    except BuildError as error:
        return [Problem("_target_", str(error))]
    taken = [
        Problem(name, "is set by the program; leave it out") for name in component.arguments if name in role.provided
    ]
    arguments = {name: value for name, value in component.arguments.items() if name not in role.provided}
    try:
        validate(_schema(target, role.provided), arguments)
    except ValidationError as error:
        return taken + problems_of(error, arguments, argument_names(target, role.provided))
    return taken


def fill_defaults(role: Role, component: Component) -> Component:
    """Return `component` with the defaults of its target's signature filled in, where they are plain values."""
    defaults = plain_defaults(role.locate(component.target), role.provided)
    return Component.model_validate(
        {
            "_target_": component.target,
            **component.arguments,
            **{name: value for name, value in defaults.items() if name not in component.arguments},
        }
    )


def argument_names(target: Target, provided: Collection[str] = ()) -> list[str]:
    """Return the names of `target`'s parameters that a configuration may set."""
    return [parameter.name for parameter in _parameters(target, provided)]


def plain_defaults(target: Target, provided: Collection[str] = ()) -> dict[str, Any]:
    """Return the defaults in `target`'s signature that YAML can write; a tuple becomes a list."""
    defaults = {}
    for parameter in _parameters(target, provided):
        if parameter.default is not parameter.empty:
            try:
                defaults[parameter.name] = json.loads(json.dumps(parameter.default))
            except (TypeError, ValueError):
                continue
    return defaults


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


def _validated(target: Target, component: Component, provided: Collection[str]) -> dict[str, Any]:
    """Return the arguments that `component` sets, in the types that the target's hints name."""
    model = validate(_schema(target, provided), component.arguments)
    names = dict(zip(type(model).model_fields, argument_names(target, provided), strict=True))
    return {
        names[field]: getattr(model, field) for field in type(model).model_fields if field in model.model_fields_set
    }


def _accepted(target: Target, provided: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return provided
    return {name: value for name, value in provided.items() if name in parameters}

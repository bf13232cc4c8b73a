"""From `{_target_: ..., argument: ...}` to the object: the only place that instantiates.

A target is a function or class of this package, of torch.optim or of torchvision.models: a configuration that came with
a stranger's checkpoint can call nothing else. The target's signature and type hints are the schema of its arguments.
"""

import importlib
import inspect
import json
import pkgutil
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from cifar10.config import Component
from cifar10.errors import Misuse
from cifar10.nearest import did_you_mean
from cifar10.validation import Problem, problems_of, validate

TRUSTED_PREFIXES = ("cifar10.", "torch.optim.", "torchvision.models.")

Target = Callable[..., Any]


class BuildError(Misuse):
    """A component names no usable target, or its arguments do not fit."""


def build(component: Component, **provided: Any) -> Any:
    """Return `component`'s target called with its arguments, and with those of `provided` that it has parameters for.

    Raises:
        BuildError: The target is not trusted or not there, or an argument does not fit.
    """
    problems = component_problems(component, provided)
    if problems:
        raise BuildError("\n".join(f"{component.target}: {problem}" for problem in problems))
    target = locate(component.target)
    arguments = _validated(target, component, provided)
    return target(**arguments, **_accepted(target, provided))


def component_problems(component: Component, provided: Collection[str] = ()) -> list[Problem]:
    """Return everything that is wrong with `component`, keyed by argument; an empty list if it can be built.

    Args:
        provided: Names of the arguments that the program supplies; the configuration may not.
    """
    try:
        target = locate(component.target)
    except BuildError as error:
        return [Problem("_target_", str(error))]
    taken = [Problem(name, "is set by the program; leave it out") for name in component.arguments if name in provided]
    arguments = {name: value for name, value in component.arguments.items() if name not in provided}
    try:
        validate(_schema(target, provided), arguments)
    except ValidationError as error:
        return taken + problems_of(error, arguments, argument_names(target, provided))
    return taken


def complete(component: Component, provided: Collection[str] = ()) -> Component:
    """Return `component` with the defaults of its target's signature filled in, where they are plain values."""
    defaults = plain_defaults(locate(component.target), provided)
    return Component.model_validate(
        {
            "_target_": component.target,
            **component.arguments,
            **{name: value for name, value in defaults.items() if name not in component.arguments},
        }
    )


def locate(dotted: str) -> Target:
    """Return the function or class called `dotted`, MODULE.NAME.

    Raises:
        BuildError: It is outside the trusted packages, not there, or its module cannot be imported.
    """
    module_name, _, name = dotted.rpartition(".")
    if not dotted.startswith(TRUSTED_PREFIXES) or any(part.startswith("_") for part in dotted.split(".")):
        raise BuildError(f"{dotted} may not be used: a target begins with {', '.join(TRUSTED_PREFIXES)}")
    module = _import(module_name)
    target = getattr(module, name, None)
    if target is None:
        raise BuildError(f"{module_name} has no {name}{did_you_mean(name, _own_names(module))}")
    if not callable(target) or not f"{getattr(target, '__module__', '')}.".startswith(TRUSTED_PREFIXES):
        raise BuildError(f"{dotted} is not a function or class of its own package")
    return target  # type: ignore[no-any-return]


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


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BuildError(f"{module_name} needs the package {error.name}, which is not installed") from error
        package, _, missing = error.name.rpartition(".")
        raise BuildError(f"there is no {error.name}{did_you_mean(missing, _submodules(package))}") from error
    except Exception as error:  # whatever a module being written may raise on import
        raise BuildError(f"{module_name} cannot be imported: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Return type, message and place of `error`."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, SyntaxError):
        return text  # names its file and line itself
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({Path(place.filename).name}, line {place.lineno})"


def _submodules(package: str) -> list[str]:
    module = sys.modules.get(package)
    return [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))]


def _own_names(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


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

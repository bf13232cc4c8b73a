"""The functions and classes that each component may name as its target, checked before anything is called.

A configuration may come from a stranger, within a checkpoint. So a target is not accepted because of its package alone:
it must be what its section is for. `model` builds a network and nothing else, `data_loading` a data set, and so on.
"""

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from cifar10.config.conf_folder import values_of
from cifar10.config.signatures import read_declaration
from cifar10.errors import UsageError
from cifar10.suggest import did_you_mean
from cifar10.system.shortage import shortage

Target = Callable[..., Any]

_TORCHVISION = "torchvision.models"
_DATA_SET = "cifar10.data.image_dataset.ImageDataset"


class BuildError(UsageError):
    """A component names no usable target, or its arguments do not fit."""


@dataclass(frozen=True)
class Role:
    """What one section of the configuration may build."""

    packages: tuple[str, ...]
    """Dotted names, each with a dot at its end: where the target must be defined. No other module is imported."""
    rule: str
    """What the target must be, for error messages."""
    fits: Callable[[Target], bool]
    """Whether a function or class is that."""
    provided: tuple[str, ...] = ()
    """Names of the arguments that the program supplies; the configuration may not."""
    group: str | None = None
    """The folder of `conf/` whose files name targets of this role."""

    def declaration(self, dotted: str) -> Target | None:
        """Return a function with the parameters of `dotted`, read from its source; None if its module must be imported.

        What a file of `conf/` names is taken to be of the role of its folder.
        """
        if self.group is None or not self._may_hold(dotted) or dotted not in values_of(self.group, "_target_"):
            return None
        return read_declaration(dotted, without=self.provided)

    def declared(self, dotted: str) -> Target:
        """Return the declaration of `dotted`, or where there is none, the target itself.

        Raises:
            BuildError: see `locate`.
        """
        return self.declaration(dotted) or self.locate(dotted)

    def locate(self, dotted: str) -> Target:
        """Return the function or class called `dotted`, MODULE.NAME.

        Raises:
            BuildError: It is outside the role's packages, not there, not of the role's kind, or its module cannot be
                imported.
        """
        module_name, _, name = dotted.rpartition(".")
        if not self._may_hold(dotted):
            raise BuildError(f"{dotted} may not be used here: it must be {self.rule}")
        module = _import(module_name)
        target: Target | None = getattr(module, name, None)
        if target is None:
            raise BuildError(f"{module_name} has no {name}{did_you_mean(name, _public_names(module))}")
        is_defined_here = f"{getattr(target, '__module__', '')}.".startswith(self.packages)
        if not (is_defined_here and callable(target) and self.fits(target)):
            raise BuildError(f"{dotted} may not be used here: it must be {self.rule}")
        return _with_pixel_input(target) if _is_of_torchvision(target) else target

    def _may_hold(self, dotted: str) -> bool:
        """Return whether `dotted` is a public name in one of the role's packages."""
        module_name, _, _ = dotted.rpartition(".")
        return f"{module_name}.".startswith(self.packages) and not any(p.startswith("_") for p in dotted.split("."))


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BuildError(f"{module_name} needs the package {error.name}, which is not installed") from error
        package, _, missing = error.name.rpartition(".")
        raise BuildError(f"there is no {error.name}{did_you_mean(missing, _submodules(package))}") from error
    except Exception as error:  # whatever a module being written may raise on import
        if shortage(error) is not None:  # memory ran out, which is not the module's fault
            raise
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


def _public_names(module: Any) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _is_of_torchvision(target: Target) -> bool:
    return target.__module__.startswith(f"{_TORCHVISION}.")


def _with_pixel_input(builder: Target) -> Target:
    from cifar10.networks.published import with_pixel_input

    return with_pixel_input(builder)


def _parameter_names(target: Target) -> set[str]:
    return set(inspect.signature(target).parameters)


def _return_type(function: Target) -> Any:
    """Return what `function` says it returns: a type, or a name that exists for type checkers only."""
    try:
        return get_type_hints(function).get("return")
    except NameError:
        return inspect.signature(function).return_annotation


def _makes_data(target: Target) -> bool:
    returned = _return_type(target) if inspect.isfunction(target) else None
    return returned == _DATA_SET.rpartition(".")[2] or (
        inspect.isclass(returned) and f"{returned.__module__}.{returned.__name__}" == _DATA_SET
    )


def _is_network(target: Target) -> bool:
    from torch import nn

    if inspect.isclass(target):
        takes_classes = issubclass(target, nn.Module) and "num_classes" in _parameter_names(target)
        return takes_classes and not _is_of_torchvision(target)
    if not _is_of_torchvision(target):
        return False
    import torchvision

    builders = torchvision.models.list_models(module=torchvision.models)  # classifiers only
    return target.__name__ in builders and target is torchvision.models.get_model_builder(target.__name__)


def _is_selection(target: Target) -> bool:
    return _is_concrete_class(target) and callable(getattr(target, "choose", None))


def _makes_optimizer(target: Any) -> bool:
    from torch.optim import Optimizer

    if not _parameter_names(target) & {"network", "params"}:
        return False
    if not inspect.isclass(target):
        made = _return_type(target)
        return inspect.isclass(made) and issubclass(made, Optimizer)
    return issubclass(target, Optimizer) and target is not Optimizer and not _needs_closure(target)


def _needs_closure(optimizer: type[Any]) -> bool:
    """Whether a step computes the loss several times, as that of LBFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _is_metric(target: Target) -> bool:
    from torchmetrics import Metric

    return inspect.isclass(target) and issubclass(target, Metric) and "num_classes" in _parameter_names(target)


def _makes_engine(target: Target) -> bool:
    return inspect.isfunction(target) and getattr(_return_type(target), "__name__", "") == "LoadedModel"


def _is_format(target: Target) -> bool:
    return _is_concrete_class(target) and all(hasattr(target, name) for name in ("file_name", "write", "read"))


def _is_schedule(target: Any) -> bool:
    return _is_concrete_class(target) and "progress" in _parameter_names(target.__call__)


def _is_concrete_class(target: Target) -> bool:
    return inspect.isclass(target) and not getattr(target, "_is_protocol", False)


DATA = Role(
    packages=("cifar10.data.",),
    rule="a function of cifar10.data that returns an ImageDataset",
    fits=_makes_data,
    group="data_loading",
)
MODEL = Role(
    packages=("cifar10.networks.", f"{_TORCHVISION}."),
    rule="a subclass of torch.nn.Module with a parameter num_classes in cifar10.networks, or a classifier of "
    "torchvision.models",
    fits=_is_network,
    provided=("num_classes", "image_size"),
    group="model",
)
SELECTION = Role(
    packages=("cifar10.training.hard_example_mining.",),
    rule="a class of cifar10.training.hard_example_mining that selects images",
    fits=_is_selection,
    provided=("num_classes", "image_size"),
    group="selection",
)
OPTIMIZER = Role(
    packages=("cifar10.optimizers.", "torch.optim."),
    rule="a torch.optim.Optimizer whose step needs no closure, or a function that returns one, in cifar10.optimizers "
    "or torch.optim",
    fits=_makes_optimizer,
    provided=("network", "params"),
    group="optimizer",
)
SCHEDULE = Role(
    packages=("cifar10.optimizers.",),
    rule="a class in cifar10.optimizers whose objects are called with the progress of training",
    fits=_is_schedule,
    group="schedule",
)
METRIC = Role(
    packages=("torchmetrics.classification.", "cifar10.analysis."),
    rule="a torchmetrics.Metric with a parameter num_classes in torchmetrics.classification or cifar10.analysis",
    fits=_is_metric,
    provided=("num_classes",),
)
ENGINE = Role(
    packages=("cifar10.inference.engines.",),
    rule="a function of cifar10.inference.engines that takes a path and returns a LoadedModel",
    fits=_makes_engine,
    provided=("path", "device"),
    group="engine",
)
EXPORT = Role(
    packages=("cifar10.formats.",),
    rule="a class of cifar10.formats that writes and reads files",
    fits=_is_format,
    group="export",
)
ROLES = {"data_loading": DATA, "model": MODEL, "selection": SELECTION, "optimizer": OPTIMIZER, "schedule": SCHEDULE}
"""Section of the configuration -> what it may build. The sections within `metric` build a METRIC each."""


def roles_in(values: Mapping[str, Any]) -> dict[str, Role]:
    """Return the dotted key of each section of the configuration `values` that builds something, and its role."""
    metrics = values.get("metric")
    names = metrics if isinstance(metrics, Mapping) else ()
    return {**ROLES, **{f"metric.{name}": METRIC for name in names}}

"""The functions and classes that each component may name as its target, checked before anything is called.

A configuration may come from an untrusted checkpoint. So it is not enough that a target is in an accepted package: it
must fit the role of its section. `model` builds only a network, `data_loading` only a data set, and so on.
"""

import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from cifar10.config.conf_folder import values_of
from cifar10.config.signatures import read_declaration
from cifar10.errors import UsageError
from cifar10.packages import missing_package
from cifar10.suggest import did_you_mean
from cifar10.system.shortage import shortage

Target = Callable[..., Any]

_TORCHVISION = "torchvision.models"


class BuildError(UsageError):
    """A component names no usable target, or its arguments do not fit."""


@dataclass(frozen=True)
class Role:
    """The targets that one section of the configuration may name."""

    packages: tuple[str, ...]
    """Where the target must be defined: dotted names, each with a dot at its end. No other module is imported."""
    rule: str
    """Description of the accepted targets, for error messages."""
    fits: Callable[[Any], bool]
    """Whether a function or class is one of them."""
    provided: tuple[str, ...] = ()
    """Names of the arguments that the program supplies; the configuration may not set them."""
    group: str | None = None
    """The folder of `conf/` whose files name targets of this role."""

    def declaration(self, dotted: str) -> Target | None:
        """Return a function with the parameters of `dotted`, read from its source; None if its module must be imported.

        A target named in a file of `conf/` is assumed to fit the role of that folder.
        """
        if self.group is None or not self._may_hold(dotted) or dotted not in values_of(self.group, "_target_"):
            return None
        return read_declaration(dotted, without=self.provided)

    def declared(self, dotted: str) -> Target:
        """Return the declaration of `dotted`, or if there is none, the target itself, as `locate` does."""
        return self.declaration(dotted) or self.locate(dotted)

    def locate(self, dotted: str) -> Target:
        """Return the function or class called `dotted`, MODULE.NAME.

        Raises:
            BuildError: It does not exist or does not fit the role, or its module cannot be imported.
        """
        module_name, _, name = dotted.rpartition(".")
        if not self._may_hold(dotted):
            raise BuildError(f"{dotted} may not be used here: it must be {self.rule}")
        module = _import(module_name)
        target: Target | None = getattr(module, name, None)
        if target is None:
            public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise BuildError(f"{module_name} has no {name}{did_you_mean(name, public)}")
        is_defined_here = f"{getattr(target, '__module__', '')}.".startswith(self.packages)
        if not (is_defined_here and callable(target) and self.fits(target)):
            raise BuildError(f"{dotted} may not be used here: it must be {self.rule}")
        if not _is_of_torchvision(target):
            return target
        from cifar10.networks.published import with_pixel_input

        return with_pixel_input(target)

    def _may_hold(self, dotted: str) -> bool:
        """Return whether `dotted` is a public name in one of the role's packages."""
        return f"{dotted.rpartition('.')[0]}.".startswith(self.packages) and "._" not in f".{dotted}"


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BuildError(f"{module_name} {missing_package(error)}") from error
        package, _, missing = error.name.rpartition(".")
        modules = pkgutil.iter_modules(getattr(sys.modules.get(package), "__path__", []))
        raise BuildError(f"there is no {error.name}{did_you_mean(missing, [m.name for m in modules])}") from error
    except Exception as error:  # a module under development may raise anything on import
        if shortage(error) is not None:  # out of memory, which is not the module's fault
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(error, SyntaxError):  # which names its file and line itself
            place = traceback.extract_tb(error.__traceback__)[-1]
            text += f" ({Path(place.filename).name}, line {place.lineno})"
        raise BuildError(f"{module_name} cannot be imported: {text}") from error


def _is_of_torchvision(target: Target) -> bool:
    return target.__module__.startswith(f"{_TORCHVISION}.")


def _parameter_names(target: Target) -> set[str]:
    return set(inspect.signature(target).parameters)


def _return_type(target: Target) -> Any:
    """Return the annotated return type of a function: a type, or a name that exists for type checkers only."""
    if not inspect.isfunction(target):
        return None
    try:
        return get_type_hints(target).get("return")
    except NameError:
        return inspect.signature(target).return_annotation


def _makes_data(target: Target) -> bool:
    returned = _return_type(target)
    return bool(getattr(returned, "__name__", returned) == "ImageDataset")


def _is_network(target: Target) -> bool:
    from torch import nn

    if not _is_of_torchvision(target):
        return inspect.isclass(target) and issubclass(target, nn.Module) and "num_classes" in _parameter_names(target)
    import torchvision

    builders = torchvision.models.list_models(module=torchvision.models)  # classifiers only
    return target.__name__ in builders and target is torchvision.models.get_model_builder(target.__name__)


def _makes_optimizer(target: Any) -> bool:
    from torch.optim import Optimizer

    made = target if inspect.isclass(target) else _return_type(target)
    if not (_parameter_names(target) & {"network", "params"} and inspect.isclass(made) and issubclass(made, Optimizer)):
        return False
    closure = inspect.signature(made.step).parameters.get("closure")  # required: a step computes the loss several times
    return made is not target or (made is not Optimizer and (closure is None or closure.default is not closure.empty))


def _is_metric(target: Target) -> bool:
    from torchmetrics import Metric

    return inspect.isclass(target) and issubclass(target, Metric) and "num_classes" in _parameter_names(target)


def _makes_engine(target: Target) -> bool:
    return inspect.isfunction(target) and getattr(_return_type(target), "__name__", "") == "LoadedModel"


def _is_format(target: Target) -> bool:
    return _is_concrete_class(target) and all(hasattr(target, name) for name in ("file_name", "write", "read"))


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
    fits=lambda target: _is_concrete_class(target) and callable(getattr(target, "choose", None)),
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
    fits=lambda target: _is_concrete_class(target) and "progress" in _parameter_names(target.__call__),
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
    provided=("path", "device", "batch_size"),
    group="engine",
)
EXPORT = Role(
    packages=("cifar10.formats.",),
    rule="a class of cifar10.formats that writes and reads files",
    fits=_is_format,
    group="export",
)
ROLES = {"data_loading": DATA, "model": MODEL, "selection": SELECTION, "optimizer": OPTIMIZER, "schedule": SCHEDULE}
"""Section of the configuration -> its role. Each section in `metric` has the role METRIC."""

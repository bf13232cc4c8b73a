"""Put off the import of PyTorch's compiler, torch._dynamo, until something is compiled.

pytorch_lightning imports it to recognise compiled modules, optimizers of PyTorch to stay out of compiled code, and
torchvision to ask what can be compiled: 4 of 8 seconds of processor time before a training begins.
"""

import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_UTILS, _EXCEPTIONS = f"{_NAME}.utils", f"{_NAME}.exc"
_LOCK = threading.RLock()


def put_off_compiler() -> None:
    """Install a lazy module as torch._dynamo: the real one is imported at its first use."""
    torch = importlib.util.find_spec("torch")
    if _NAME in sys.modules or torch is None or torch.submodule_search_locations is None:
        return
    compiler = _LazyCompiler(_NAME)
    compiler.__path__ = [f"{folder}/_dynamo" for folder in torch.submodule_search_locations]
    sys.modules[_NAME], sys.modules[_UTILS] = compiler, _LazyUtils(_UTILS)
    sys.meta_path.insert(0, _SubmoduleFinder())


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of a failed compilation, for an `except` clause; none if nothing has been compiled."""
    exceptions = sys.modules.get(_EXCEPTIONS)
    return () if exceptions is None else (exceptions.BackendCompilerFailed,)


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` reads `__file__` of all modules, which is no use of the compiler
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        return getattr(_imported(self.__name__), name)


class _OptimizedModule(type):
    """Nothing is an OptimizedModule before the compiler is imported."""

    def __instancecheck__(cls, instance: object) -> bool:
        return not _is_put_off() and isinstance(instance, _imported(_NAME).OptimizedModule)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return not _is_put_off() and issubclass(subclass, _imported(_NAME).OptimizedModule)


class _LazyCompiler(_LazyModule):
    class OptimizedModule(metaclass=_OptimizedModule):
        """What torch.compile makes of a module."""

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Do nothing, as the compiler's function does where nothing is compiled."""

    @staticmethod
    def disable(fn: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> Any:
        """Return a function that is `fn`, and is left out of what is compiled once the compiler is imported."""
        if fn is None:
            return _imported(_NAME).disable(fn, *arguments, **options)
        left_out = functools.cache(lambda: _imported(_NAME).disable(fn, *arguments, **options))

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (fn if _is_put_off() else left_out())(*args, **kwargs)

        return call


class _LazyUtils(_LazyModule):
    @staticmethod
    def is_compile_supported(device_type: Any) -> Any:
        return _imported(_UTILS).is_compile_supported(device_type)


class _SubmoduleFinder(MetaPathFinder, Loader):
    """Imports the whole compiler before one of its modules, which then may be there already."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{_NAME}.") or not _is_put_off():
            return None
        _imported(_NAME)
        module = sys.modules.get(name)
        if module is None:
            return None
        self.spec, module.__spec__ = module.__spec__, None  # importlib would take that one and run the module again
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _is_put_off() -> bool:
    return isinstance(sys.modules.get(_NAME), _LazyModule)


def _imported(name: str) -> Any:
    """Return the compiler or one of its modules, imported now if it has been put off."""
    with _LOCK:
        if _is_put_off():
            del sys.modules[_NAME], sys.modules[_UTILS]
        return importlib.import_module(name)

"""Import torchmetrics without the packages that it needs for sound, segmentation and plots only.

pytorch_lightning imports all of torchmetrics, which imports torchvision, SciPy and Matplotlib where they are installed:
3 of 11 seconds of processor time before a training begins. No metric of classification uses them.
"""

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it takes a fifth of the time of --help
    from importlib.metadata import Distribution, DistributionFinder

_OPTIONAL = frozenset({"matplotlib", "scipy", "torchvision"})


def import_torchmetrics_alone() -> None:
    """Let torchmetrics, when it is imported, take its optional packages for not installed. Others can import them."""
    if "torchmetrics" not in sys.modules:
        sys.meta_path.insert(0, _TorchmetricsFinder())


class _TorchmetricsFinder:
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _TorchmetricsLoader(spec.loader.name, spec.loader.path)
        return spec


class _TorchmetricsLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        hidden = _Hidden(frozenset(name for name in _OPTIONAL if name not in sys.modules))
        sys.meta_path.insert(0, hidden)
        try:
            super().exec_module(module)
        finally:
            sys.meta_path.remove(hidden)


class _Hidden:
    """Says, before others are asked, that there are no such packages."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def find_distributions(self, context: "DistributionFinder.Context | None" = None) -> "Iterable[Distribution]":
        from importlib.metadata import PackageNotFoundError

        if context is not None and context.name in self.names:
            raise PackageNotFoundError(context.name)
        return []

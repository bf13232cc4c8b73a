"""Names of the classifiers of torchvision and timm, read from their source files: to import them takes seconds."""

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

IMAGENET = "_imagenet"
"""Behind the name of a classifier: with weights that were trained on ImageNet."""

_REGISTERED = re.compile(r"^@register_model\b.*?^def (\w+)", re.DOTALL | re.MULTILINE)


@cache
def classifier_names(package: str) -> tuple[str, ...]:
    """Return the names of the classifiers of `package`, sorted; none if it is not installed."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or [] for file in Path(folder, "models").glob("*.py")]
    return tuple(sorted(name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))))


@dataclass(frozen=True)
class ClassifierOf:
    """Type of an argument: the name of a classifier of `package`."""

    package: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        known = classifier_names(self.package)
        if not known:
            raise ValueError(f"needs the package {self.package}: python -m pip install {self.package}")
        if name.partition(".")[0] not in known:
            raise ValueError(f"{self.package} has no classifier {name:.60}")
        return name

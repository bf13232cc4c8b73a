"""Types of arguments with ranges. Importing them needs no pydantic, and neither does training.

`build.py` validates the arguments of a target with pydantic, which recognises the classes below by the protocol of
grouped metadata (https://github.com/annotated-types/annotated-types#groupedmetadata) or by a method of pydantic's own.
Their packages are imported only then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

Metrics = dict[str, float]
"""Name, such as `val/accuracy`, -> value. Quartiles over batches have a suffix: `val/accuracy_25`."""
QUARTILES = (25, 50, 75)
"""In percent."""


def is_quartile(name: str) -> bool:
    """Return whether a metric is a quartile over batches."""
    return name.endswith(tuple(f"_{percent}" for percent in QUARTILES))


@dataclass(frozen=True)
class Range:
    """The bounds of a number; None: no bound."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    __is_annotated_types_grouped_metadata__ = True

    def __iter__(self) -> Iterator[Any]:
        from annotated_types import Interval

        return iter(Interval(gt=self.gt, ge=self.ge, lt=self.lt, le=self.le))


@dataclass(frozen=True)
class Length:
    """The smallest and largest number of items or characters."""

    least: int = 0
    most: int | None = None

    __is_annotated_types_grouped_metadata__ = True

    def __iter__(self) -> Iterator[Any]:
        from annotated_types import Len

        return iter(Len(self.least, self.most))


@dataclass(frozen=True)
class OrNumber:
    """Text, or the whole number that YAML makes of text such as 7; nothing else."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def check(value: Any, check_text: Callable[[Any], str]) -> str | int:
            return value if type(value) is int else check_text(value)

        return core_schema.no_info_wrap_validator_function(check, core_schema.str_schema())


ClassName = Annotated[str | int, OrNumber()]
"""Name of a class in the configuration."""
PositiveInt = Annotated[int, Range(gt=0)]
NonNegativeInt = Annotated[int, Range(ge=0)]
Seed = Annotated[int, Range(ge=0, lt=2**63)]
"""Range of the seeds of PyTorch's generators."""
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, lt=1)]
"""A fraction below 1."""
Part = Annotated[float, Range(ge=0, le=1)]

"""Ranges of arguments as type hints, which cost nothing where nobody checks them: the training core needs no pydantic.

`build.py` makes pydantic read the hints of a target. Pydantic knows the two classes below by the protocol of grouped
metadata (https://github.com/annotated-types/annotated-types#groupedmetadata), and only then is anything imported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """The bounds of a number; None is no bound."""

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
    """The least and the greatest number of items or characters."""

    least: int = 0
    most: int | None = None

    __is_annotated_types_grouped_metadata__ = True

    def __iter__(self) -> Iterator[Any]:
        from annotated_types import Len

        return iter(Len(self.least, self.most))


PositiveInt = Annotated[int, Range(gt=0)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, lt=1)]
"""A part that is never the whole."""
Part = Annotated[float, Range(ge=0, le=1)]

"""Ranges: pydantic enforces every bound of every marker, and each alias is what its name says."""

from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cifar10.types import (
    Fraction,
    Length,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Range,
)


@pytest.mark.parametrize(
    ("hint", "inside", "outside"),
    [
        (PositiveInt, [1, 7], [0, -1]),
        (NonNegativeInt, [0, 7], [-1]),
        (PositiveFloat, [1e-9, 7.0], [0.0, -1.0]),
        (NonNegativeFloat, [0.0, 7.0], [-1e-9]),
        (Fraction, [0.0, 0.999], [1.0, -1e-9]),
        (Part, [0.0, 1.0], [1.001, -1e-9]),
        (Annotated[int, Range(ge=2, lt=5)], [2, 4], [1, 5]),
        (Annotated[list[PositiveInt], Length(2, 3)], [[1, 2], [1, 2, 3]], [[1], [1, 2, 3, 4], [0, 1]]),
        (Annotated[str, Length(1)], ["a", "a" * 1000], [""]),
    ],
)
def test_values_inside_pass_and_values_outside_do_not(hint: Any, inside: list[Any], outside: list[Any]) -> None:
    adapter = TypeAdapter(hint)
    assert [adapter.validate_python(value) for value in inside] == inside
    for value in outside:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)

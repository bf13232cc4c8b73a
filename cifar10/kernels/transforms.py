"""A constant matrix from both sides of a square of pixels, written with as few instructions as its rows allow."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from cifar10.kernels.arrays import Array
from cifar10.kernels.program import Integer, Lanes, Program
from cifar10.kernels.toom_cook import Matrix


class Square(Protocol):
    """Pixels by row and column, some channels of each."""

    def load(self, row: Integer | int, column: Integer | int) -> Lanes: ...

    def store(self, value: Lanes, row: Integer | int, column: Integer | int) -> None: ...


def transform(program: Program, matrix: Matrix, source: Square, target: Square, halfway: Array) -> None:
    """Write target = matrix source matrix^T, with room for matrix source in `halfway`."""
    height, width = matrix.shape
    with program.loop(0, width) as column:
        for y, value in enumerate(_apply(matrix, [source.load(y, column) for y in range(width)])):
            halfway.store(value, (column + y * width) * program.num_lanes)
    with program.loop(0, height) as row:
        values = [halfway.load((row * width + x) * program.num_lanes) for x in range(width)]
        for x, value in enumerate(_apply(matrix, values)):
            target.store(value, row, x)


def _apply(matrix: Matrix, values: Sequence[Lanes]) -> list[Lanes]:
    """Write the product of a constant matrix without a zero row and a vector.

    Two rows that differ only in the signs of some terms share their arithmetic: one is a sum, the other a difference.
    """
    rows = matrix.astype(np.float32)
    results: dict[int, Lanes] = {}
    waiting = list(range(len(rows)))
    while waiting:
        number = waiting.pop(0)
        row = rows[number]
        partner = next((other for other in waiting if _are_pair(row, rows[other])), None)
        if partner is None:
            results[number] = _combine(row, values)
            continue
        waiting.remove(partner)
        same = row == rows[partner]
        even, odd = _combine(np.where(same, row, 0), values), _combine(np.where(same, 0, row), values)
        results[number], results[partner] = even + odd, even - odd
    return [results[number] for number in range(len(rows))]


def _are_pair(row: Matrix, other: Matrix) -> bool:
    differ, agree = (row != other) & (row != 0), (row == other) & (row != 0)
    return bool((np.abs(row) == np.abs(other)).all() and differ.any() and agree.any())


def _combine(coefficients: Matrix, values: Sequence[Lanes]) -> Lanes:
    total: Lanes | None = None
    for coefficient, value in zip(coefficients.tolist(), values, strict=True):
        if coefficient == 0:
            continue
        if total is None:
            total = value if coefficient == 1 else value * coefficient
        elif abs(coefficient) == 1:
            total = total + value if coefficient == 1 else total - value
        else:
            total = value * coefficient + total
    assert total is not None
    return total

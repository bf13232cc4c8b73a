"""Packing of factors for a unit that multiplies tiles of bfloat16, 32 rows and 32 columns at a time."""

from typing import TypeVar

from cifar10.kernels import halves
from cifar10.kernels.amx import ROWS
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.gemm import BFLOAT16, Matrix

UNIT_ROWS = 2 * ROWS
"""Of a result, and of a factor that is summed over its rows: their number is rounded up to a multiple."""

Rows = TypeVar("Rows", int, Integer)

_WORD_BYTES = 4


def rounded_up(rows: Rows) -> Rows:
    """Return the next multiple of 32."""
    return (rows + (UNIT_ROWS - 1)) // UNIT_ROWS * UNIT_ROWS


def clear_rows(builder: KernelBuilder, matrix: Matrix, first: Integer, end: Integer, row_words: int) -> None:
    """Write zeros to rows first .. end - 1 of a matrix whose words in a row are neighbours."""
    with builder.loop(first, end) as row:
        place = matrix.first + row * matrix.row_stride
        halves.fill_zeros(builder, matrix.address + place * _WORD_BYTES, row_words * _WORD_BYTES)


def transpose_pairs(builder: KernelBuilder, source: Matrix, target: Matrix, shape: tuple[Integer, int]) -> None:
    """Copy bfloat16 so that each column becomes a row.

    Args:
        builder: Of 16 lanes.
        source: (rows, columns / 2) words, whose numbers are neighbours in a row.
        target: (columns, rows / 2) words.
        shape: Rows and columns, multiples of 32.
    """
    rows, columns = shape
    with builder.loop(0, rows, UNIT_ROWS) as row, builder.loop(0, columns, halves.LANES) as column:
        start = source.address + (source.first + row * source.row_stride) * _WORD_BYTES + column * halves.BYTES
        lines = [
            halves.load_raw(builder, start + number * source.row_stride * _WORD_BYTES) for number in range(UNIT_ROWS)
        ]
        words = [
            halves.pairs(builder, *lines[number : number + BFLOAT16.depth]).value
            for number in range(0, UNIT_ROWS, BFLOAT16.depth)
        ]
        goal = target.first + column * target.row_stride + row // BFLOAT16.depth
        for number, line in enumerate(halves.transposed(builder, words)):
            halves.store_raw(builder, line, target.address + (goal + number * target.row_stride) * _WORD_BYTES)

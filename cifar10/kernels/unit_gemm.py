"""Matrix multiplication by a unit that multiplies tiles of bfloat16, on the packed matrices of `gemm`.

Two by two tiles of a result are summed at a time; so rows, columns and numbers to sum come in multiples of 32.
"""

from typing import TypeVar

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES, ROWS
from cifar10.kernels.bfloat16_units import Factor, Unit
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.gemm import BFLOAT16, Matrix
from cifar10.kernels.tile_products import Sums

UNIT_ROWS = 2 * ROWS
"""Of a result, and of a factor that is summed over its rows: their number is rounded up to a multiple."""

Rows = TypeVar("Rows", int, Integer)

_WORD_BYTES = 4
_TILE_WORDS = ROW_BYTES // _WORD_BYTES
_FIRSTS = (0, ROWS)  # of two tiles, side by side or one below the other


def fits_unit(*channels: int) -> bool:
    """Whether matrices with so many columns are divided into tiles without a rest."""
    return all(number % (2 * _TILE_WORDS) == 0 for number in channels)


def rounded_up(rows: Rows) -> Rows:
    """Return the next multiple of 32."""
    return (rows + (UNIT_ROWS - 1)) // UNIT_ROWS * UNIT_ROWS


def multiply_by_unit(
    unit: Unit,
    left: Matrix,
    right: Matrix,
    target: Matrix,
    shape: tuple[Integer | int, Integer | int, int],
    accumulate: bool = False,
) -> None:
    """Write target = left right, or target += left right.

    Args:
        unit: Multiplies; configured.
        left: (M, N), whose words in a row are neighbours. It has memory for a multiple of 32 rows.
        right: (N, K), packed in panels of 32 columns.
        target: (M, K), packed, float32, with memory for a multiple of 32 rows: what follows row M is overwritten.
        shape: M, N and K; N in words, a multiple of 16. K is a multiple of 32.
        accumulate: Add to `target` instead of overwriting it.
    """
    rows, inner, columns = shape
    builder = unit.builder
    with builder.loop(0, columns, UNIT_ROWS) as column, builder.loop(0, rows, UNIT_ROWS) as row:
        start = target.first + row * target.row_stride + column * target.column_stride
        places = [[start + (r * target.row_stride + c) for c in _FIRSTS] for r in _FIRSTS]
        sums = Sums(
            [[target.address + place * _WORD_BYTES for place in line] for line in places],
            target.row_stride * _WORD_BYTES,
        )
        (sums.load if accumulate else sums.zero)(unit)
        with builder.loop(0, inner, _TILE_WORDS) as word:
            first = left.first + row * left.row_stride + word
            above = right.first + word * right.row_stride + column * right.column_stride
            lefts = [left.address + (first + r * left.row_stride) * _WORD_BYTES for r in _FIRSTS]
            rights = [right.address + (above + c) * _WORD_BYTES for c in _FIRSTS]
            unit.add(Factor(lefts, left.row_stride * _WORD_BYTES), Factor(rights, right.row_stride * _WORD_BYTES))
        sums.store(unit)


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

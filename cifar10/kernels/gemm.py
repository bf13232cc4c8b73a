"""Matrix multiplication inside a kernel: a register-blocked micro-kernel on packed matrices.

PyTorch's matrix multiplication is as fast, but its operands and results would have to leave the core's own cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cifar10.kernels import halves
from cifar10.kernels.arrays import WordArray, float_array, int_array
from cifar10.kernels.bfloat16_units import add_pairs
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector, lanes_for
from cifar10.kernels.jit import has_avx512

_PANEL_VECTORS = 2  # per row of a panel
_ROWS, _ROWS_WITHOUT_AVX512 = 12, 6  # of a register block; there are 32 registers, or 16
_UNROLLED = 4  # steps of the inner dimension
_PREFETCHED = 8  # rows of a panel; it is read once, from a cache that cores share


class Format(NamedTuple):
    """How the factors of a product are stored: in words of 32 bits."""

    depth: int
    """Numbers in a word: neighbours in the dimension that is summed over."""
    array: Callable[[KernelBuilder, Integer], WordArray[Any]]
    add: Callable[[KernelBuilder, Vector, Any, Any], Vector]
    """Return a sum, float32, with the product of two vectors of words added."""


FLOAT32 = Format(1, float_array, lambda _builder, total, left, right: left * right + total)
BFLOAT16 = Format(2, int_array, add_pairs)


@dataclass(frozen=True)
class Matrix:
    """Words in memory. Right factors and results are packed: stored as panels of some columns.

    Word (i, j) is at first + i * row_stride + j * column_stride. In a panel, columns are neighbours, whatever
    `column_stride` is: multiplied by a panel's first column, it gives where that panel begins. With two numbers in a
    word, a left factor has half as many columns as numbers in a row, a right factor half as many rows.
    """

    address: Integer
    first: Integer
    row_stride: int
    column_stride: int

    @property
    def T(self) -> "Matrix":  # noqa: N802 - as in NumPy
        """The transpose, of a left operand."""
        return replace(self, row_stride=self.column_stride, column_stride=self.row_stride)


def packed_matrix(address: Integer, number: Integer, rows: int, columns: int) -> Matrix:
    """Return matrix `number` of an array of packed matrices, words (columns / w, rows, w), w = panel_width(columns)."""
    return Matrix(address, number * (rows * columns), row_stride=panel_width(columns), column_stride=rows)


def pair_rows(builder: KernelBuilder, source: Matrix, target: Matrix, shape: tuple[Integer, int], width: int) -> None:
    """Copy bfloat16 so that the numbers of each two rows in a column become a word.

    Args:
        builder: Of any number of lanes.
        source: (rows, columns / 2) words, whose numbers are neighbours in a row.
        target: (half of the rows, columns) in panels of `width` columns. An odd number of rows is followed by zeros.
        shape: Rows and columns.
        width: A divisor of the number of columns.
    """
    rows, columns = shape
    builder = builder.with_lanes(lanes_for(width))
    words = int_array(builder, target.address)
    zeros = builder.llvm.trunc(builder.int_constant(0).value, halves.vector_type(builder))

    def load(row: Integer, column: int) -> Any:
        word = source.first + row * source.row_stride
        return halves.load_raw(builder, source.address + word * 4 + column * halves.BYTES, builder.num_lanes)

    def copy(pair: Integer, second_row: Integer | None) -> None:
        for column in range(0, columns, builder.num_lanes):
            second = zeros if second_row is None else load(second_row, column)
            place = target.first + pair * target.row_stride + (column // width * width * target.column_stride)
            words.store(halves.pairs(builder, load(pair * 2, column), second), place + column % width)

    with builder.loop(0, rows // 2) as pair:
        copy(pair, pair * 2 + 1)
    with builder.loop(rows // 2, (rows + 1) // 2) as last:
        copy(last, None)


def panel_width(columns: int) -> int:
    """Return how many columns a panel has: a divisor of `columns`, which is a multiple of 8."""
    lanes = _lanes(columns)
    return next(width for width in range(_PANEL_VECTORS * lanes, 0, -lanes) if columns % width == 0)


def register_rows(rows: int) -> int:
    """Return how many rows of a result are kept in registers at a time: a divisor of `rows`."""
    most = _ROWS if has_avx512() else _ROWS_WITHOUT_AVX512
    return next(count for count in range(most, 0, -1) if rows % count == 0)


def multiply(
    builder: KernelBuilder,
    left: Matrix,
    right: Matrix,
    target: Matrix,
    shape: tuple[Integer | int, Integer | int, int],
    block_rows: int,
    factors: Format = FLOAT32,
    accumulate: bool = False,
) -> None:
    """Write target = left right, or target += left right.

    Args:
        builder: Of any number of lanes.
        left: (M, N).
        right: (N, K), packed.
        target: (M, K), packed, float32, with memory for a multiple of `block_rows` rows: what follows row M is
            overwritten.
        shape: M, N and K; N in words.
        block_rows: Rows of a register block, see `register_rows`.
        factors: How `left` and `right` are stored.
        accumulate: Add to `target` instead of overwriting it.
    """
    rows, inner, columns = shape
    builder, width = builder.with_lanes(_lanes(columns)), panel_width(columns)
    left_words, right_words = (factors.array(builder, matrix.address) for matrix in (left, right))
    target_data = float_array(builder, target.address)
    panel = range(0, width, builder.num_lanes)
    unrolled = _UNROLLED if isinstance(inner, int) else 1  # a number known here is one of channels, a multiple of 8
    with builder.loop(0, columns, width) as column, builder.loop(0, rows, block_rows) as row:
        start = target.first + row * target.row_stride + column * target.column_stride
        offsets = [start + (r * target.row_stride + c) for r in range(block_rows) for c in panel]
        if accumulate:
            for offset in offsets:
                target_data.prefetch(offset + block_rows * target.row_stride)
        sums = [target_data.load(offset) if accumulate else builder.constant(0.0) for offset in offsets]

        def add_product(
            number: Integer, sums: list[Vector], row: Integer = row, column: Integer = column
        ) -> list[Vector]:
            start = right.first + number * right.row_stride + column * right.column_stride
            if not accumulate:
                for c in panel:
                    right_words.prefetch(start + (_PREFETCHED * right.row_stride + c))
            panel_row = [right_words.load(start + c) for c in panel]
            first = left.first + row * left.row_stride + number * left.column_stride
            results = []  # written in the order in which registers come free
            for r in range(block_rows):
                scale = left_words.broadcast(first + r * left.row_stride)
                totals = sums[r * len(panel_row) : (r + 1) * len(panel_row)]
                results += [
                    factors.add(builder, total, scale, value) for total, value in zip(totals, panel_row, strict=True)
                ]
            return results

        def add_products(number: Integer, sums: list[Vector]) -> list[Vector]:
            for step in range(unrolled):
                sums = add_product(number + step, sums)
            return sums

        for offset, total in zip(offsets, builder.fold(0, inner, sums, add_products, unrolled), strict=True):
            target_data.store(total, offset)


def _lanes(columns: int) -> int:
    return min(lanes_for(columns), 16 if has_avx512() else 8)

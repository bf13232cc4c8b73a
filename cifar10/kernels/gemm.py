"""Matrix multiplication inside a kernel: a register-blocked micro-kernel on packed matrices.

PyTorch's matrix multiplication is as fast, but its operands and results would have to leave the core's own cache.
"""

from typing import NamedTuple

from cifar10.kernels.arrays import float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector, lanes_for
from cifar10.kernels.jit import has_avx512

_PANEL_VECTORS = 2  # per row of a panel
_ROWS, _ROWS_WITHOUT_AVX512 = 12, 6  # of a register block; there are 32 registers, or 16
_UNROLLED = 4  # steps of the inner dimension
_PREFETCHED = 8  # rows of a panel; it is read once, from a cache that cores share


class Matrix(NamedTuple):
    """float32 matrix in memory. Right operands and results are packed: stored as panels of some columns.

    Element (i, j) is at first + i * row_stride + j * column_stride. In a panel, columns are neighbours, whatever
    `column_stride` is: multiplied by a panel's first column, it gives where that panel begins.
    """

    address: Integer
    first: Integer
    row_stride: int
    column_stride: int

    @property
    def T(self) -> "Matrix":  # noqa: N802 - as in NumPy
        """The transpose, of a left operand."""
        return self._replace(row_stride=self.column_stride, column_stride=self.row_stride)


def packed_matrix(address: Integer, number: Integer, rows: int, columns: int) -> Matrix:
    """Return matrix `number` of an array of packed matrices, (columns / w, rows, w) with w = panel_width(columns)."""
    return Matrix(address, number * (rows * columns), row_stride=panel_width(columns), column_stride=rows)


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
    accumulate: bool = False,
) -> None:
    """Write target = left right, or target += left right.

    Args:
        builder: Of any number of lanes.
        left: (M, N).
        right: (N, K), packed.
        target: (M, K), packed, with memory for a multiple of `block_rows` rows: what follows row M is overwritten.
        shape: M, N and K.
        block_rows: Rows of a register block, see `register_rows`.
        accumulate: Add to `target` instead of overwriting it.
    """
    rows, inner, columns = shape
    builder, width = builder.with_lanes(_lanes(columns)), panel_width(columns)
    right_data, left_data, target_data = (float_array(builder, matrix.address) for matrix in (right, left, target))
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
                    right_data.prefetch(start + (_PREFETCHED * right.row_stride + c))
            panel_row = [right_data.load(start + c) for c in panel]
            first = left.first + row * left.row_stride + number * left.column_stride
            results = []  # written in the order in which registers come free
            for r in range(block_rows):
                scale = left_data.broadcast(first + r * left.row_stride)
                results += [scale * panel_row[c] + sums[r * len(panel_row) + c] for c in range(len(panel_row))]
            return results

        def add_products(number: Integer, sums: list[Vector]) -> list[Vector]:
            for step in range(unrolled):
                sums = add_product(number + step, sums)
            return sums

        for offset, total in zip(offsets, builder.fold(0, inner, sums, add_products, unrolled), strict=True):
            target_data.store(total, offset)


def _lanes(columns: int) -> int:
    return min(lanes_for(columns), 16 if has_avx512() else 8)

"""Products of matrices that lie in a core's own cache, as part of a larger vector program.

The library's products are as fast, but what goes into them and comes out would have to leave the core's cache.
"""

from typing import NamedTuple

from cifar10.kernels.arrays import array
from cifar10.kernels.machine_code import has_wide_registers
from cifar10.kernels.program import Integer, Lanes, Program, lanes_for

_PANEL_REGISTERS = 2  # of a row of a panel
_ROWS, _NARROW_ROWS = 12, 6  # whose sums stay in registers: twice as many of 32, or of 16
_UNROLLED = 4  # products of each sum
_AHEAD = 8  # rows of a panel, which is read once from memory that cores share: asked for early


class Matrix(NamedTuple):
    """float32 numbers in memory. What is multiplied from the right, and what comes out, lies in panels of columns.

    Element (i, j) is at first + i * row + j * column. Within a panel columns are neighbours, whatever `column` is: it
    leads from the first column of a panel to that of the next.
    """

    address: Integer
    first: Integer
    row: int
    column: int

    @property
    def T(self) -> "Matrix":  # noqa: N802 - as in NumPy
        """Rows for columns; of a matrix that is multiplied from the left."""
        return self._replace(row=self.column, column=self.row)


def in_panels(address: Integer, number: Integer, rows: int, columns: int) -> Matrix:
    """Return matrix `number` of many with so many rows and columns, each panel stored row after row."""
    return Matrix(address, number * (rows * columns), row=panel_width(columns), column=rows)


def panel_width(columns: int) -> int:
    """Return how many columns a panel has: a divisor of `columns`, which is a multiple of 8."""
    lanes = _lanes(columns)
    return next(width for width in range(_PANEL_REGISTERS * lanes, 0, -lanes) if columns % width == 0)


def rows_at_once(rows: int) -> int:
    """Return how many rows' sums stay in registers: a divisor of `rows`."""
    most = _ROWS if has_wide_registers() else _NARROW_ROWS
    return next(count for count in range(most, 0, -1) if rows % count == 0)


def multiply(
    program: Program,
    left: Matrix,
    right: Matrix,
    target: Matrix,
    shape: tuple[Integer | int, Integer | int, int],
    at_once: int,
    add: bool = False,
) -> None:
    """Write target = left right, or add the product to `target`.

    Args:
        program: Of any number of lanes.
        left: (M, N).
        right: (N, K), in panels.
        target: (M, K), in panels, with room for a multiple of `at_once` rows: what lies beyond M is overwritten.
        shape: M, N and K.
        at_once: Rows whose sums are kept in registers, see `rows_at_once`.
        add: To what `target` holds, instead of overwriting it.
    """
    rows, inner, columns = shape
    program, width = program.with_lanes(_lanes(columns)), panel_width(columns)
    factors, scales, numbers = (array(matrix.address, program) for matrix in (right, left, target))
    panel = range(0, width, program.num_lanes)
    unrolled = _UNROLLED if isinstance(inner, int) else 1  # known are numbers of channels, multiples of 8
    with program.loop(0, columns, width) as column, program.loop(0, rows, at_once) as row:
        start = target.first + row * target.row + column * target.column
        places = [start + (r * target.row + c) for r in range(at_once) for c in panel]
        if add:
            for place in places:
                numbers.prefetch(place + at_once * target.row)
        sums = [numbers.load(place) if add else program.constant(0.0) for place in places]

        def add_product(
            number: Integer, sums: list[Lanes], row: Integer = row, column: Integer = column
        ) -> list[Lanes]:
            start = right.first + number * right.row + column * right.column
            if not add:
                for c in panel:
                    factors.prefetch(start + (_AHEAD * right.row + c))
            these = [factors.load(start + c) for c in panel]
            first = left.first + row * left.row + number * left.column
            results = []  # written in the order in which registers come free
            for r in range(at_once):
                scale = scales.broadcast(first + r * left.row)
                results += [scale * these[c] + sums[r * len(these) + c] for c in range(len(these))]
            return results

        def add_products(number: Integer, sums: list[Lanes]) -> list[Lanes]:
            for step in range(unrolled):
                sums = add_product(number + step, sums)
            return sums

        for place, total in zip(places, program.fold(0, inner, sums, add_products, unrolled), strict=True):
            numbers.store(total, place)


def _lanes(columns: int) -> int:
    return min(lanes_for(columns), 16 if has_wide_registers() else 8)

"""Winograd's minimal filtering (Toom-Cook) for 3 x 3 filters: the matrices, their code, and the choice of a tile size.

m neighbouring outputs of a 3-tap filter need 3 m multiplications, or m + 2: input d (n,) and filter g (3,), with
n = m + 2, are evaluated at n points, multiplied there, and interpolated: y = A ((G g) * (B d)). In two dimensions the
matrices are applied from both sides.
A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), https://arxiv.org/abs/1509.09308.

The points decide how much rounding is amplified. Those below were chosen for the least noise in the outputs when each
factor of a product is rounded, as found by a search over sets of pairs, with and without zero. In float32, outputs are
off by up to 4e-6 of their size for m up to 6 and by 8e-6 for m = 7 (tests/kernels/test_winograd.py); bfloat16, in which
such networks are trained without harm, is off by 4e-3.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cifar10.kernels.arrays import FloatArray
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector

Matrix = NDArray[np.float64]

TAPS = 3


def _pairs(*points: str) -> list[Fraction]:
    return [Fraction(point) * sign for point in points for sign in (1, -1)]


_ZERO = Fraction(0)
_POINTS: dict[int, list[Fraction]] = {  # beside infinity; pairs +-p share half of their arithmetic
    1: [_ZERO, Fraction(1)],
    2: [_ZERO, *_pairs("1")],
    3: _pairs("5/4", "3/8"),
    4: [_ZERO, *_pairs("3/2", "5/8")],
    5: _pairs("7/4", "7/8", "1/4"),
    6: [_ZERO, *_pairs("2", "1", "1/2")],
    7: _pairs("9/4", "9/8", "11/16", "1/4"),
}
SMALLEST_TILE, LARGEST_TILE = 2, max(_POINTS)


@dataclass(frozen=True)
class Tiling:
    """How the output of a 3 x 3 convolution with zero padding is divided into tiles of m x m."""

    size: int
    """Height and width in pixels of the input; and of the output, before pooling."""
    pooled: bool
    """Whether the output is max-pooled 2 x 2: of an odd size, the last row and column are not needed."""
    largest: int = LARGEST_TILE
    """Of m: rounded factors of products allow smaller tiles only."""

    @property
    def output_size(self) -> int:
        """Height and width of the output that is needed, before pooling."""
        return self.size // 2 * 2 if self.pooled else self.size

    @functools.cached_property
    def tile(self) -> int:
        """m: the size with the fewest multiplications; of several, the smallest, which rounds least."""
        sizes = range(SMALLEST_TILE, self.largest + 1)
        return min(sizes, key=lambda m: -(-self.output_size // m) * (m + TAPS - 1))

    @property
    def tiles_per_side(self) -> int:
        """t: tiles in a row of an image."""
        return -(-self.output_size // self.tile)

    @property
    def num_tiles(self) -> int:
        """t^2: tiles of an image."""
        return self.tiles_per_side**2

    @property
    def input_tile(self) -> int:
        """n: rows and columns of the input that a tile needs."""
        return self.tile + TAPS - 1

    @property
    def num_positions(self) -> int:
        """n^2: elements of a transformed tile, each of which is multiplied by its own matrix of filters."""
        return self.input_tile**2

    @property
    def num_products(self) -> int:
        """Of an image, for each channel in and out."""
        return self.num_positions * self.num_tiles


@functools.cache
def transform_matrices(tile: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A (m, m + 2), G (m + 2, 3) and B (m + 2, m + 2) for m = `tile` outputs, in 1 .. LARGEST_TILE."""
    length = tile + TAPS - 1
    outputs, taps = (np.array(_powers(tile, count), dtype=np.float64) for count in (tile, TAPS))
    outputs, inputs = outputs.T, np.array(_inverse(_powers(tile, length)), dtype=np.float64).T
    # Each point's three rows may be scaled if the product stays: powers of two that make them about equally long.
    lengths = [np.linalg.norm(outputs, axis=0), np.linalg.norm(taps, axis=1), np.linalg.norm(inputs, axis=1)]
    mean_length = np.prod(lengths, axis=0) ** (1 / 3)
    tap_scale, input_scale = (
        2.0 ** np.round(_mean_over_pairs(np.log2(mean_length / own), tile)) for own in lengths[1:]
    )
    return outputs / (tap_scale * input_scale), taps * tap_scale[:, None], inputs * input_scale[:, None]


def _mean_over_pairs(values: NDArray[np.float64], tile: int) -> NDArray[np.float64]:
    """Give both points of a pair +-p the mean of their values, or they could not share arithmetic."""
    sizes = [*map(abs, _POINTS[tile]), -1]
    return np.array(
        [np.mean([value for value, other in zip(values, sizes, strict=True) if other == size]) for size in sizes]
    )


def _powers(tile: int, count: int) -> list[list[Fraction]]:
    """Return (m + 2, count): each point's powers 0 .. count - 1; infinity's are 0 but for the last."""
    infinity = [Fraction(power == count - 1) for power in range(count)]
    return [*([point**power for power in range(count)] for point in _POINTS[tile]), infinity]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Invert a matrix exactly, by Gauss-Jordan elimination, so that zeros and pairs are what they are on paper."""
    size = len(matrix)
    rows = [[*row, *(Fraction(column == number) for column in range(size))] for number, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(number for number in range(column, size) if rows[number][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for number in range(size):
            if number != column:
                factor = rows[number][column]
                rows[number] = [value - factor * own for value, own in zip(rows[number], rows[column], strict=True)]
    return [row[size:] for row in rows]


class Grid(Protocol):
    """A square of pixels, some channels of each."""

    def load(self, row: Integer | int, column: Integer | int) -> Vector: ...

    def store(self, value: Vector, row: Integer | int, column: Integer | int) -> None: ...


def transform_tile(
    builder: KernelBuilder, matrix: Matrix, source: Grid, target: Grid, intermediate: FloatArray
) -> None:
    """Write target = matrix source matrix^T; `intermediate` has room for matrix source, a vector an element."""
    height, width = matrix.shape
    with builder.loop(0, width) as column:
        for y, value in enumerate(_matrix_vector(matrix, [source.load(y, column) for y in range(width)])):
            intermediate.store(value, (column + y * width) * builder.num_lanes)
    with builder.loop(0, height) as row:
        values = [intermediate.load((row * width + x) * builder.num_lanes) for x in range(width)]
        for x, value in enumerate(_matrix_vector(matrix, values)):
            target.store(value, row, x)


def _matrix_vector(matrix: Matrix, values: Sequence[Vector]) -> list[Vector]:
    """Write the product of a constant matrix, without a row of zeros, and a vector.

    Two rows that differ only in the signs of some terms share their arithmetic: one is a sum, the other a difference.
    """
    rows = matrix.astype(np.float32)
    results: dict[int, Vector] = {}
    waiting = list(range(len(rows)))
    while waiting:
        number = waiting.pop(0)
        row = rows[number]
        partner = next((other for other in waiting if _are_pair(row, rows[other])), None)
        if partner is None:
            results[number] = _dot(row, values)
            continue
        waiting.remove(partner)
        same = row == rows[partner]
        even, odd = _dot(np.where(same, row, 0), values), _dot(np.where(same, 0, row), values)
        results[number], results[partner] = even + odd, even - odd
    return [results[number] for number in range(len(rows))]


def _are_pair(row: Matrix, other: Matrix) -> bool:
    differ, agree = (row != other) & (row != 0), (row == other) & (row != 0)
    return bool((np.abs(row) == np.abs(other)).all() and differ.any() and agree.any())


def _dot(coefficients: Matrix, values: Sequence[Vector]) -> Vector:
    total: Vector | None = None
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

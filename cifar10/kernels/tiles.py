"""Kernels that take feature maps apart into tiles, transformed on both sides, and put them together again.

Shapes: b images, square maps of H pixels and C channels, channels last: (b, H, H, C). Of the n x n inputs or products
of a tile, each position has a matrix of its own, (n n, b t t, C), so that the products of all tiles at one position are
one matrix product. `Tiling` has m, n and t.
"""

import functools
from collections.abc import Sequence

from cifar10.kernels.machine_code import Kernel
from cifar10.kernels.planes import Maps, Plane
from cifar10.kernels.program import LINE_BYTES, Integer, Lanes, Program, array, byte_array, lanes_for
from cifar10.kernels.tiling import Tiling
from cifar10.kernels.toom_cook import Matrix, matrices
from cifar10.kernels.transforms import transform

_MARGIN = 1  # pixels of zeros around a map
_AHEAD = 2  # tiles; reading jumps from position to position, which the processor does not foresee


@functools.cache
def input_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile features (b, H, H, C) -> windows, transformed by B."""
    matrix = matrices(tiling.side)[2]
    return _taking_apart(tiling, channels, matrix, start=-_MARGIN, unpooling=False)


@functools.cache
def result_gradient_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile the gradient of results -> tiles, transformed by A^T."""
    matrix = matrices(tiling.side)[0].T
    return _taking_apart(tiling, channels, matrix, start=0, unpooling=tiling.pooled)


@functools.cache
def result_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile products -> results, transformed by A: (b, H, H, C); pooled, (b, H//2, H//2, C) and which was largest."""
    matrix = matrices(tiling.side)[0]
    return _putting_together(tiling, channels, matrix, start=0, pooling=tiling.pooled)


@functools.cache
def input_gradient_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile the gradient of transformed windows -> of features, (b, H, H, C), transformed by B^T."""
    matrix = matrices(tiling.side)[2].T
    return _putting_together(tiling, channels, matrix, start=-_MARGIN, pooling=False)


# Arguments of all kernels: addresses of maps, of tiles, and of which result was the largest; and the floats between the
# tiles of one position and of the next, which are more than they take: rows a power of two apart share cache lines.


def _taking_apart(tiling: Tiling, channels: int, matrix: Matrix, start: int, unpooling: bool) -> Kernel:
    """Compile maps -> tiles. A tile's pixels begin `start` pixels from its first result."""
    width = matrix.shape[1]

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        plane = Plane(program, tiling, width, start)
        halfway = program.buffer(matrix.size)
        plane.clear()
        with program.loop(first, end) as image, program.loop(0, channels, program.num_lanes) as channel:
            if unpooling:
                pooled = Maps(arguments[0], tiling.size // 2, channels, image, channel)
                plane.unpool(pooled, byte_array(arguments[2]))
            else:
                plane.fill(Maps(arguments[0], tiling.size, channels, image, channel))
            with program.loop(0, tiling.count) as row, program.loop(0, tiling.count) as column:
                tile = _Tile(arguments, tiling, channels, image, channel, row, column)
                transform(program, matrix, plane.window(row, column), tile, halfway)

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(channels))


def _putting_together(tiling: Tiling, channels: int, matrix: Matrix, start: int, pooling: bool) -> Kernel:
    """Compile tiles -> maps; where the pixels of tiles overlap, they are added up."""
    width = matrix.shape[0]

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        plane = Plane(program, tiling, width, start)
        halfway = program.buffer(matrix.size)
        with program.loop(first, end) as image, program.loop(0, channels, program.num_lanes) as channel:
            plane.clear()
            with program.loop(0, tiling.count) as row, program.loop(0, tiling.count) as column:
                tile = _Tile(arguments, tiling, channels, image, channel, row, column)
                transform(program, matrix, tile, plane.window(row, column), halfway)
            if pooling:
                pooled = Maps(arguments[0], tiling.size // 2, channels, image, channel)
                plane.pool(pooled, byte_array(arguments[2]))
            else:
                plane.empty(Maps(arguments[0], tiling.size, channels, image, channel))

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(channels))


class _Tile:
    """Some channels of one transformed tile in memory."""

    def __init__(
        self,
        arguments: Sequence[Integer],
        tiling: Tiling,
        channels: int,
        image: Integer,
        channel: Integer,
        row: Integer,
        column: Integer,
    ) -> None:
        self._tiles, self._stride = array(arguments[1]), arguments[3]
        number = (image * tiling.count + row) * tiling.count + column
        self._first = number * channels + channel
        self._window = tiling.window
        self._channels = channels

    def load(self, row: Integer | int, column: Integer | int) -> Lanes:
        offset = self._offset(row, column)
        self._tiles.prefetch(offset + self._channels * _AHEAD)
        return self._tiles.load(offset)

    def store(self, value: Lanes, row: Integer | int, column: Integer | int) -> None:
        is_line = 4 * value.program.num_lanes == LINE_BYTES
        write = self._tiles.stream if is_line else self._tiles.store
        write(value, self._offset(row, column))

    def _offset(self, row: Integer | int, column: Integer | int) -> Integer:
        return self._first + self._stride * (self._stride.program.integer(row) * self._window + column)

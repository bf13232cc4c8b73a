"""Kernels that take feature maps apart into tiles, transformed on both sides, and put them together again.

Shapes: b images, square maps of H pixels and C channels, channels last: (b, H, H, C). A map's results are cut into
t x t tiles of m x m; each tile needs a window of n x n inputs, n = m + 2. Transformed tiles lie by position in the
window: (n n, b t t, C), so that the products of all tiles at one position are one matrix product.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cifar10.kernels.machine_code import (
    LINE_BYTES,
    Array,
    ByteArray,
    Integer,
    Kernel,
    Lanes,
    Program,
    array,
    byte_array,
)
from cifar10.kernels.toom_cook import LARGEST_TILE, TAPS, Matrix, matrices

_MARGIN = 1  # pixels of zeros around a map
_SMALLEST_TILE = 2
_AHEAD = 2  # tiles; reading jumps from position to position, which the processor does not foresee


@dataclass(frozen=True)
class Tiling:
    """How the results of a 3 x 3 convolution over a map are cut."""

    size: int
    """H, of inputs; and of results, of which the pooled ones are fewer."""
    pooled: bool
    """Whether results are pooled 2 x 2: only the largest of four is wanted, and of an odd row or column nothing."""

    @property
    def num_results(self) -> int:
        """Rows of results that are wanted."""
        return self.size // 2 * 2 if self.pooled else self.size

    @functools.cached_property
    def side(self) -> int:
        """m: the one with the fewest products, and of several such the smallest, since it rounds least."""
        return min(range(_SMALLEST_TILE, LARGEST_TILE + 1), key=lambda m: -(-self.num_results // m) * (m + TAPS - 1))

    @property
    def count(self) -> int:
        """t: tiles in a row."""
        return -(-self.num_results // self.side)

    @property
    def window(self) -> int:
        """n: inputs in a row of a tile."""
        return self.side + TAPS - 1

    @property
    def positions(self) -> int:
        """Products of one tile."""
        return self.window**2


@functools.cache
def input_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile features (b, H, H, C) -> windows, transformed by B."""
    transform = matrices(tiling.side)[2]
    return _taking_apart(tiling, channels, transform, start=-_MARGIN, unpooling=False)


@functools.cache
def result_gradient_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile the gradient of results -> tiles, transformed by A^T."""
    transform = matrices(tiling.side)[0].T
    return _taking_apart(tiling, channels, transform, start=0, unpooling=tiling.pooled)


@functools.cache
def result_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile products -> results, transformed by A: (b, H, H, C); pooled, (b, H//2, H//2, C) and which was largest."""
    transform = matrices(tiling.side)[0]
    return _putting_together(tiling, channels, transform, start=0, pooling=tiling.pooled)


@functools.cache
def input_gradient_kernel(tiling: Tiling, channels: int) -> Kernel:
    """Compile the gradient of transformed windows -> of features, (b, H, H, C), transformed by B^T."""
    transform = matrices(tiling.side)[2].T
    return _putting_together(tiling, channels, transform, start=-_MARGIN, pooling=False)


def lanes_for(channels: int) -> int:
    """Return how many channels to work on at once; 0 if their number fits none."""
    return next((lanes for lanes in (16, 8) if channels % lanes == 0), 0)


# Arguments of all kernels: addresses of maps, of tiles, and of which result was the largest; and the floats between the
# tiles of one position and of the next, which are more than they take: rows a power of two apart share cache lines.


def _taking_apart(tiling: Tiling, channels: int, transform: Matrix, start: int, unpooling: bool) -> Kernel:
    """Compile maps -> tiles. A tile's pixels begin `start` pixels from its first result."""
    width = transform.shape[1]

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        plane = _Plane(program, tiling, width, start)
        halfway = program.buffer(transform.size)
        plane.clear()
        with program.loop(first, end) as image, program.loop(0, channels, program.num_lanes) as channel:
            if unpooling:
                pooled = _Maps(arguments[0], tiling.size // 2, channels, image, channel)
                plane.unpool(pooled, byte_array(arguments[2]))
            else:
                plane.fill(_Maps(arguments[0], tiling.size, channels, image, channel))
            with program.loop(0, tiling.count) as row, program.loop(0, tiling.count) as column:
                tile = _Tile(arguments, tiling, channels, image, channel, row, column)
                _transform(program, transform, plane.window(row, column), tile, halfway)

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(channels))


def _putting_together(tiling: Tiling, channels: int, transform: Matrix, start: int, pooling: bool) -> Kernel:
    """Compile tiles -> maps; where the pixels of tiles overlap, they are added up."""
    width = transform.shape[0]

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        plane = _Plane(program, tiling, width, start)
        halfway = program.buffer(transform.size)
        with program.loop(first, end) as image, program.loop(0, channels, program.num_lanes) as channel:
            plane.clear()
            with program.loop(0, tiling.count) as row, program.loop(0, tiling.count) as column:
                tile = _Tile(arguments, tiling, channels, image, channel, row, column)
                _transform(program, transform, tile, plane.window(row, column), halfway)
            if pooling:
                pooled = _Maps(arguments[0], tiling.size // 2, channels, image, channel)
                plane.pool(pooled, byte_array(arguments[2]))
            else:
                plane.empty(_Maps(arguments[0], tiling.size, channels, image, channel))

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(channels))


class _Maps:
    """Some channels of one image's map in memory."""

    def __init__(self, argument: Integer, size: int, channels: int, image: Integer, channel: Integer) -> None:
        self.memory = array(argument)
        self.size = size
        self._channels = channels
        self._first = image * (size**2 * channels) + channel

    def offset(self, row: Integer, column: Integer) -> Integer:
        return self._first + (row * self.size + column) * self._channels


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


class _Plane:
    """Some channels of one image's map on the thread's own stack, with the margins that windows reach into.

    All tiles are cut alike there, so that one piece of code does for all.
    """

    def __init__(self, program: Program, tiling: Tiling, width: int, start: int) -> None:
        self.program = program
        self._tiling = tiling
        self._width = width
        self._start = start
        self.side = (tiling.count - 1) * tiling.side + width
        self.memory = program.buffer(self.side**2)

    def clear(self) -> None:
        with self.program.loop(0, self.side**2) as pixel:
            self.memory.store(self.program.constant(0.0), pixel * self.program.num_lanes)

    def fill(self, maps: _Maps) -> None:
        for place, offset in self._shared_pixels(maps):
            self.memory.store(maps.memory.load(offset), place)

    def empty(self, maps: _Maps) -> None:
        """Write what lies inside the map into it."""
        for place, offset in self._shared_pixels(maps):
            maps.memory.store(self.memory.load(place), offset)

    def window(self, row: Integer, column: Integer) -> "_Window":
        """Return the pixels of a tile."""
        return _Window(self, self._place(row * self._tiling.side, column * self._tiling.side))

    def pool(self, pooled: _Maps, places: ByteArray) -> None:
        """Write the largest of each 2 x 2 pixels, and which of the four it was."""
        program = self.program
        for corners, offset in self._squares(pooled):
            best, place = self.memory.load(corners[0]), program.whole(0)
            for number in range(1, 4):
                value = self.memory.load(corners[number])
                mask = value.exceeds(best)
                best = program.choose(mask, value, best)
                place = program.choose_whole(mask, program.whole(number), place)
            pooled.memory.store(best, offset)
            places.store(place, offset)

    def unpool(self, pooled: _Maps, places: ByteArray) -> None:
        """Give each pooled gradient to the pixel that was the largest, and zero to the other three."""
        program, zero = self.program, self.program.constant(0.0)
        for corners, offset in self._squares(pooled):
            gradient, place = pooled.memory.load(offset), places.load(offset)
            for number, corner in enumerate(corners):
                self.memory.store(program.choose(program.equals(place, number), gradient, zero), corner)

    def _place(self, row: Integer | int, column: Integer | int) -> Integer:
        return (self.program.integer(row) * self.side + column) * self.program.num_lanes

    def _shared_pixels(self, maps: _Maps) -> Iterator[tuple[Integer, Integer]]:
        """Loop over the map's pixels that are in the plane; yield where they are there, and their offset in the map."""
        last = min(maps.size, self.side + self._start)
        with self.program.loop(0, last) as row, self.program.loop(0, last) as column:
            yield self._place(row + -self._start, column + -self._start), maps.offset(row, column)

    def _squares(self, pooled: _Maps) -> Iterator[tuple[list[Integer], Integer]]:
        """Loop over pooling squares; yield where their four pixels are, and the offset of their pooled one."""
        with self.program.loop(0, pooled.size) as row, self.program.loop(0, pooled.size) as column:
            first = (row * 2, column * 2)
            corners = [self._place(first[0] + number // 2, first[1] + number % 2) for number in range(4)]
            yield corners, pooled.offset(row, column)


class _Window:
    """A tile's pixels in a plane; what is stored there is added to what other tiles have stored."""

    def __init__(self, plane: _Plane, first: Integer) -> None:
        self._plane = plane
        self._first = first

    def load(self, row: Integer | int, column: Integer | int) -> Lanes:
        return self._plane.memory.load(self._place(row, column))

    def store(self, value: Lanes, row: Integer | int, column: Integer | int) -> None:
        place = self._place(row, column)
        self._plane.memory.store(self._plane.memory.load(place) + value, place)

    def _place(self, row: Integer | int, column: Integer | int) -> Integer:
        program = self._plane.program
        return self._first + (program.integer(row) * self._plane.side + column) * program.num_lanes


def _transform(
    program: Program, matrix: Matrix, source: _Tile | _Window, target: _Tile | _Window, halfway: Array
) -> None:
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

"""Feature maps taken apart into tiles, transformed on both sides, and put together again.

Shapes: b images, square maps of H pixels and C channels, channels last: (b, H, H, C). Of the n x n inputs or products
of a tile, each position has a matrix of its own, (b t t, C), so that the products of all tiles at one position are one
matrix product. `Tiling` has m, n and t.
"""

from typing import NamedTuple

from cifar10.kernels.arrays import Array, array, buffer, byte_array
from cifar10.kernels.planes import Maps, Plane
from cifar10.kernels.products import Matrix
from cifar10.kernels.program import LINE_BYTES, Integer, Lanes, Program, lanes_for
from cifar10.kernels.tiling import Tiling
from cifar10.kernels.toom_cook import Matrix as Transform
from cifar10.kernels.transforms import transform

_AHEAD = 2  # tiles; reading jumps from position to position, which the processor does not foresee
_PADDING = 16  # floats between two positions' matrices: without it, their rows would share cache lines


class Block(NamedTuple):
    """The images that are worked on together: from number `first` up to before `end`."""

    tiling: Tiling
    first: Integer
    end: Integer

    @property
    def num_tiles(self) -> Integer:
        return (self.end - self.first) * self.tiling.count**2


class Tiles:
    """The transformed tiles of a block of images, in this thread's room.

    Args:
        program: Which has the room.
        tiling: How maps are cut.
        channels: C.
        num_images: The most a block has.
        beyond_cache: Whether this is more than the cache holds, and tiles are written past it.
    """

    def __init__(self, program: Program, tiling: Tiling, channels: int, num_images: int, beyond_cache: bool) -> None:
        self.tiling = tiling
        self.channels = channels
        self.beyond_cache = beyond_cache
        self.stride = num_images * tiling.count**2 * channels + _PADDING
        self.address = program.room(tiling.positions * self.stride)

    def at(self, position: Integer) -> Matrix:
        """Return one position of all tiles, (b t t, C)."""
        return Matrix(self.address, position * self.stride, row=self.channels, column=1)


class _Tile:
    """Some channels of one tile."""

    def __init__(self, numbers: Array, tiles: Tiles, number: Integer, channel: Integer) -> None:
        self._numbers = numbers
        self._tiles = tiles
        self._first = number * tiles.channels + channel

    def load(self, row: Integer | int, column: Integer | int) -> Lanes:
        place = self._place(row, column)
        self._numbers.prefetch(place + self._tiles.channels * _AHEAD)
        return self._numbers.load(place)

    def store(self, value: Lanes, row: Integer | int, column: Integer | int) -> None:
        is_line = 4 * value.program.num_lanes == LINE_BYTES
        write = self._numbers.stream if self._tiles.beyond_cache and is_line else self._numbers.store
        write(value, self._place(row, column))

    def _place(self, row: Integer | int, column: Integer | int) -> Integer:
        position = self._numbers.program.integer(row) * self._tiles.tiling.window + column
        return self._first + position * self._tiles.stride


def input_transform(
    program: Program,
    block: Block,
    maps: Integer,
    tiles: Tiles,
    matrix: Transform,
    start: int,
    places: Integer | None = None,
) -> None:
    """Write tiles = matrix (maps' windows) matrix^T.

    Args:
        program: Of any number of lanes.
        block: Images.
        maps: Address of (b, H, H, C); with `places`, of (b, H//2, H//2, C).
        tiles: Room for them.
        matrix: (n, width of a window).
        start: Pixels from a tile's first result to its window.
        places: Address of which of four pixels each pooled one was, in bytes. The other three are taken to be zero.
    """
    tiling, channels = tiles.tiling, tiles.channels
    program = program.with_lanes(lanes_for(channels))
    plane = Plane(program, tiling, matrix.shape[1], start)
    halfway = buffer(program, matrix.size)
    plane.clear()
    with program.loop(block.first, block.end) as image, program.loop(0, channels, program.num_lanes) as channel:
        if places is None:
            plane.fill(Maps(program, maps, tiling.size, channels, image, channel))
        else:
            pooled = Maps(program, maps, tiling.size // 2, channels, image, channel)
            plane.unpool(pooled, byte_array(places, program))
        with program.loop(0, tiling.count) as row, program.loop(0, tiling.count) as column:
            tile = _tile_of(program, block, tiles, image, row, column, channel)
            transform(program, matrix, plane.window(row, column), tile, halfway)


def output_transform(
    program: Program,
    block: Block,
    tiles: Tiles,
    maps: Integer,
    matrix: Transform,
    start: int,
    places: Integer | None = None,
) -> None:
    """Write maps = the sum of matrix (tiles) matrix^T, each at its window; with `places`, the largest of each four.

    Args:
        program: Of any number of lanes.
        block: Images.
        tiles: Of these images.
        maps: Address of (b, H, H, C); with `places`, of (b, H//2, H//2, C).
        matrix: (width of a window, n).
        start: Pixels from a tile's first result to its window.
        places: Address for which of four pixels was the largest, in bytes.
    """
    tiling, channels = tiles.tiling, tiles.channels
    program = program.with_lanes(lanes_for(channels))
    plane = Plane(program, tiling, matrix.shape[0], start)
    halfway = buffer(program, matrix.size)
    with program.loop(block.first, block.end) as image, program.loop(0, channels, program.num_lanes) as channel:
        plane.clear()
        with program.loop(0, tiling.count) as row, program.loop(0, tiling.count) as column:
            tile = _tile_of(program, block, tiles, image, row, column, channel)
            transform(program, matrix, tile, plane.window(row, column), halfway)
        if places is None:
            plane.empty(Maps(program, maps, tiling.size, channels, image, channel))
        else:
            pooled = Maps(program, maps, tiling.size // 2, channels, image, channel)
            plane.pool(pooled, byte_array(places, program))


def _tile_of(
    program: Program, block: Block, tiles: Tiles, image: Integer, row: Integer, column: Integer, channel: Integer
) -> _Tile:
    number = ((image - block.first) * tiles.tiling.count + row) * tiles.tiling.count + column
    return _Tile(array(tiles.address, program), tiles, number, channel)

"""Input and output transform of Winograd convolution: feature maps to transformed tiles, and back, pooled or not.

Shapes: b images, square feature maps of H pixels and C channels, channels last: (b, H, H, C). A transformed tile has
n x n positions; each position has its own matrix, (b t t, C), so that the products of all tiles at one position are one
matrix multiplication. `Tiling` has m, n and t.
"""

from typing import NamedTuple

from cifar10.kernels import halves
from cifar10.kernels.arrays import byte_array, float_array, stack_array
from cifar10.kernels.codegen import CACHE_LINE_BYTES, Integer, KernelBuilder, Vector, lanes_for
from cifar10.kernels.gemm import Format, Matrix, pair_rows
from cifar10.kernels.padded_maps import FeatureMap, PaddedMap
from cifar10.kernels.winograd import Matrix as Transform
from cifar10.kernels.winograd import Tiling, transform_tile

_PREFETCHED = 2  # tiles; the strided access from position to position defeats the hardware's prefetcher
_PADDING = 16  # floats between the matrices of two positions: without it, their rows would share cache sets


class ImageBlock(NamedTuple):
    """The images that a thread works on together: first .. end - 1."""

    tiling: Tiling
    first: Integer
    end: Integer

    @property
    def num_tiles(self) -> Integer:
        return (self.end - self.first) * self.tiling.num_tiles


class TransformedTiles:
    """The transformed tiles of a block of images, in the thread's workspace.

    They are factors of products; or products, float32, whose memory is the same.

    Args:
        builder: Allocates the memory.
        tiling: How feature maps are divided.
        channels: C.
        num_images: The most that a block has.
        exceeds_cache: Whether a block is larger than the cache, so that writing should bypass it.
        factors: How factors are stored.
        panel_width: For products that are summed over tiles: columns of a panel. 0: there are none.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        tiling: Tiling,
        channels: int,
        num_images: int,
        exceeds_cache: bool,
        factors: Format,
        panel_width: int,
    ) -> None:
        self.tiling = tiling
        self.channels = channels
        self.exceeds_cache = exceeds_cache
        self.factors = factors
        self.position_stride = num_images * tiling.num_tiles * channels + _PADDING
        self.address = builder.allocate(tiling.num_positions * self.position_stride)
        self._num_pairs, self._panel_width = -(-num_images * tiling.num_tiles // 2), panel_width
        needs_pairs = factors.depth > 1 and panel_width
        self._pairs = builder.allocate(self._num_pairs * channels) if needs_pairs else None

    def factor(self, position: Integer) -> Matrix:
        """Return one position of all tiles, words (b t t, C / depth)."""
        return self._matrix(position, self.channels // self.factors.depth)

    def factor_over_tiles(self, builder: KernelBuilder, position: Integer, num_tiles: Integer) -> Matrix:
        """Return the same for a product that is summed over tiles, (b t t / depth, C); valid until the next call."""
        if self._pairs is None:
            return self.factor(position)
        is_one_panel = self._panel_width == self.channels
        pairs = Matrix(self._pairs, builder.integer(0), self._panel_width, 1 if is_one_panel else self._num_pairs)
        pair_rows(builder, self.factor(position), pairs, (num_tiles, self.channels), self._panel_width)
        return pairs

    def product(self, position: Integer) -> Matrix:
        """Return one position of all tiles, float32 (b t t, C)."""
        return self._matrix(position, self.channels)

    def _matrix(self, position: Integer, row_words: int) -> Matrix:
        return Matrix(self.address, position * self.position_stride, row_stride=row_words, column_stride=1)


def input_transform(
    builder: KernelBuilder,
    block: ImageBlock,
    maps: Integer,
    tiles: TransformedTiles,
    matrix: Transform,
    start: int,
    indices: Integer | None = None,
    in_bfloat16: bool = False,
) -> None:
    """Write tiles = matrix (windows of maps) matrix^T.

    Args:
        builder: Of any number of lanes.
        block: Images.
        maps: Address of (b, H, H, C); with `indices`, of (b, H//2, H//2, C), which are unpooled first.
        tiles: Written.
        matrix: (n, width of a window).
        start: Pixels from a tile's first output to its window.
        indices: Address of the max-pooling indices, uint8, like `maps`: which of four pixels was the largest.
        in_bfloat16: Whether `maps` are bfloat16, and not float32.
    """
    tiling, channels = tiles.tiling, tiles.channels
    builder = builder.with_lanes(lanes_for(channels))
    padded = PaddedMap(builder, tiling, matrix.shape[1], start)
    intermediate = stack_array(builder, matrix.size)
    padded.clear()
    with builder.loop(block.first, block.end) as image, builder.loop(0, channels, builder.num_lanes) as channel:
        if indices is None:
            padded.copy_from(FeatureMap(builder, maps, tiling.size, channels, image, channel, in_bfloat16))
        else:
            pooled = FeatureMap(builder, maps, tiling.size // 2, channels, image, channel, in_bfloat16)
            padded.max_unpool(pooled, byte_array(builder, indices))
        with builder.loop(0, tiling.tiles_per_side) as row, builder.loop(0, tiling.tiles_per_side) as column:
            tile = _Tile(builder, block, tiles, (image, row, column, channel))
            transform_tile(builder, matrix, padded.window(row, column), tile, intermediate)


def output_transform(
    builder: KernelBuilder,
    block: ImageBlock,
    tiles: TransformedTiles,
    maps: Integer,
    matrix: Transform,
    start: int,
    indices: Integer | None = None,
    in_bfloat16: bool = False,
) -> None:
    """Write maps = the sum of matrix (tiles) matrix^T, each in its window; with `indices`, max-pooled 2 x 2.

    Args:
        builder: Of any number of lanes.
        block: Images.
        tiles: Of these images.
        maps: Address of (b, H, H, C), written; with `indices`, of (b, H//2, H//2, C).
        matrix: (width of a window, n).
        start: Pixels from a tile's first output to its window.
        indices: Address of the max-pooling indices, uint8, like `maps`; written.
        in_bfloat16: Whether `maps` are bfloat16, and not float32.
    """
    tiling, channels = tiles.tiling, tiles.channels
    builder = builder.with_lanes(lanes_for(channels))
    padded = PaddedMap(builder, tiling, matrix.shape[0], start)
    intermediate = stack_array(builder, matrix.size)
    with builder.loop(block.first, block.end) as image, builder.loop(0, channels, builder.num_lanes) as channel:
        padded.clear()
        with builder.loop(0, tiling.tiles_per_side) as row, builder.loop(0, tiling.tiles_per_side) as column:
            tile = _Tile(builder, block, tiles, (image, row, column, channel))
            transform_tile(builder, matrix, tile, padded.window(row, column), intermediate)
        if indices is None:
            padded.copy_to(FeatureMap(builder, maps, tiling.size, channels, image, channel, in_bfloat16))
        else:
            pooled = FeatureMap(builder, maps, tiling.size // 2, channels, image, channel, in_bfloat16)
            padded.max_pool(pooled, byte_array(builder, indices))


class _Tile:
    """Some channels of one transformed tile, at (image, row, column, channel)."""

    def __init__(
        self,
        builder: KernelBuilder,
        block: ImageBlock,
        tiles: TransformedTiles,
        place: tuple[Integer, Integer, Integer, Integer],
    ) -> None:
        image, row, column, channel = place
        per_side = tiles.tiling.tiles_per_side
        number = ((image - block.first) * per_side + row) * per_side + column
        self._builder = builder
        self._data = float_array(builder, tiles.address)
        self._tiles = tiles
        self._number, self._channel = number, channel

    def load(self, row: Integer | int, column: Integer | int) -> Vector:
        """Return products."""
        offset = self._position(row, column) + self._number * self._tiles.channels + self._channel
        self._data.prefetch(offset + self._tiles.channels * _PREFETCHED)
        return self._data.load(offset)

    def store(self, value: Vector, row: Integer | int, column: Integer | int) -> None:
        """Write factors."""
        depth, address = self._tiles.factors.depth, self._tiles.address
        offset = self._position(row, column) * depth + self._number * self._tiles.channels + self._channel
        if depth > 1:
            halves.store(self._builder, value, address + offset * halves.BYTES)
        elif self._tiles.exceeds_cache and 4 * value.builder.num_lanes == CACHE_LINE_BYTES:
            self._data.store_nontemporal(value, offset)
        else:
            self._data.store(value, offset)

    def _position(self, row: Integer | int, column: Integer | int) -> Integer:
        return (self._builder.integer(row) * self._tiles.tiling.input_tile + column) * self._tiles.position_stride

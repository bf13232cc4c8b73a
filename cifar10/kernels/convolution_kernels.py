"""The kernels of 3 x 3 convolution by Winograd's algorithm, forward and backward.

Each thread transforms the tiles of a few images, multiplies all tiles at one position with that position's filters, and
transforms the products back, pooling on the way: the output before pooling is never written. Unless there are many
channels, all of this stays in the core's own cache. The backward pass is the exact adjoint; it transforms the input
again instead of keeping its tiles.

Shapes: B images, C channels in, K out, feature maps of H x H, channels last; packed filters (n n, K/w, C, w).
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.gemm import BFLOAT16, FLOAT32, Format, multiply, packed_matrix, panel_width, register_rows
from cifar10.kernels.jit import Kernel
from cifar10.kernels.tile_transforms import ImageBlock, TransformedTiles, input_transform, output_transform
from cifar10.kernels.winograd import LARGEST_TILE, Tiling, transform_matrices

# Few tiles are faster, unless they have very many channels. Measured on two cores that have 1 MB each, and 32 or 36 MB
# together.
_FEW_TILES, _MANY_TILES = 48, 96
_MAX_CACHED_BYTES = 5.5 * 2**20  # of few tiles
_MIN_REGISTER_ROWS = 4
_LARGEST_BFLOAT16_TILE = 6  # larger ones amplify the rounding of factors three times as much
_WORTHWHILE_PRODUCTS = 0.75  # of those with tiles of that size: then they are used all the same
_PADDING = 1  # pixels of zeros around a feature map


@dataclass(frozen=True)
class ConvolutionShape:
    """What a kernel is compiled for."""

    size: int
    """Height and width of the input."""
    channels_in: int
    channels_out: int
    pooled: bool
    in_bfloat16: bool
    """Whether maps and factors of products are bfloat16, and not float32."""

    @functools.cached_property
    def tiling(self) -> Tiling:
        of_any_size, of_moderate_size = (
            Tiling(self.size, self.pooled, largest) for largest in (LARGEST_TILE, _LARGEST_BFLOAT16_TILE)
        )
        is_worthwhile = of_any_size.num_products <= _WORTHWHILE_PRODUCTS * of_moderate_size.num_products
        return of_moderate_size if self.in_bfloat16 and not is_worthwhile else of_any_size

    @property
    def factors(self) -> Format:
        return BFLOAT16 if self.in_bfloat16 else FLOAT32

    @property
    def filter_numbers(self) -> int:
        """Numbers of the transformed filters."""
        return self.tiling.num_positions * self.channels_in * self.channels_out


class _BlockedTiles:
    """Workspace for the tiles of as many images as a thread works on together.

    Args:
        builder: Allocates the memory.
        shape: Of the convolution.
        over_tiles: Whether products are summed over tiles, too.
    """

    def __init__(self, builder: KernelBuilder, shape: ConvolutionShape, over_tiles: bool) -> None:
        self._builder = builder
        self._tiling = shape.tiling
        self._length = _block_images(shape)
        exceeds_cache = _exceeds_cache(shape)
        self.inputs, self.outputs = (
            TransformedTiles(
                builder, shape.tiling, channels, self._length, exceeds_cache, shape.factors, width if over_tiles else 0
            )
            for channels, width in (
                (shape.channels_in, shape.channels_in),
                (shape.channels_out, panel_width(shape.channels_out)),
            )
        )
        self.register_rows = register_rows(self._length * shape.tiling.num_tiles)

    @contextmanager
    def blocks(self, first: Integer, end: Integer) -> Iterator[ImageBlock]:
        """Repeat the instructions written inside `with` for each block of the images first .. end - 1."""
        num_blocks = (end - first + (self._length - 1)) // self._length
        length = self._builder.quotient(end - first + num_blocks - 1, num_blocks)  # blocks of about equal length
        with self._builder.loop(first, end, length) as start:
            yield ImageBlock(self._tiling, start, self._builder.minimum(start + length, end))


def _block_images(shape: ConvolutionShape) -> int:
    """Return the images of a block at most."""
    return _block_length(shape.tiling.num_tiles, _MANY_TILES if _exceeds_cache(shape) else _FEW_TILES)


def _block_length(tiles_per_image: int, min_tiles: int) -> int:
    """Return the images of a block: at least `min_tiles` tiles, in a number that fills the registers well."""
    lengths = range(-(-min_tiles // tiles_per_image), 2 * min_tiles)
    return next(length for length in lengths if register_rows(length * tiles_per_image) >= _MIN_REGISTER_ROWS)


def _exceeds_cache(shape: ConvolutionShape) -> bool:
    """Whether few tiles with all their channels do not stay in a core's cache."""
    channels = shape.channels_in + shape.channels_out
    return _FEW_TILES * 4 // shape.factors.depth * shape.tiling.num_positions * channels > _MAX_CACHED_BYTES


@functools.cache
def forward_kernel(shape: ConvolutionShape) -> Kernel:
    """Compile the forward pass. Arguments: features, filters, results, max-pooling indices (if pooled)."""
    output_matrix, _, input_matrix = transform_matrices(shape.tiling.tile)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, filters, results, indices = arguments
        tiles = _BlockedTiles(builder, shape, over_tiles=False)
        num_words = shape.channels_in // shape.factors.depth
        with tiles.blocks(first, end) as block:
            input_transform(
                builder, block, features, tiles.inputs, input_matrix, -_PADDING, in_bfloat16=shape.in_bfloat16
            )
            with builder.loop(0, shape.tiling.num_positions) as position:
                multiply(
                    builder,
                    tiles.inputs.factor(position),
                    packed_matrix(filters, position, num_words, shape.channels_out),
                    tiles.outputs.product(position),
                    (block.num_tiles, num_words, shape.channels_out),
                    tiles.register_rows,
                    shape.factors,
                )
            pooling = indices if shape.pooled else None
            output_transform(
                builder, block, tiles.outputs, results, output_matrix, 0, pooling, in_bfloat16=shape.in_bfloat16
            )

    return Kernel(emit, num_arguments=4, block_items=_block_images(shape))


@functools.cache
def backward_kernel(shape: ConvolutionShape, for_features: bool) -> Kernel:
    """Compile the backward pass.

    Arguments: features, gradient of the results, max-pooling indices (if pooled), gradient of the filters for each
    share; with `for_features` also the filters with C and K exchanged, and the gradient of the features.
    """
    output_matrix, _, input_matrix = transform_matrices(shape.tiling.tile)
    channels_in, channels_out, depth = shape.channels_in, shape.channels_out, shape.factors.depth

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, gradient, indices, grad_filters, *further = arguments
        grad_filters = grad_filters + builder.share * (4 * shape.filter_numbers)
        tiles = _BlockedTiles(builder, shape, over_tiles=True)
        with tiles.blocks(first, end) as block:
            input_transform(
                builder, block, features, tiles.inputs, input_matrix, -_PADDING, in_bfloat16=shape.in_bfloat16
            )
            pooling = indices if shape.pooled else None
            input_transform(
                builder, block, gradient, tiles.outputs, output_matrix.T, 0, pooling, in_bfloat16=shape.in_bfloat16
            )
            with builder.loop(0, shape.tiling.num_positions) as position:
                multiply(
                    builder,
                    tiles.inputs.factor_over_tiles(builder, position, block.num_tiles).T,
                    tiles.outputs.factor_over_tiles(builder, position, block.num_tiles),
                    packed_matrix(grad_filters, position, channels_in, channels_out),
                    (channels_in, (block.num_tiles + (depth - 1)) // depth, channels_out),
                    register_rows(channels_in),
                    shape.factors,
                    accumulate=True,
                )
                if for_features:
                    multiply(
                        builder,
                        tiles.outputs.factor(position),
                        packed_matrix(further[0], position, channels_out // depth, channels_in),
                        tiles.inputs.product(position),
                        (block.num_tiles, channels_out // depth, channels_in),
                        tiles.register_rows,
                        shape.factors,
                    )
            if for_features:
                output_transform(
                    builder, block, tiles.inputs, further[1], input_matrix.T, -_PADDING, in_bfloat16=shape.in_bfloat16
                )

    return Kernel(emit, num_arguments=6 if for_features else 4)

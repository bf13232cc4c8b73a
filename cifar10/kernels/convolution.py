"""3 x 3 convolution, with or without max-pooling, by Winograd's algorithm in float32 on a CPU.

Each thread transforms the tiles of a few images, multiplies all tiles at one position with that position's filters, and
transforms the products back, pooling on the way: the output before pooling is never written. Unless there are many
channels, all of this stays in the core's own cache. The backward pass is the exact adjoint; it transforms the input
again instead of keeping its tiles.

Shapes: B images, C channels in, K out, feature maps of H x H, channels last; packed filters (n n, K/w, C, w).
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cifar10.kernels.codegen import Integer, KernelBuilder, lanes_for
from cifar10.kernels.gemm import multiply, packed_matrix, panel_width, register_rows
from cifar10.kernels.jit import MIN_IMAGES, Kernel
from cifar10.kernels.tile_transforms import ImageBlock, TransformedTiles, input_transform, output_transform
from cifar10.kernels.winograd import TAPS, Tiling, transform_matrices
from cifar10.networks.layers import Conv3x3, ConvPool

# Few tiles stay in the cache, if their channels are not too many; many multiply faster. Measured on two cores that have
# 1 MB each, and 36 MB together.
_FEW_TILES, _MANY_TILES = 24, 96
_MAX_CACHED_BYTES = 2.75 * 2**20  # of few tiles
_MIN_REGISTER_ROWS = 4
_MAX_SUM_BYTES, _MIN_SHARE_IMAGES, _MAX_SHARES_PER_THREAD = 96 * 2**20, 128, 8
_MAX_GRADIENT_BYTES = 2**30  # of transformed filters; each share of the images has sums of its own
_PADDING = 1  # pixels of zeros around a feature map
_MIN_SIZE, _MAX_SIZE = 2, 64  # pixels; one channel vector of the largest map must fit on a thread's stack


class WinogradConv3x3(Conv3x3):
    """`Conv3x3` by Winograd's algorithm, where it is supported."""

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H, W)
        if not is_supported(features, self.weight):
            return super().forward(features)
        results: Tensor = _WinogradConvolution.apply(features, self.weight, False)
        return results


class WinogradConvPool(ConvPool):
    """`ConvPool` by Winograd's algorithm in one pass, where it is supported."""

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H//2, W//2)
        if not is_supported(features, self.weight):
            return super().forward(features)
        results: Tensor = _WinogradConvolution.apply(features, self.weight, True)
        return results


def is_supported(features: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for this convolution, and it is faster than PyTorch's."""
    return (
        len(features) >= MIN_IMAGES
        and features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and _MIN_SIZE <= features.shape[2] == features.shape[3] <= _MAX_SIZE
        and features.is_contiguous(memory_format=torch.channels_last)
        and lanes_for(weight.shape[0]) > 0
        and lanes_for(weight.shape[1]) > 0
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() * _filter_bytes(features.shape[2], weight) <= _MAX_GRADIENT_BYTES
    )


def _filter_bytes(size: int, weight: Tensor) -> int:
    """Return the bytes of the transformed filters; about the same whether pooled or not."""
    return 4 * Tiling(size, pooled=False).num_positions * weight.shape[0] * weight.shape[1]


class _WinogradConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, pooled: bool) -> Tensor:  # type: ignore[no-untyped-def]
        tiling = Tiling(features.shape[2], pooled)
        channels_out, channels_in = weight.shape[:2]
        size = tiling.output_size // 2 if pooled else tiling.size
        results = _empty_maps(features, channels_out, size)
        indices = _empty_maps(features, channels_out, size, torch.uint8) if pooled else results
        filters = _transform_filters(weight.detach().permute(2, 3, 1, 0), tiling)
        _forward_kernel(tiling, channels_in, channels_out)(len(features), features, filters, results, indices)
        ctx.save_for_backward(features, weight, indices if pooled else None)
        ctx.tiling = tiling
        return results

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[no-untyped-def]
        features, weight, indices = ctx.saved_tensors
        channels_out, channels_in = weight.shape[:2]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        indices = gradient if indices is None else indices
        num_shares = _num_shares(len(features), 4 * ctx.tiling.num_positions * channels_in * channels_out)
        grad_filters = torch.zeros(num_shares, ctx.tiling.num_positions, channels_in * channels_out)
        arguments = [features, gradient, indices, grad_filters]
        grad_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        if grad_features is not None:
            arguments += [_transform_filters(weight.permute(2, 3, 0, 1), ctx.tiling), grad_features]
        kernel = _backward_kernel(ctx.tiling, channels_in, channels_out, grad_features is not None)
        kernel(len(features), *arguments, num_shares=num_shares)
        grad_weight = _transform_gradient(grad_filters.sum(dim=0), channels_in, channels_out, ctx.tiling)
        return grad_features, grad_weight, None


def _num_shares(num_images: int, filter_bytes: int) -> int:
    """Return into how many shares the images of a backward pass are divided, each with sums of its own.

    A multiple of the number of threads. More shares are divided more evenly among threads that are interrupted, but all
    sums have to be cleared and added up.
    """
    threads = torch.get_num_threads()
    most = min(_MAX_SUM_BYTES // (threads * filter_bytes), num_images // (threads * _MIN_SHARE_IMAGES))
    return threads * max(1, min(most, _MAX_SHARES_PER_THREAD))


class _BlockedTiles:
    """Workspace for the tiles of as many images as a thread works on together.

    Args:
        builder: Allocates the memory.
        tiling: How feature maps are divided.
        channels_in: C.
        channels_out: K.
    """

    def __init__(self, builder: KernelBuilder, tiling: Tiling, channels_in: int, channels_out: int) -> None:
        self._builder = builder
        self._tiling = tiling
        exceeds_cache = _exceeds_cache(tiling, channels_in, channels_out)
        self._length = _block_images(tiling, channels_in, channels_out)
        self.inputs, self.outputs = (
            TransformedTiles(builder, tiling, channels, self._length, exceeds_cache)
            for channels in (channels_in, channels_out)
        )
        self.register_rows = register_rows(self._length * tiling.num_tiles)

    @contextmanager
    def blocks(self, first: Integer, end: Integer) -> Iterator[ImageBlock]:
        """Repeat the instructions written inside `with` for each block of the images first .. end - 1."""
        num_blocks = (end - first + (self._length - 1)) // self._length
        length = self._builder.quotient(end - first + num_blocks - 1, num_blocks)  # blocks of about equal length
        with self._builder.loop(first, end, length) as start:
            yield ImageBlock(self._tiling, start, self._builder.minimum(start + length, end))


def _block_images(tiling: Tiling, channels_in: int, channels_out: int) -> int:
    """Return the images of a block at most."""
    exceeds_cache = _exceeds_cache(tiling, channels_in, channels_out)
    return _block_length(tiling.num_tiles, _MANY_TILES if exceeds_cache else _FEW_TILES)


def _block_length(tiles_per_image: int, min_tiles: int) -> int:
    """Return the images of a block: at least `min_tiles` tiles, in a number that fills the registers well."""
    lengths = range(-(-min_tiles // tiles_per_image), 2 * min_tiles)
    return next(length for length in lengths if register_rows(length * tiles_per_image) >= _MIN_REGISTER_ROWS)


def _exceeds_cache(tiling: Tiling, channels_in: int, channels_out: int) -> bool:
    """Whether few tiles with all their channels do not stay in a core's cache."""
    return _FEW_TILES * 4 * tiling.num_positions * (channels_in + channels_out) > _MAX_CACHED_BYTES


@functools.cache
def _forward_kernel(tiling: Tiling, channels_in: int, channels_out: int) -> Kernel:
    """Compile the forward pass. Arguments: features, filters, results, max-pooling indices (if pooled)."""
    output_matrix, _, input_matrix = transform_matrices(tiling.tile)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, filters, results, indices = arguments
        tiles = _BlockedTiles(builder, tiling, channels_in, channels_out)
        with tiles.blocks(first, end) as block:
            input_transform(builder, block, features, tiles.inputs, input_matrix, -_PADDING)
            with builder.loop(0, tiling.num_positions) as position:
                multiply(
                    builder,
                    tiles.inputs.at(position),
                    packed_matrix(filters, position, channels_in, channels_out),
                    tiles.outputs.at(position),
                    (block.num_tiles, channels_in, channels_out),
                    tiles.register_rows,
                )
            pooling = indices if tiling.pooled else None
            output_transform(builder, block, tiles.outputs, results, output_matrix, 0, pooling)

    return Kernel(emit, num_arguments=4, block_items=_block_images(tiling, channels_in, channels_out))


@functools.cache
def _backward_kernel(tiling: Tiling, channels_in: int, channels_out: int, for_features: bool) -> Kernel:
    """Compile the backward pass.

    Arguments: features, gradient of the results, max-pooling indices (if pooled), gradient of the filters for each
    share; with `for_features` also the filters with C and K exchanged, and the gradient of the features.
    """
    output_matrix, _, input_matrix = transform_matrices(tiling.tile)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, gradient, indices, grad_filters, *further = arguments
        grad_filters = grad_filters + builder.share * (4 * tiling.num_positions * channels_in * channels_out)
        tiles = _BlockedTiles(builder, tiling, channels_in, channels_out)
        with tiles.blocks(first, end) as block:
            input_transform(builder, block, features, tiles.inputs, input_matrix, -_PADDING)
            pooling = indices if tiling.pooled else None
            input_transform(builder, block, gradient, tiles.outputs, output_matrix.T, 0, pooling)
            with builder.loop(0, tiling.num_positions) as position:
                multiply(
                    builder,
                    tiles.inputs.at(position).T,
                    tiles.outputs.at(position),
                    packed_matrix(grad_filters, position, channels_in, channels_out),
                    (channels_in, block.num_tiles, channels_out),
                    register_rows(channels_in),
                    accumulate=True,
                )
                if for_features:
                    multiply(
                        builder,
                        tiles.outputs.at(position),
                        packed_matrix(further[0], position, channels_out, channels_in),
                        tiles.inputs.at(position),
                        (block.num_tiles, channels_out, channels_in),
                        tiles.register_rows,
                    )
            if for_features:
                output_transform(builder, block, tiles.inputs, further[1], input_matrix.T, -_PADDING)

    return Kernel(emit, num_arguments=6 if for_features else 4)


def _transform_filters(taps: Tensor, tiling: Tiling) -> Tensor:  # (3, 3, rows, columns) -> (n n, columns / w, rows, w)
    """Return the filters of each position, packed."""
    rows, columns = taps.shape[2:]
    taps = taps.reshape(TAPS**2, rows, columns // (width := panel_width(columns)), width).transpose(1, 2)
    return _filter_transform(tiling) @ taps.reshape(TAPS**2, -1)


def _transform_gradient(gradient: Tensor, channels_in: int, channels_out: int, tiling: Tiling) -> Tensor:
    """Return the gradient of the weight, (K, C, 3, 3), from that of the packed filters, (n n, K / w * C * w)."""
    taps = (_filter_transform(tiling).T @ gradient).view(TAPS, TAPS, -1, channels_in, panel_width(channels_out))
    return taps.permute(2, 4, 3, 0, 1).reshape(channels_out, channels_in, TAPS, TAPS)


@functools.cache
def _filter_transform(tiling: Tiling) -> Tensor:
    """Return G from both sides as one matrix, (n n, 9)."""
    transform = torch.from_numpy(transform_matrices(tiling.tile)[1])
    return torch.kron(transform, transform).float()


def _empty_maps(features: Tensor, channels: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (len(features), channels, size, size)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)

"""3 x 3 convolution, pooled or not, by Toom-Cook: a quarter of the products, in float32, on a CPU.

Each thread takes a few images at a time apart into tiles, multiplies all tiles of one position by that position's
filters, and puts the products together, pooled on the way where that is wanted: what pooling throws away is never
written. Where channels are not too many, all of this happens in the core's own cache. The backward pass is the same the
other way round, exactly the adjoint; it takes the features apart once more instead of keeping their tiles.

Shapes: B images, C channels in, K out, maps of H x H, channels last; filters in panels of w columns, (n n, K/w, C, w).
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifar10.kernels.machine_code import LEAST_IMAGES, Kernel, are_usable
from cifar10.kernels.products import in_panels, multiply, panel_width, rows_at_once
from cifar10.kernels.program import Integer, Program, lanes_for
from cifar10.kernels.tiles import Block, Tiles, input_transform, output_transform
from cifar10.kernels.tiling import Tiling
from cifar10.kernels.toom_cook import TAPS, matrices

# Few tiles stay in the cache, if their channels are not too many; many make better products. Measured on two cores that
# have 1 MB each, and 36 together.
_FEW_TILES, _MANY_TILES = 24, 96
_MOST_BYTES = 2.75 * 2**20  # of few tiles
_LEAST_AT_ONCE = 4  # tiles multiplied together
_MOST_GRADIENT_BYTES = 2**30  # of filters: each thread adds up its own
_MARGIN = 1  # pixels of zeros around a map
_SMALLEST_MAP, _LARGEST_MAP = 2, 64  # pixels; a plane of the largest must fit on a thread's stack


class Convolution3x3(nn.Conv2d):
    """A 3 x 3 convolution with a margin of zeros, without stride and bias; pooled, the largest of each 2 x 2 results.

    Where it can be done here it is; else the library does the same.
    """

    def __init__(self, channels_in: int, channels_out: int, pooled: bool = False) -> None:
        super().__init__(channels_in, channels_out, kernel_size=TAPS, padding=TAPS // 2, bias=False)
        self.pooled = pooled

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H, W); pooled, (B, K, H//2, W//2)
        if suits(features, self.weight):
            results: Tensor = _ToomCook.apply(features, self.weight, self.pooled)
            return results
        results = super().forward(features)
        return functional.max_pool2d(results, 2) if self.pooled else results


def suits(features: Tensor, weight: Tensor) -> bool:
    """Return whether these can be convolved here, and faster than by the library."""
    return (
        len(features) >= LEAST_IMAGES
        and features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and _SMALLEST_MAP <= features.shape[2] == features.shape[3] <= _LARGEST_MAP
        and features.is_contiguous(memory_format=torch.channels_last)
        and lanes_for(weight.shape[0]) > 0
        and lanes_for(weight.shape[1]) > 0
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() * _bytes_of_filters(features.shape[2], weight) <= _MOST_GRADIENT_BYTES
        and are_usable()
    )


def _bytes_of_filters(size: int, weight: Tensor) -> int:
    """Return what a tile's filters take; about the same whether pooled or not."""
    return 4 * Tiling(size, pooled=False).positions * weight.shape[0] * weight.shape[1]


class _ToomCook(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, pooled: bool) -> Tensor:  # type: ignore[no-untyped-def]
        tiling = Tiling(features.shape[2], pooled)
        channels_out, channels_in = weight.shape[:2]
        size = tiling.num_results // 2 if pooled else tiling.size
        results = _empty_maps(features, channels_out, size)
        places = _empty_maps(features, channels_out, size, torch.uint8) if pooled else results
        filters = _transform(weight.detach().permute(2, 3, 1, 0), tiling)
        _forward_kernel(tiling, channels_in, channels_out)(len(features), features, filters, results, places)
        ctx.save_for_backward(features, weight, places if pooled else None)
        ctx.tiling = tiling
        return results

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[no-untyped-def]
        features, weight, places = ctx.saved_tensors
        channels_out, channels_in = weight.shape[:2]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        places = gradient if places is None else places
        of_filters = torch.zeros(torch.get_num_threads(), ctx.tiling.positions, channels_in * channels_out)
        arguments = [features, gradient, places, of_filters]
        of_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        if of_features is not None:
            arguments += [_transform(weight.permute(2, 3, 0, 1), ctx.tiling), of_features]
        kernel = _backward_kernel(ctx.tiling, channels_in, channels_out, of_features is not None)
        kernel(len(features), *arguments)
        return of_features, _transform_back(of_filters.sum(dim=0), channels_in, channels_out, ctx.tiling), None


class _Blocks:
    """The images that a thread works on together, and room for their tiles.

    Args:
        program: Which has the room.
        tiling: How maps are cut.
        channels_in: C.
        channels_out: K.
    """

    def __init__(self, program: Program, tiling: Tiling, channels_in: int, channels_out: int) -> None:
        self._program = program
        self._tiling = tiling
        bytes_a_tile = 4 * tiling.positions * (channels_in + channels_out)
        is_large = _FEW_TILES * bytes_a_tile > _MOST_BYTES
        self._length = _block_length(tiling.count**2, _MANY_TILES if is_large else _FEW_TILES)
        self.windows, self.products = (
            Tiles(program, tiling, channels, self._length, is_large) for channels in (channels_in, channels_out)
        )
        self.at_once = rows_at_once(self._length * tiling.count**2)
        """Tiles of a block that are multiplied together."""

    @contextmanager
    def each(self, first: Integer, end: Integer) -> Iterator[Block]:
        """Repeat what is written inside `with` for block after block of the images from `first` up to before `end`."""
        with self._program.loop(first, end, self._length) as start:
            yield Block(self._tiling, start, self._program.least(start + self._length, end))


def _block_length(tiles_an_image: int, least_tiles: int) -> int:
    """Return the number of images that have at least so many tiles, and a number of tiles that multiplies well."""
    lengths = range(-(-least_tiles // tiles_an_image), 2 * least_tiles)
    return next(length for length in lengths if rows_at_once(length * tiles_an_image) >= _LEAST_AT_ONCE)


@functools.cache
def _forward_kernel(tiling: Tiling, channels_in: int, channels_out: int) -> Kernel:
    """Compile (features, filters, results, places): pooled, places say which of four pixels was the largest."""
    matrix_of_results, _, matrix_of_inputs = matrices(tiling.side)

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, filters, results, places = arguments
        blocks = _Blocks(program, tiling, channels_in, channels_out)
        with blocks.each(first, end) as block:
            input_transform(program, block, features, blocks.windows, matrix_of_inputs, -_MARGIN)
            with program.loop(0, tiling.positions) as position:
                multiply(
                    program,
                    blocks.windows.at(position),
                    in_panels(filters, position, channels_in, channels_out),
                    blocks.products.at(position),
                    (block.num_tiles, channels_in, channels_out),
                    blocks.at_once,
                )
            chosen = places if tiling.pooled else None
            output_transform(program, block, blocks.products, results, matrix_of_results, 0, chosen)

    return Kernel(emit, num_arguments=4)


@functools.cache
def _backward_kernel(tiling: Tiling, channels_in: int, channels_out: int, features_too: bool) -> Kernel:
    """Compile (features, gradient of results, places, gradients of filters), the last of each thread one.

    With `features_too` also (filters the other way round, gradient of features).
    """
    matrix_of_results, _, matrix_of_inputs = matrices(tiling.side)

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, gradient, places, of_filters, *of_features = arguments
        of_filters = of_filters + program.thread * (4 * tiling.positions * channels_in * channels_out)
        blocks = _Blocks(program, tiling, channels_in, channels_out)
        with blocks.each(first, end) as block:
            input_transform(program, block, features, blocks.windows, matrix_of_inputs, -_MARGIN)
            chosen = places if tiling.pooled else None
            input_transform(program, block, gradient, blocks.products, matrix_of_results.T, 0, chosen)
            with program.loop(0, tiling.positions) as position:
                multiply(
                    program,
                    blocks.windows.at(position).T,
                    blocks.products.at(position),
                    in_panels(of_filters, position, channels_in, channels_out),
                    (channels_in, block.num_tiles, channels_out),
                    rows_at_once(channels_in),
                    add=True,
                )
                if features_too:
                    multiply(
                        program,
                        blocks.products.at(position),
                        in_panels(of_features[0], position, channels_out, channels_in),
                        blocks.windows.at(position),
                        (block.num_tiles, channels_out, channels_in),
                        blocks.at_once,
                    )
            if features_too:
                output_transform(program, block, blocks.windows, of_features[1], matrix_of_inputs.T, -_MARGIN)

    return Kernel(emit, num_arguments=6 if features_too else 4)


def _transform(taps: Tensor, tiling: Tiling) -> Tensor:  # (3, 3, rows, columns) -> (n n, columns / w, rows, w)
    """Return the filters of each position, in panels."""
    rows, columns = taps.shape[2:]
    taps = taps.reshape(TAPS**2, rows, columns // (width := panel_width(columns)), width).transpose(1, 2)
    return _both_sides(tiling) @ taps.reshape(TAPS**2, -1)


def _transform_back(gradient: Tensor, channels_in: int, channels_out: int, tiling: Tiling) -> Tensor:
    """Return the gradient of the weight, (K, C, 3, 3), given that of the filters, (n n, K / w * C * w)."""
    taps = (_both_sides(tiling).T @ gradient).view(TAPS, TAPS, -1, channels_in, panel_width(channels_out))
    return taps.permute(2, 4, 3, 0, 1).reshape(channels_out, channels_in, TAPS, TAPS)


@functools.cache
def _both_sides(tiling: Tiling) -> Tensor:
    """Return G from both sides as one matrix, (n n, 9)."""
    transform = torch.from_numpy(matrices(tiling.side)[1])
    return torch.kron(transform, transform).float()


def _empty_maps(features: Tensor, channels: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (len(features), channels, size, size)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)

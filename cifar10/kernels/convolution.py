"""3 x 3 convolution, pooled or not, by Toom-Cook: a quarter of the products, in float32, on a CPU.

Each block of images is taken apart into tiles, all tiles of one position are multiplied by that position's filters (a
matrix product of the library), and the products are put together, pooled on the way where that is wanted: what pooling
throws away is never written. A block is small enough to stay in the cache between these steps. The backward pass is the
same the other way round, exactly the adjoint; it takes the inputs apart once more instead of keeping them.

Shapes: b images, C channels in, K out, maps of H x H, channels last.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cifar10.kernels.machine_code import LEAST_IMAGES, are_usable
from cifar10.kernels.program import lanes_for
from cifar10.kernels.tiles import input_gradient_kernel, input_kernel, result_gradient_kernel, result_kernel
from cifar10.kernels.tiling import Tiling
from cifar10.kernels.toom_cook import TAPS, matrices

# Small blocks stay in the cache, large ones make better matrix products: measured on two cores with 36 MB.
_BLOCK_BYTES = 8 * 2**20  # of transformed tiles, forward
_BACKWARD_BLOCK_BYTES = 16 * 2**20
_SMALLEST_MAP, _LARGEST_MAP = 2, 64  # pixels; a plane of the largest must fit on a thread's stack
_LEAST_ROWS = 128  # of a matrix product: with fewer, the library is slower
_PADDING = 48  # floats between the tiles of two positions: without it their rows would share cache lines


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
        and are_usable()
    )


class _ToomCook(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, pooled: bool) -> Tensor:  # type: ignore[no-untyped-def]
        tiling = Tiling(features.shape[2], pooled)
        filters = _transform_filters(weight.detach(), tiling)  # (n n, C, K)
        size = tiling.num_results // 2 if pooled else tiling.size
        results = _empty_maps(features, filters.shape[2], size)
        places = _empty_maps(features, filters.shape[2], size, torch.uint8) if pooled else results
        take_apart, put_together = input_kernel(tiling, weight.shape[1]), result_kernel(tiling, weight.shape[0])
        for block, (windows, room) in _blocks(tiling, len(features), weight.shape[1::-1], _BLOCK_BYTES):
            images = len(features[block])
            take_apart(images, features[block], windows, 0, windows.stride(0))
            products = torch.bmm(windows, filters, out=_dense(room))
            put_together(images, results[block], products, places[block], products.stride(0))
        ctx.save_for_backward(features, filters, places if pooled else None)
        ctx.tiling = tiling
        return results

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[no-untyped-def]
        features, filters, places = ctx.saved_tensors
        tiling, (channels_in, channels_out) = ctx.tiling, filters.shape[1:]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        places = gradient if places is None else places
        of_filters = torch.zeros_like(filters)
        of_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        channels = (channels_in, channels_out)
        for block, (windows, products) in _blocks(tiling, len(features), channels, _BACKWARD_BLOCK_BYTES):
            images = len(features[block])
            input_kernel(tiling, channels_in)(images, features[block], windows, 0, windows.stride(0))
            take_apart = result_gradient_kernel(tiling, channels_out)
            take_apart(images, gradient[block], products, places[block], products.stride(0))
            of_filters.baddbmm_(windows.transpose(1, 2), products)
            if of_features is not None:
                of_windows = torch.bmm(products, filters.transpose(1, 2), out=_dense(windows))
                put_together = input_gradient_kernel(tiling, channels_in)
                put_together(images, of_features[block], of_windows, 0, of_windows.stride(0))
        return of_features, _transform_filters_back(of_filters, tiling), None


def _transform_filters(weight: Tensor, tiling: Tiling) -> Tensor:  # (K, C, 3, 3) -> (n n, C, K)
    taps = weight.permute(2, 3, 1, 0).reshape(TAPS**2, -1)
    return (_both_sides(tiling) @ taps).view(tiling.positions, weight.shape[1], weight.shape[0])


def _transform_filters_back(gradient: Tensor, tiling: Tiling) -> Tensor:  # (n n, C, K) -> (K, C, 3, 3)
    _, channels_in, channels_out = gradient.shape
    taps = _both_sides(tiling).T @ gradient.flatten(1)
    return taps.view(TAPS, TAPS, channels_in, channels_out).permute(3, 2, 0, 1)


def _both_sides(tiling: Tiling) -> Tensor:
    """Return G from both sides as one matrix, (n n, 9)."""
    transform = torch.from_numpy(matrices(tiling.side)[1])
    return torch.kron(transform, transform).float()


def _blocks(
    tiling: Tiling, num_images: int, channels: Sequence[int], num_bytes: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Return which images come together, and room for their transformed tiles of each number of channels.

    The room is the same for all blocks: what it was last used for is still in the cache.
    """
    bytes_an_image = 4 * tiling.positions * tiling.count**2 * sum(channels)
    length = max(num_bytes // bytes_an_image, _LEAST_ROWS // tiling.count**2, 1)
    rooms = [_empty_tiles(tiling, min(length, num_images), number) for number in channels]
    for start in range(0, num_images, length):
        num_tiles = min(length, num_images - start) * tiling.count**2
        yield slice(start, start + length), [room[:, :num_tiles] for room in rooms]


def _empty_maps(features: Tensor, channels: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (len(features), channels, size, size)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _empty_tiles(tiling: Tiling, num_images: int, channels: int) -> Tensor:
    """Return room for transformed tiles, (n n, b t t, C)."""
    num_tiles = num_images * tiling.count**2
    stride = num_tiles * channels + _PADDING
    return torch.empty(tiling.positions * stride).as_strided(
        (tiling.positions, num_tiles, channels), (stride, channels, 1)
    )


def _dense(tiles: Tensor) -> Tensor:
    """Return the same room without padding: the library writes matrix products quickly only there."""
    _, rows, columns = tiles.shape
    return tiles.as_strided(tiles.shape, (rows * columns, columns, 1))

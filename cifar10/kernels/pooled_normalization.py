"""Batch normalisation, ReLU and 2 x 2 max-pooling in one pass over the features each way, in float32 on a CPU.

Forward: one read for the statistics, one for the result. Only the largest of four pixels counts, so the sums of the
backward pass need a quarter of the features, and its gradient one read and one write.

Shapes: B images, C channels, feature maps of H x W, both even, channels last; seen as B H/2 pairs of rows.
"""

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar10.kernels.arrays import byte_array, float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector, lanes_for
from cifar10.kernels.jit import MIN_IMAGES, Kernel
from cifar10.kernels.normalization import empty_sums, moments, sums_kernel
from cifar10.networks.layers import BatchNormReLUPool

_NOT_POSITIVE = 4  # of the four pixels, whose numbers are 0 .. 3
_SCALE, _OFFSET, _DEVIATIONS, _CENTER, _LEVEL, _SLOPE = range(6)  # rows of vectors, (rows, C)


class FusedBatchNormReLUPool(BatchNormReLUPool):
    """`BatchNormReLUPool` in one pass, where it is supported."""

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H//2, W//2)
        if not is_supported(self, features):
            return super().forward(features)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        if not self.training:
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            vectors = torch.stack([scale, self.bias - self.running_mean * scale])
            return _normalize_and_pool(features, vectors)[0]
        num_rows = features.numel() // features.shape[1]
        results, mean, variance = _NormalizeAndPool.apply(features, self.weight, self.bias, self.eps)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num_rows / (num_rows - 1)), self.momentum)
        return results  # type: ignore[no-any-return]


def is_supported(layer: BatchNormReLUPool, features: Tensor) -> bool:
    """Whether there is a kernel for this: a training step, or an evaluation without gradients."""
    return (
        not torch.compiler.is_compiling()
        and (layer.training or (not torch.is_grad_enabled() and len(features) >= MIN_IMAGES))
        and features.device.type == "cpu"
        and features.dtype == layer.weight.dtype == torch.float32
        and features.shape[2] % 2 == features.shape[3] % 2 == 0
        and features.numel() > 0
        and features.is_contiguous(memory_format=torch.channels_last)
        and lanes_for(features.shape[1]) > 0
    )


def _normalize_and_pool(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results, the number of the largest of each four pixels, uint8, and its feature.

    Args:
        features: (B, C, H, W).
        vectors: (>= 2, C), of which the first two rows are read.
    """
    images, channels, height, width = features.shape
    shape = images, channels, height // 2, width // 2
    results, largest, numbers = (
        torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
        for dtype in (torch.float32, torch.float32, torch.uint8)
    )
    _result_kernel(channels)(images * height // 2, features, results, numbers, largest, vectors, width)
    return results, numbers, largest


class _NormalizeAndPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, eps: float):  # type: ignore[no-untyped-def]
        mean, variance = moments(features)
        deviations = (variance + eps).rsqrt()
        scale = weight * deviations
        vectors = torch.stack([scale, bias - mean * scale, deviations, -mean * deviations])
        results, numbers, largest = _normalize_and_pool(features, vectors.float())
        ctx.save_for_backward(features, numbers, largest, vectors)
        ctx.mark_non_differentiable(*(statistics := (mean.float(), variance.float())))
        return results, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, *_: Tensor):  # type: ignore[no-untyped-def]
        features, numbers, largest, vectors = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        (images, channels, height, width), num_rows = features.shape, features.numel() // features.shape[1]
        sums = empty_sums(num_rows // 4, channels)
        arguments = gradient, numbers, largest, vectors.float()
        _gradient_sums_kernel(channels)(len(sums), *arguments, sums, num_rows // 4)
        grad_bias, grad_weight = sums.sum(dim=0, dtype=torch.float64)
        scale, _, deviations, center = vectors
        slope = -scale * deviations * grad_weight / num_rows
        level = -scale * (grad_bias + center * grad_weight) / num_rows
        vectors = torch.cat([vectors, torch.stack([level, slope])]).float()
        grad_features = torch.empty_like(features)
        _gradient_kernel(channels)(images * height // 2, features, gradient, numbers, vectors, grad_features, width)
        return grad_features, grad_weight.float(), grad_bias.float(), None


@functools.cache
def _result_kernel(channels: int) -> Kernel:
    """Compile max(0, scale x + offset) of four pixels. An item is a pair of rows.

    Arguments: features, results, number of the largest, its feature, vectors, width.
    """

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, results, numbers, largest, vectors, width = arguments
        x, vector = float_array(builder, features), float_array(builder, vectors)
        zero = builder.constant(0.0)
        for corners, offset, channel in _windows(builder, first, end, width, channels):
            scale, shift = (vector.load(channel + channels * row) for row in (_SCALE, _OFFSET))
            best, feature, number = zero, x.load(corners[0]), builder.int_constant(_NOT_POSITIVE)
            for index, corner in enumerate(corners):
                candidate = x.load(corner)
                z = candidate * scale + shift
                is_number = builder.llvm.fcmp_ordered("ord", best.value, best.value)  # NaN stays, as in PyTorch
                mask = builder.llvm.and_(z.greater(best), is_number)
                best, feature = builder.select(mask, z, best), builder.select(mask, candidate, feature)
                number = builder.select(mask, builder.int_constant(index), number)
            float_array(builder, results).store(best, offset)
            float_array(builder, largest).store(feature, offset)
            byte_array(builder, numbers).store(number, offset)

    return Kernel(emit, num_arguments=6, num_lanes=lanes_for(channels))


@functools.cache
def _gradient_sums_kernel(channels: int) -> Kernel:
    """Compile the sums of dz and dz xhat. Arguments: gradient, numbers, largest, vectors, sums, number of rows."""

    def terms(builder: KernelBuilder, arguments: Sequence[Integer], offset: Integer, channel: Integer) -> list[Vector]:
        gradient, largest, vectors = (float_array(builder, arguments[position]) for position in (0, 2, 3))
        is_zero = byte_array(builder, arguments[1]).load(offset).equals(_NOT_POSITIVE)
        deviations, center = (vectors.load(channel + channels * row) for row in (_DEVIATIONS, _CENTER))
        change = builder.select(is_zero, builder.constant(0.0), gradient.load(offset))
        return [change, change * (largest.load(offset) * deviations + center)]

    return sums_kernel(channels, terms, sums=4, num_rows=5)


@functools.cache
def _gradient_kernel(channels: int) -> Kernel:
    """Compile scale dz + slope x + level, where dz is the gradient at the largest of four pixels, else 0.

    An item is a pair of rows. Arguments: features, gradient, numbers, vectors, gradient of the features, width.
    """

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, gradient, numbers, vectors, grad_features, width = arguments
        x, results, vector = (float_array(builder, address) for address in (features, grad_features, vectors))
        zero = builder.constant(0.0)
        for corners, offset, channel in _windows(builder, first, end, width, channels):
            scale, level, slope = (vector.load(channel + channels * row) for row in (_SCALE, _LEVEL, _SLOPE))
            scaled = float_array(builder, gradient).load(offset) * scale
            number = byte_array(builder, numbers).load(offset)
            for index, corner in enumerate(corners):
                change = builder.select(number.equals(index), scaled, zero)
                results.store(x.load(corner) * slope + level + change, corner)

    return Kernel(emit, num_arguments=6, num_lanes=lanes_for(channels))


def _windows(
    builder: KernelBuilder, first: Integer, end: Integer, width: Integer, channels: int
) -> Iterator[tuple[list[Integer], Integer, Integer]]:
    """Loop over pairs of rows, pooled pixels and channels.

    Yield the offsets of the four pixels, that of the pooled one, and the channel.
    """
    half = width // 2
    with (
        builder.loop(first, end) as pair,
        builder.loop(0, half) as column,
        builder.loop(0, channels, builder.num_lanes) as channel,
    ):
        pixels = [(pair * 2 + index // 2) * width + column * 2 + index % 2 for index in range(4)]
        yield [pixel * channels + channel for pixel in pixels], (pair * half + column) * channels + channel, channel

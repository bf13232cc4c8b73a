"""Batch normalisation, shift, shortcut and SiLU in one pass over the features each way, on a CPU.

Forward: one read for the statistics, one for the result. Backward: one read for the sums, one for the gradient; what
the activation needs is computed from the input again instead of being kept.

Shapes: B images, C channels, feature maps of H x W, channels last; seen as B H W rows of C.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar10.kernels import bfloat16_units
from cifar10.kernels.arrays import float_array, stack_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector, lanes_for
from cifar10.kernels.halves import map_array
from cifar10.kernels.jit import MIN_IMAGES, Kernel
from cifar10.networks.layers import BatchNormSiLU

Terms = Callable[[KernelBuilder, Sequence[Integer], Integer, Integer], list[Vector]]
"""Writes what one element adds to two sums: builder, arguments of the kernel, offset of the element, its channel."""

_NULL = 0  # the address of no shortcut, which no kernel reads
_BLOCK_ROWS = 256  # summed in float32 by one thread; blocks are summed in float64, whatever the number of threads


class FusedBatchNormSiLU(BatchNormSiLU):
    """`BatchNormSiLU` in one pass, where it is supported."""

    def forward(self, features: Tensor, shortcut: Tensor | None = None) -> Tensor:  # (B, C, H, W), both -> the same
        if not is_supported(features, self.shift, self.training, shortcut):
            return super().forward(features, shortcut)
        shift = self.shift * self.shift_gain
        if not self.training:
            scale = (self.running_var + self.eps).rsqrt()
            return _scale_and_activate(features, torch.stack([scale, shift - self.running_mean * scale]), shortcut)
        num_rows = features.numel() // features.shape[1]
        results, mean, variance = _NormalizeActivate.apply(features, shift, self.eps, shortcut)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num_rows / (num_rows - 1)), self.momentum)
        return results  # type: ignore[no-any-return]


def is_supported(features: Tensor, shift: Tensor, training: bool, shortcut: Tensor | None = None) -> bool:
    """Whether there is a kernel for this: a training step, or an evaluation without gradients."""
    return (
        not torch.compiler.is_compiling()
        and (training or (not torch.is_grad_enabled() and len(features) >= MIN_IMAGES))
        and features.device.type == "cpu"
        and (features.dtype == torch.float32 or (features.dtype == torch.bfloat16 and bfloat16_units.is_available()))
        and shift.dtype == torch.float32
        and features.numel() > features.shape[1]
        and features.is_contiguous(memory_format=torch.channels_last)
        and (shortcut is None or _has_same_layout(shortcut, features))
        and lanes_for(features.shape[1]) > 0
    )


def _has_same_layout(shortcut: Tensor, features: Tensor) -> bool:
    return (
        shortcut.shape == features.shape
        and shortcut.dtype == features.dtype
        and shortcut.device == features.device
        and shortcut.is_contiguous(memory_format=torch.channels_last)
    )


class _Maps(NamedTuple):
    """What a kernel is compiled for."""

    channels: int
    in_bfloat16: bool
    """Whether features, results and their gradients are bfloat16, and not float32."""
    has_shortcut: bool

    @classmethod
    def of(cls, features: Tensor, shortcut: Tensor | None = None) -> Self:
        return cls(features.shape[1], features.dtype == torch.bfloat16, shortcut is not None)


def _scale_and_activate(features: Tensor, vectors: Tensor, shortcut: Tensor | None) -> Tensor:
    """Return SiLU(scale x + offset + shortcut); scale and offset are the first two rows of `vectors`, (>= 2, C)."""
    results, channels = torch.empty_like(features), features.shape[1]
    kernel = _result_kernel(_Maps.of(features, shortcut))
    kernel(features.numel() // channels, features, results, vectors, _NULL if shortcut is None else shortcut)
    return results


class _NormalizeActivate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, shift: Tensor, eps: float, shortcut: Tensor | None):  # type: ignore[no-untyped-def]
        mean, variance = moments(features)
        scale = (variance + eps).rsqrt()
        vectors = torch.stack([scale, shift - mean * scale, shift.double()]).float()  # z = scale x + offset + shortcut
        results = _scale_and_activate(features, vectors, shortcut)
        ctx.save_for_backward(features, vectors, shortcut)
        ctx.mark_non_differentiable(*(statistics := (mean.float(), variance.float())))
        return results, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, *_: Tensor):  # type: ignore[no-untyped-def]
        features, vectors, shortcut = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        num_rows, channels = features.numel() // features.shape[1], features.shape[1]
        shortcut_or_null = _NULL if shortcut is None else shortcut
        sums = empty_sums(num_rows, channels)
        maps = _Maps.of(features, shortcut)
        add_up = _gradient_sums_kernel(maps)
        add_up(len(sums), features, gradient, vectors, shortcut_or_null, sums, num_rows)
        grad_shift, grad_scale = sums.sum(dim=0, dtype=torch.float64)
        vectors = torch.cat([vectors, torch.stack([grad_shift, grad_scale]).float() * (vectors[0] / num_rows)])
        grad_features = torch.empty_like(features)
        grad_shortcut = None if shortcut is None else torch.empty_like(shortcut)
        kernel = _gradient_kernel(maps)
        results = grad_features, _NULL if grad_shortcut is None else grad_shortcut
        kernel(num_rows, features, gradient, vectors, shortcut_or_null, *results)
        return grad_features, grad_shift.float(), None, grad_shortcut


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (biased) variance of each channel of features (B, C, H, W), float64 (C,)."""
    num_rows, channels = features.numel() // features.shape[1], features.shape[1]
    sums = empty_sums(num_rows, channels)
    _moments_kernel(_Maps.of(features))(len(sums), features, sums, num_rows)
    mean, square = sums.sum(dim=0, dtype=torch.float64) / num_rows
    return mean, (square - mean.square()).clamp_(min=0)


def empty_sums(num_rows: int, channels: int) -> Tensor:
    """Return memory for two sums over each block of rows, (blocks, 2, C)."""
    return torch.empty(-(-num_rows // _BLOCK_ROWS), 2, channels)


@functools.cache
def _moments_kernel(maps: _Maps) -> Kernel:
    """Compile the sums of x and x^2. Arguments: features, sums, number of rows."""

    def terms(builder: KernelBuilder, arguments: Sequence[Integer], offset: Integer, channel: Integer) -> list[Vector]:
        x = map_array(builder, arguments[0], maps.in_bfloat16).load(offset)
        return [x, x * x]

    return sums_kernel(maps.channels, terms, sums=1, num_rows=2)


@functools.cache
def _gradient_sums_kernel(maps: _Maps) -> Kernel:
    """Compile the sums of dz and dz xhat. Arguments: features, gradient, vectors, shortcut, sums, number of rows."""

    def terms(builder: KernelBuilder, arguments: Sequence[Integer], offset: Integer, channel: Integer) -> list[Vector]:
        gradient, normalized = _silu_backward(builder, maps, arguments, offset, channel)
        return [gradient, gradient * normalized]

    return sums_kernel(maps.channels, terms, sums=4, num_rows=5)


@functools.cache
def _result_kernel(maps: _Maps) -> Kernel:
    """Compile SiLU(scale x + offset + shortcut). Arguments: features, results, vectors, shortcut."""

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, results, shortcut = (map_array(builder, arguments[n], maps.in_bfloat16) for n in (0, 1, 3))
        vectors, channels = float_array(builder, arguments[2]), maps.channels
        with builder.loop(first, end) as row, builder.loop(0, channels, builder.num_lanes) as channel:
            offset = row * channels + channel
            z = features.load(offset) * vectors.load(channel) + vectors.load(channel + channels)
            if maps.has_shortcut:
                z = z + shortcut.load(offset)
            results.store(z * sigmoid(builder, z), offset)

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(maps.channels))


@functools.cache
def _gradient_kernel(maps: _Maps) -> Kernel:
    """Compile scale dz - scale mean(dz) - scale mean(dz xhat) xhat, and dz, the gradient of the shortcut.

    Arguments: features, gradient, vectors, shortcut, and the two results.
    """

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        grad_features, grad_shortcut = (map_array(builder, arguments[n], maps.in_bfloat16) for n in (4, 5))
        vectors, channels = float_array(builder, arguments[2]), maps.channels
        with builder.loop(first, end) as row, builder.loop(0, channels, builder.num_lanes) as channel:
            offset = row * channels + channel
            gradient, normalized = _silu_backward(builder, maps, arguments, offset, channel)
            scale, mean, along = (vectors.load(channel + channels * number) for number in (0, 3, 4))
            grad_features.store(gradient * scale - mean - normalized * along, offset)
            if maps.has_shortcut:
                grad_shortcut.store(gradient, offset)

    return Kernel(emit, num_arguments=6, num_lanes=lanes_for(maps.channels))


def _silu_backward(
    builder: KernelBuilder, maps: _Maps, arguments: Sequence[Integer], offset: Integer, channel: Integer
) -> tuple[Vector, Vector]:
    """Return dz = dy SiLU'(z), and xhat; `arguments` begin with features, gradient, vectors, shortcut."""
    features, gradient, shortcut = (map_array(builder, arguments[n], maps.in_bfloat16) for n in (0, 1, 3))
    vectors, channels = float_array(builder, arguments[2]), maps.channels
    shifted = features.load(offset) * vectors.load(channel) + vectors.load(channel + channels)
    z = shifted + shortcut.load(offset) if maps.has_shortcut else shifted
    sigmoid_z = sigmoid(builder, z)
    slope = sigmoid_z + z * sigmoid_z * (builder.constant(1.0) - sigmoid_z)
    return gradient.load(offset) * slope, shifted - vectors.load(channel + channels * 2)


def sums_kernel(channels: int, terms: Terms, sums: int, num_rows: int) -> Kernel:
    """Compile two sums over each block of rows; `sums` and `num_rows` are positions of arguments."""

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        totals, out = stack_array(builder, 2 * channels // builder.num_lanes), float_array(builder, arguments[sums])
        with builder.loop(first, end) as block:
            with builder.loop(0, 2 * channels, builder.num_lanes) as place:
                totals.store(builder.constant(0.0), place)
            start = block * _BLOCK_ROWS
            with (
                builder.loop(start, builder.minimum(start + _BLOCK_ROWS, arguments[num_rows])) as row,
                builder.loop(0, channels, builder.num_lanes) as channel,
            ):
                for number, term in enumerate(terms(builder, arguments, row * channels + channel, channel)):
                    place = channel + channels * number
                    totals.store(totals.load(place) + term, place)
            with builder.loop(0, 2 * channels, builder.num_lanes) as place:
                out.store(totals.load(place), block * (2 * channels) + place)

    return Kernel(emit, num_arguments=num_rows + 1, num_lanes=lanes_for(channels))


def sigmoid(builder: KernelBuilder, x: Vector) -> Vector:
    """Return 1 / (1 + exp(-x)), to within some units in the last place."""
    return builder.constant(1.0) / (_exp(builder, builder.constant(0.0) - x) + 1.0)


def _exp(builder: KernelBuilder, x: Vector) -> Vector:
    """Return e^x = 2^k e^r with integer k and |r| <= ln(2) / 2; k goes straight into the exponent bits."""
    x = builder.intrinsic("llvm.minnum", x, builder.constant(88.0))
    x = builder.intrinsic("llvm.maxnum", x, builder.constant(-87.0))
    k = builder.intrinsic("llvm.rint", x * 1.44269504089)
    r = x - k * 0.693359375 - k * -2.12194440e-4  # ln(2) in two parts, so that the first product is exact
    series = builder.constant(1 / 5040)
    for factorial in (720, 120, 24, 6, 2, 1, 1):  # the Taylor series: its error is below float32's here
        series = series * r + 1 / factorial
    llvm = builder.llvm
    power = llvm.add(llvm.fptosi(k.value, builder.int_vector_type), builder.int_constant(127).value)
    power = llvm.shl(power, builder.int_constant(23).value)
    return series * Vector(builder, llvm.bitcast(power, builder.vector_type))

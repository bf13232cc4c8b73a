"""Batch normalisation with a shift, a shortcut and SiLU in one pass over the features each way, in float32, on a CPU.

Forward: one reading for the statistics, one for the result. Backward: one reading for the sums, one for the gradient;
what the activation needs is computed again from the input instead of being kept.

Shapes: B images, C channels, maps of H x W, channels last; seen as B H W rows of C.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from cifar10.kernels.arrays import array, buffer
from cifar10.kernels.machine_code import LEAST_IMAGES, Kernel, are_usable
from cifar10.kernels.program import Integer, Lanes, Program, lanes_for

Terms = Callable[[Program, Sequence[Integer], Integer, Integer], list[Lanes]]
"""Writes what one element adds to two sums, given a kernel's arguments, the element's offset and its channel."""

_NOTHING = 0  # the address of no shortcut, which no kernel reads
_ROWS = 256  # summed in float32 by one thread; their sums are added up in float64, whatever the number of threads


def normalize_and_activate(
    features: Tensor,
    shift: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    epsilon: float,
    shortcut: Tensor | None = None,
) -> Tensor:
    """Return SiLU((features - mean) / sqrt(var + epsilon) + shift + shortcut).

    Args:
        features: (B, C, H, W).
        shift: (C,).
        running_mean: (C,); in training moved towards this batch's mean, else used in its place.
        running_var: (C,); likewise, unbiased.
        training: Whether mean and variance are the batch's own.
        momentum: Weight of the newest batch in the running statistics.
        epsilon: Added to the variance.
        shortcut: (B, C, H, W), or None for nothing.
    """
    num_rows = features.numel() // features.shape[1]
    if not suits(features, shift, training, shortcut):
        normalized = functional.batch_norm(
            features, running_mean, running_var, None, shift, training=training, momentum=momentum, eps=epsilon
        )
        return functional.silu(normalized if shortcut is None else normalized + shortcut)
    if not training:
        scale = (running_var + epsilon).rsqrt()
        vectors = torch.stack([scale, shift - running_mean * scale])
        return _activate(features, vectors, shortcut)
    results, mean, variance = _NormalizeActivate.apply(features, shift, epsilon, shortcut)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * (num_rows / (num_rows - 1)), momentum)
    return results  # type: ignore[no-any-return]


def suits(features: Tensor, shift: Tensor, training: bool, shortcut: Tensor | None = None) -> bool:
    """Return whether this can be done here: a step of training, or an evaluation that wants no gradients."""
    return (
        (training or (not torch.is_grad_enabled() and len(features) >= LEAST_IMAGES))
        and features.device.type == "cpu"
        and features.dtype == shift.dtype == torch.float32
        and features.numel() > features.shape[1]
        and features.is_contiguous(memory_format=torch.channels_last)
        and (shortcut is None or _is_alike(shortcut, features))
        and lanes_for(features.shape[1]) > 0
        and not torch.compiler.is_compiling()
        and are_usable()
    )


def _is_alike(shortcut: Tensor, features: Tensor) -> bool:
    """Return whether both can be walked through together."""
    return (
        shortcut.shape == features.shape
        and shortcut.dtype == features.dtype
        and shortcut.device == features.device
        and shortcut.is_contiguous(memory_format=torch.channels_last)
    )


def _activate(features: Tensor, vectors: Tensor, shortcut: Tensor | None) -> Tensor:
    """Return SiLU(scale x + offset + shortcut), scale and offset being the first two of `vectors`, (>= 2, C)."""
    results, channels = torch.empty_like(features), features.shape[1]
    kernel = _result_kernel(channels, shortcut is not None)
    kernel(features.numel() // channels, features, results, vectors, _NOTHING if shortcut is None else shortcut)
    return results


class _NormalizeActivate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, shift: Tensor, epsilon: float, shortcut: Tensor | None):  # type: ignore[no-untyped-def]
        num_rows, channels = features.numel() // features.shape[1], features.shape[1]
        sums = _empty_sums(num_rows, channels)
        _moments_kernel(channels)(len(sums), features, sums, num_rows)
        mean, square = sums.sum(dim=0, dtype=torch.float64) / num_rows
        variance = (square - mean.square()).clamp_(min=0)
        scale = (variance + epsilon).rsqrt()
        vectors = torch.stack([scale, shift - mean * scale, shift.double()]).float()  # z = scale x + offset + shortcut
        results = _activate(features, vectors, shortcut)
        ctx.save_for_backward(features, vectors, shortcut)
        ctx.mark_non_differentiable(*(statistics := (mean.float(), variance.float())))
        return results, *statistics

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor):  # type: ignore[no-untyped-def]
        features, vectors, shortcut = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        num_rows, channels = features.numel() // features.shape[1], features.shape[1]
        beside = _NOTHING if shortcut is None else shortcut
        sums = _empty_sums(num_rows, channels)
        sums_kernel = _gradient_sums_kernel(channels, shortcut is not None)
        sums_kernel(len(sums), features, gradient, vectors, beside, sums, num_rows)
        of_shift, along = sums.sum(dim=0, dtype=torch.float64)
        vectors = torch.cat([vectors, torch.stack([of_shift, along]).float() * (vectors[0] / num_rows)])
        of_features = torch.empty_like(features)
        of_shortcut = None if shortcut is None else torch.empty_like(shortcut)
        kernel = _gradient_kernel(channels, shortcut is not None)
        results = of_features, _NOTHING if of_shortcut is None else of_shortcut
        kernel(num_rows, features, gradient, vectors, beside, *results)
        return of_features, of_shift.float(), None, of_shortcut


def _empty_sums(num_rows: int, channels: int) -> Tensor:
    """Return room for two sums over each block of rows, (blocks, 2, C)."""
    return torch.empty(-(-num_rows // _ROWS), 2, channels)


@functools.cache
def _moments_kernel(channels: int) -> Kernel:
    """Compile the sums of x and x^2. Called with features, sums, number of rows."""

    def terms(program: Program, arguments: Sequence[Integer], offset: Integer, channel: Integer) -> list[Lanes]:
        x = array(arguments[0], program).load(offset)
        return [x, x * x]

    return _sums_kernel(channels, terms, sums=1, num_rows=2)


@functools.cache
def _gradient_sums_kernel(channels: int, has_shortcut: bool) -> Kernel:
    """Compile the sums of dz and dz xhat. Called with features, gradient, vectors, shortcut, sums, number of rows."""

    def terms(program: Program, arguments: Sequence[Integer], offset: Integer, channel: Integer) -> list[Lanes]:
        gradient, normalized = _through_activation(program, channels, has_shortcut, arguments, offset, channel)
        return [gradient, gradient * normalized]

    return _sums_kernel(channels, terms, sums=4, num_rows=5)


@functools.cache
def _result_kernel(channels: int, has_shortcut: bool) -> Kernel:
    """Compile SiLU(scale x + offset + shortcut). Called with features, results, vectors, shortcut."""

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, results, vectors, shortcut = (array(argument, program) for argument in arguments)
        with program.loop(first, end) as row, program.loop(0, channels, program.num_lanes) as channel:
            offset = row * channels + channel
            z = features.load(offset) * vectors.load(channel) + vectors.load(channel + channels)
            if has_shortcut:
                z = z + shortcut.load(offset)
            results.store(z * program.sigmoid(z), offset)

    return Kernel(emit, num_arguments=4, num_lanes=lanes_for(channels))


@functools.cache
def _gradient_kernel(channels: int, has_shortcut: bool) -> Kernel:
    """Compile scale dz - scale mean(dz) - scale mean(dz xhat) xhat, and dz, the shortcut's gradient.

    Called with features, gradient, vectors, shortcut, and the two results.
    """

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        vectors, of_features, of_shortcut = (array(arguments[number], program) for number in (2, 4, 5))
        with program.loop(first, end) as row, program.loop(0, channels, program.num_lanes) as channel:
            offset = row * channels + channel
            gradient, normalized = _through_activation(program, channels, has_shortcut, arguments, offset, channel)
            scale, mean, along = (vectors.load(channel + channels * number) for number in (0, 3, 4))
            of_features.store(gradient * scale - mean - normalized * along, offset)
            if has_shortcut:
                of_shortcut.store(gradient, offset)

    return Kernel(emit, num_arguments=6, num_lanes=lanes_for(channels))


def _through_activation(
    program: Program,
    channels: int,
    has_shortcut: bool,
    arguments: Sequence[Integer],
    offset: Integer,
    channel: Integer,
) -> tuple[Lanes, Lanes]:
    """Return dz = dy SiLU'(z), and xhat; arguments begin with features, gradient, vectors, shortcut."""
    features, gradient, vectors, shortcut = (array(argument, program) for argument in arguments[:4])
    shifted = features.load(offset) * vectors.load(channel) + vectors.load(channel + channels)
    z = shifted + shortcut.load(offset) if has_shortcut else shifted
    sigmoid = program.sigmoid(z)
    slope = sigmoid + z * sigmoid * (program.constant(1.0) - sigmoid)
    return gradient.load(offset) * slope, shifted - vectors.load(channel + channels * 2)


def _sums_kernel(channels: int, terms: Terms, sums: int, num_rows: int) -> Kernel:
    """Compile two sums over each block of rows; `sums` and `num_rows` are positions of arguments."""

    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        room, out = buffer(program, 2 * channels // program.num_lanes), array(arguments[sums], program)
        with program.loop(first, end) as block:
            with program.loop(0, 2 * channels, program.num_lanes) as place:
                room.store(program.constant(0.0), place)
            start = block * _ROWS
            with (
                program.loop(start, program.least(start + _ROWS, arguments[num_rows])) as row,
                program.loop(0, channels, program.num_lanes) as channel,
            ):
                for number, term in enumerate(terms(program, arguments, row * channels + channel, channel)):
                    place = channel + channels * number
                    room.store(room.load(place) + term, place)
            with program.loop(0, 2 * channels, program.num_lanes) as place:
                out.store(room.load(place), block * (2 * channels) + place)

    return Kernel(emit, num_arguments=num_rows + 1, num_lanes=lanes_for(channels))

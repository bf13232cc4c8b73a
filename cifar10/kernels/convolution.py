"""3 x 3 convolution, with or without max-pooling, on a CPU: by Winograd's algorithm, or directly by matrix units.

All numbers are float32; or, in training under autocast, maps and the factors of products are bfloat16. On CPUs with
matrix units (AMX), these multiply. With AVX-512's instructions for bfloat16 it is Winograd's algorithm, whose
transforms amplify the rounding: results and gradients are off by 1 to 13 % of their size, which training bears. Where
two pixels are nearly equal, pooling may give a gradient to the other one. Evaluation stays in float32, so that an image
has the same probabilities however they are computed.

Shapes: B images, C channels in, K out, feature maps of H x H, channels last; packed filters (n n, K/w, C, w).
"""

import functools

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cifar10.kernels import amx, bfloat16_units
from cifar10.kernels.codegen import lanes_for
from cifar10.kernels.convolution_kernels import ConvolutionShape, backward_kernel, forward_kernel
from cifar10.kernels.direct_convolution import DirectConvolution
from cifar10.kernels.gemm import panel_width
from cifar10.kernels.jit import MIN_IMAGES, shares_of_sums
from cifar10.kernels.winograd import TAPS, Tiling, transform_matrices
from cifar10.networks.layers import Conv3x3, ConvPool

_MAX_GRADIENT_BYTES = 2**30  # of transformed filters; each share of the images has sums of its own
_MIN_SIZE, _MAX_SIZE = 2, 64  # pixels; one channel vector of the largest map must fit on a thread's stack


class WinogradConv3x3(Conv3x3):
    """`Conv3x3` by Winograd's algorithm, where it is supported."""

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H, W)
        if not is_supported(features, self.weight):
            return super().forward(features)
        return _convolve(features, self.weight, False, self.training)


class WinogradConvPool(ConvPool):
    """`ConvPool` by Winograd's algorithm in one pass, where it is supported."""

    def forward(self, features: Tensor) -> Tensor:  # (B, C, H, W) -> (B, K, H//2, W//2)
        if not is_supported(features, self.weight):
            return super().forward(features)
        return _convolve(features, self.weight, True, self.training)


def is_supported(features: Tensor, weight: Tensor) -> bool:
    """Whether there is a kernel for this convolution, and it is faster than PyTorch's."""
    return (
        not torch.compiler.is_compiling()
        and len(features) >= MIN_IMAGES
        and features.device.type == "cpu"
        and _has_supported_type(features)
        and weight.dtype == torch.float32
        and _MIN_SIZE <= features.shape[2] == features.shape[3] <= _MAX_SIZE
        and features.is_contiguous(memory_format=torch.channels_last)
        and lanes_for(weight.shape[0]) > 0
        and lanes_for(weight.shape[1]) > 0
        and torch.get_num_threads() * _filter_bytes(features.shape[2], weight) <= _MAX_GRADIENT_BYTES
    )


def _has_supported_type(features: Tensor) -> bool:
    if not torch.is_autocast_enabled("cpu"):
        return features.dtype == torch.float32
    return (
        torch.get_autocast_dtype("cpu") == torch.bfloat16
        and features.dtype in (torch.bfloat16, torch.float32)
        and bfloat16_units.is_available()
    )


def _has_unit() -> bool:
    return amx.is_available("amx_bf16")


def _filter_bytes(size: int, weight: Tensor) -> int:
    """Return the bytes of the transformed filters; about the same whether pooled or not."""
    return 4 * Tiling(size, pooled=False).num_positions * weight.shape[0] * weight.shape[1]


def _convolve(features: Tensor, weight: Tensor, pooled: bool, training: bool) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        features = features.bfloat16() if training else features.float()
    by_unit = features.dtype == torch.bfloat16 and _has_unit()
    with torch.autocast("cpu", enabled=False):  # else it would round the filters before they are transformed
        results: Tensor = (DirectConvolution if by_unit else _WinogradConvolution).apply(features, weight, pooled)
    return results


class _WinogradConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, pooled: bool) -> Tensor:  # type: ignore[no-untyped-def]
        channels_out, channels_in = weight.shape[:2]
        shape = ConvolutionShape(features.shape[2], channels_in, channels_out, pooled, features.dtype == torch.bfloat16)
        size = shape.tiling.output_size // 2 if pooled else shape.size
        results = _empty_maps(features, channels_out, size, features.dtype)
        indices = _empty_maps(features, channels_out, size, torch.uint8) if pooled else results
        filters = _transform_filters(weight.detach().permute(2, 3, 1, 0), shape)
        forward_kernel(shape)(len(features), features, filters, results, indices)
        ctx.save_for_backward(features, weight, indices if pooled else None)
        ctx.shape = shape
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[no-untyped-def]
        features, weight, indices = ctx.saved_tensors
        shape: ConvolutionShape = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        indices = gradient if indices is None else indices
        num_shares = shares_of_sums(len(features), 4 * shape.filter_numbers)
        grad_filters = torch.zeros(num_shares, shape.tiling.num_positions, shape.channels_in * shape.channels_out)
        arguments = [features, gradient, indices, grad_filters]
        grad_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        if grad_features is not None:
            arguments += [_transform_filters(weight.permute(2, 3, 0, 1), shape), grad_features]
        backward_kernel(shape, grad_features is not None)(len(features), *arguments, num_shares=num_shares)
        return grad_features, _transform_gradient(grad_filters.sum(dim=0), shape), None


def _transform_filters(taps: Tensor, shape: ConvolutionShape) -> Tensor:
    """Return the filters of each position, packed.

    (3, 3, rows, columns) -> float32 (n n, columns / w, rows, w), or bfloat16 (n n, columns / w, rows / 2, w, 2).
    """
    rows, columns = taps.shape[2:]
    depth, width = shape.factors.depth, panel_width(columns)
    taps = taps.reshape(TAPS**2, rows // depth, depth, columns // width, width).permute(0, 3, 1, 4, 2)
    filters = _filter_transform(shape.tiling) @ taps.reshape(TAPS**2, -1)
    return filters.bfloat16() if shape.in_bfloat16 else filters


def _transform_gradient(gradient: Tensor, shape: ConvolutionShape) -> Tensor:
    """Return the gradient of the weight, (K, C, 3, 3), from that of the packed filters, (n n, K / w * C * w)."""
    taps = _filter_transform(shape.tiling).T @ gradient
    taps = taps.view(TAPS, TAPS, -1, shape.channels_in, panel_width(shape.channels_out))
    return taps.permute(2, 4, 3, 0, 1).reshape(shape.channels_out, shape.channels_in, TAPS, TAPS)


@functools.cache
def _filter_transform(tiling: Tiling) -> Tensor:
    """Return G from both sides as one matrix, (n n, 9)."""
    transform = torch.from_numpy(transform_matrices(tiling.tile)[1])
    return torch.kron(transform, transform).float()


def _empty_maps(features: Tensor, channels: int, size: int, dtype: torch.dtype) -> Tensor:
    shape = (len(features), channels, size, size)
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)

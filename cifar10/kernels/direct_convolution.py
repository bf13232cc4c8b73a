"""3 x 3 convolution, with or without max-pooling, by matrix units for bfloat16: sums are float32.

Shapes: B images, C channels in, K out, feature maps of H x H, channels last; packed filters as in `direct_kernels`.
"""

import functools

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cifar10.kernels import amx
from cifar10.kernels.direct_kernels import PANEL, DirectShape, backward_kernel, forward_kernel
from cifar10.kernels.jit import shares_of_sums
from cifar10.kernels.unit_packing import rounded_up
from cifar10.kernels.winograd import TAPS


class DirectConvolution(torch.autograd.Function):
    """Features (B, C, H, W) and weight (K, C, 3, 3) -> (B, K, H, W), or (B, K, H//2, W//2) if they are pooled."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, pooled: bool) -> Tensor:  # type: ignore[no-untyped-def]
        channels_out, channels_in = weight.shape[:2]
        shape = DirectShape(features.shape[2], channels_in, channels_out, pooled)
        size = len(features), channels_out, shape.output_size, shape.output_size
        results = torch.empty(size, dtype=torch.bfloat16, memory_format=torch.channels_last)
        indices = torch.empty(size, dtype=torch.uint8, memory_format=torch.channels_last) if pooled else results
        filters = _pack(weight.detach().permute(2, 3, 1, 0))
        forward_kernel(shape)(len(features), features, filters, results, indices, _configuration())
        ctx.save_for_backward(features, weight, indices if pooled else None)
        ctx.shape = shape
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[no-untyped-def]
        features, weight, indices = ctx.saved_tensors
        shape: DirectShape = ctx.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        num_shares = shares_of_sums(len(features), 4 * shape.gradient_numbers)
        grad_filters = torch.zeros(num_shares, shape.gradient_numbers)
        arguments = [features, gradient, gradient if indices is None else indices, grad_filters, _configuration()]
        grad_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        if grad_features is not None:
            arguments += [_pack(weight.flip(2, 3).permute(2, 3, 0, 1)), grad_features]
        backward_kernel(shape, grad_features is not None)(len(features), *arguments, num_shares=num_shares)
        return grad_features, _unpack(grad_filters.sum(dim=0), weight.shape), None


def _pack(taps: Tensor) -> Tensor:
    """Return filters (3, 3, C, K) in bfloat16, filled up and packed."""
    rows, columns = taps.shape[2:]
    taps = functional.pad(taps, (0, rounded_up(columns) - columns, 0, rounded_up(rows) - rows))
    return (
        taps.reshape(TAPS**2, -1, 2, rounded_up(columns) // PANEL, PANEL).permute(3, 0, 1, 4, 2).bfloat16().contiguous()
    )


def _unpack(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of the weight, (K, C, 3, 3), from that of the packed filters."""
    channels_out, channels_in = shape[:2]
    taps = gradient.view(TAPS, TAPS, -1, rounded_up(channels_in), PANEL).permute(2, 4, 3, 0, 1)
    return taps.reshape(-1, rounded_up(channels_in), TAPS, TAPS)[:channels_out, :channels_in]


@functools.cache
def _configuration() -> Tensor:
    return amx.configuration()

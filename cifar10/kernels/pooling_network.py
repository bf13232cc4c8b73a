"""The networks of `networks/pooling` with all their convolutions in two kernels, one forward and one backward.

It takes the place of operators that each write and read whole feature maps: an image's maps stay in the core's cache.

Shapes: B images of 32 x 32 pixels, K classes, E = 16 C numbers behind the last convolution.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cifar10.kernels import amx
from cifar10.kernels.halves import Layout
from cifar10.kernels.jit import MIN_IMAGES
from cifar10.kernels.pooling_backward import backward_kernel
from cifar10.kernels.pooling_forward import forward_kernel
from cifar10.kernels.pooling_shapes import (
    DEPTH,
    IMAGE_SIZE,
    TILE_BYTES,
    PoolingShapes,
    Way,
    backward_filters,
    forward_filters,
    gradient_places,
    numbered,
    shapes_of,
    stem_filters,
    stem_gradient_places,
)
from cifar10.networks.normalize import Normalize
from cifar10.networks.pooling.average_pool import AveragePoolCNN
from cifar10.networks.pooling.cnn import PoolingCNN
from cifar10.networks.pooling.max_pool import MaxPoolCNN
from cifar10.networks.pooling.stride import StrideCNN

_FLOATS_OF_TILE = TILE_BYTES // 4
_PLANAR, _PACKED = Layout(1, IMAGE_SIZE**2), Layout(4, IMAGE_SIZE**2)
_KEPT = "_fused_convolutions"  # name of an attribute


class FusedStrideCNN(StrideCNN):
    """`StrideCNN` in two kernels, where they are supported."""

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, K)
        return _logits(self, "stride", images) if is_supported(self, images) else super().forward(images)


class FusedMaxPoolCNN(MaxPoolCNN):
    """`MaxPoolCNN` in two kernels, where they are supported."""

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, K)
        return _logits(self, "max", images) if is_supported(self, images) else super().forward(images)


class FusedAveragePoolCNN(AveragePoolCNN):
    """`AveragePoolCNN` in two kernels, where they are supported."""

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, K)
        return _logits(self, "average", images) if is_supported(self, images) else super().forward(images)


def is_supported(network: PoolingCNN, images: Tensor) -> bool:
    """Whether the kernels compute this: in bfloat16, as under autocast, on a CPU with AMX."""
    return (
        len(images) >= MIN_IMAGES
        and images.device.type == "cpu"
        and images.dtype == torch.uint8
        and images.shape[1:] == (3, IMAGE_SIZE, IMAGE_SIZE)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and all(width % DEPTH == 0 for width in _widths(network))
        and network.head.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and amx.is_available("amx_bf16")
    )


def _convolutions(network: PoolingCNN) -> tuple[nn.Conv2d, ...]:
    """Return the convolutions; looking for them takes a tenth of a millisecond, so they are kept."""
    found: tuple[nn.Conv2d, ...] | None = network.__dict__.get(_KEPT)
    if found is None:
        found = tuple(module for module in network.features.modules() if isinstance(module, nn.Conv2d))
        network.__dict__[_KEPT] = found
    return found


def _widths(network: PoolingCNN) -> tuple[int, int, int]:
    first, second, third = (convolution.out_channels for convolution in _convolutions(network))
    return first, second, third


def _logits(network: PoolingCNN, way: Way, images: Tensor) -> Tensor:
    shapes = shapes_of(way, _widths(network))
    parameters = [p for convolution in _convolutions(network) for p in (convolution.weight, convolution.bias)]
    normalization, is_training = _scale_and_offset(network.normalize), torch.is_grad_enabled()
    features: Tensor = _Convolutions.apply(_in_a_layout(images), normalization, shapes, is_training, *parameters)
    with torch.autocast("cpu", enabled=False):
        logits: Tensor = network.head(features)
    return logits


def _in_a_layout(images: Tensor) -> Tensor:
    """Return `images` in one of the layouts that the kernels read."""
    return images if _is_packed(images) else images.contiguous()


def _is_packed(images: Tensor) -> bool:
    """Whether each pixel is in four bytes, as training batches are."""
    return images.stride() == (4 * IMAGE_SIZE**2, 1, 4 * IMAGE_SIZE, 4)


def _scale_and_offset(normalize: Normalize) -> Tensor:
    """Return what pixels are multiplied with, and what is added then, float32 (2, 3)."""
    scale = 1 / normalize.std.view(-1)
    return torch.stack([scale, -normalize.mean.view(-1) * scale])


class _Convolutions(torch.autograd.Function):
    """uint8 (B, 3, S, S) -> activated outputs of the last convolution, float32 (B, E)."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, images: Tensor, normalization: Tensor, shapes: PoolingShapes, is_training: bool, *parameters: Tensor
    ) -> Tensor:
        is_channels_last = _is_channels_last(parameters)
        packing = _packing(shapes, is_channels_last)
        numbers = torch.cat([_in_memory_order(p.detach(), is_channels_last) for p in parameters] + [packing.zero])
        memory = _memory_for(shapes, len(images))
        features = torch.empty(len(images), shapes.second.size**2 * shapes.second.channels_out)
        filters, biases = _picked(numbers.bfloat16(), packing.forward), _picked(numbers, packing.biases)
        constants = images, normalization, packing.configuration
        layout = _PACKED if _is_packed(images) else _PLANAR
        forward_kernel(shapes, layout)(len(images), *constants, filters, biases, *memory.maps, features)
        if not is_training:
            _release(shapes, memory)
            return features
        ctx.save_for_backward(features, numbers)
        ctx.rest = constants, packing, shapes, layout, memory, [parameter.shape for parameter in parameters]
        return features

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Any:  # type: ignore[no-untyped-def]
        features, numbers = ctx.saved_tensors
        assert ctx.rest is not None, "the memory of the forward pass is used again, so it has one backward pass"
        (constants, packing, shapes, layout, memory, parameter_shapes), ctx.rest = ctx.rest, None
        threads = torch.get_num_threads()
        tiles = torch.zeros(threads, shapes.gradient_tiles * _FLOATS_OF_TILE)
        biases = torch.zeros(threads, len(packing.biases))
        filters = _picked(numbers.bfloat16(), packing.backward)
        arguments = *constants, filters, *memory.maps, features, gradient.contiguous(), tiles, biases
        backward_kernel(shapes, layout)(len(features), *arguments)
        _release(shapes, memory)
        both = torch.cat([tiles.sum(dim=0), biases.sum(dim=0)] if threads > 1 else [tiles[0], biases[0]])
        sizes = [shape.numel() for shape in parameter_shapes]
        parts = _picked(both, packing.gradients).split(sizes)
        gradients = [
            _from_memory_order(part, shape, packing.is_channels_last)
            for part, shape in zip(parts, parameter_shapes, strict=True)
        ]
        return None, None, None, None, *gradients


def _picked(numbers: Tensor, places: Tensor) -> Tensor:
    """Return numbers[places], in a fifth of the time."""
    return numbers.index_select(0, places)


@dataclass(frozen=True, eq=False)
class _Packing:
    """Where each number comes from, int32, among all parameters one after the other and a zero behind them."""

    forward: Tensor
    """The filters of the forward kernel."""
    backward: Tensor
    """Those of the backward kernel."""
    biases: Tensor
    gradients: Tensor
    """The gradient of each parameter among the tiles and biases that the backward kernel writes."""
    zero: Tensor
    """float32 (1,)."""
    configuration: Tensor
    """Of the tile registers."""
    is_channels_last: bool
    """Whether weights lie as (K, H, W, C) in memory, and not as (K, C, H, W)."""


def _is_channels_last(parameters: Sequence[Tensor]) -> bool:
    weights = [parameter for parameter in parameters if parameter.ndim == 4]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def _in_memory_order(tensor: Tensor, is_channels_last: bool) -> Tensor:
    """Return all numbers one after the other, without a copy if that is how they lie in memory."""
    is_permuted = is_channels_last and tensor.ndim == 4
    return (tensor.permute(0, 2, 3, 1) if is_permuted else tensor).reshape(-1)


def _from_memory_order(numbers: Tensor, shape: torch.Size, is_channels_last: bool) -> Tensor:
    """Return the tensor of this shape whose numbers lie in memory in this order."""
    if not (is_channels_last and len(shape) == 4):
        return numbers.view(shape)
    channels_out, channels_in, height, width = shape
    return numbers.view(channels_out, height, width, channels_in).permute(0, 3, 1, 2)


@functools.cache
def _packing(shapes: PoolingShapes, is_channels_last: bool) -> _Packing:
    first, second = shapes.first, shapes.second
    weight_shapes = [
        (shapes.stem_width, 3, 5, 5),
        (first.channels_out, first.channels_in, 3, 3),
        (second.channels_out, second.channels_in, 3, 3),
    ]
    places, weights, biases = 0, [], []
    for shape in weight_shapes:
        numbers = numbered((math.prod(shape),), places)
        weights.append(_from_memory_order(numbers, torch.Size(shape), is_channels_last))
        biases.append(numbered(shape[:1], places + weights[-1].numel()))
        places += weights[-1].numel() + shape[0]
    starts = [0, shapes.stem_tiles, shapes.stem_tiles + first.gradient_tiles]
    of_weights = [stem_gradient_places(shapes.stem_width), *(gradient_places(shape) for shape in weight_shapes[1:])]
    of_biases = numbered((sum(map(len, biases)),), shapes.gradient_tiles * _FLOATS_OF_TILE).split([*map(len, biases)])
    gradients = [
        part
        for start, weight, bias in zip(starts, of_weights, of_biases, strict=True)
        for part in (_in_memory_order(weight + start * _FLOATS_OF_TILE, is_channels_last), bias)
    ]
    return _Packing(
        forward=_joined([stem_filters(weights[0], zero=places), *map(forward_filters, weights[1:])]),
        backward=_joined([*map(backward_filters, weights[1:])]),
        biases=_joined(biases),
        gradients=_joined(gradients),
        zero=torch.zeros(1),
        configuration=amx.configuration(),
        is_channels_last=is_channels_last,
    )


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts]).int()  # half as much to read as int64


@dataclass(frozen=True, eq=False)
class _Memory:
    """What a forward pass keeps for the backward pass, for a number of images. Borders of maps stay zero."""

    num_images: int
    maps: tuple[Tensor, ...]
    """Maps and bits before the first stage, maps and bits before the second."""


_free: dict[PoolingShapes, _Memory] = {}
"""Memory that is not in use; the next forward pass writes over everything but the zeros."""


def _memory_for(shapes: PoolingShapes, num_images: int) -> _Memory:
    memory = _free.pop(shapes, None)
    if memory is not None and memory.num_images >= num_images:
        return memory
    sizes = [
        size * num_images for stage in (shapes.first, shapes.second) for size in (stage.input_bytes, stage.mask_bytes)
    ]
    return _Memory(num_images, tuple(torch.zeros(size, dtype=torch.uint8) for size in sizes))


def _release(shapes: PoolingShapes, memory: _Memory) -> None:
    _free[shapes] = memory

"""The networks of `networks/pooling` with all their convolutions in two kernels, one forward and one backward.

It takes the place of operators that each write and read whole feature maps: an image's maps stay in the core's cache.

Shapes: B images of 32 x 32 pixels, K classes, E = 16 C numbers behind the last convolution.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifar10.kernels import bfloat16_units
from cifar10.kernels.halves import Layout
from cifar10.kernels.jit import MIN_IMAGES
from cifar10.kernels.pooling_backward import backward_kernel
from cifar10.kernels.pooling_forward import forward_kernel
from cifar10.kernels.pooling_packing import (
    FLOATS_OF_TILE,
    are_channels_last,
    from_memory_order,
    in_memory_order,
    packing_of,
)
from cifar10.kernels.pooling_shapes import DEPTH, IMAGE_SIZE, PoolingShapes, Way, shapes_of
from cifar10.networks.normalize import Normalize
from cifar10.networks.pooling.average_pool import AveragePoolCNN
from cifar10.networks.pooling.cnn import PoolingCNN
from cifar10.networks.pooling.max_pool import MaxPoolCNN
from cifar10.networks.pooling.stride import StrideCNN

PLANAR, PACKED = Layout(1, IMAGE_SIZE**2), Layout(4, IMAGE_SIZE**2)
_KEPT = "_fused_convolutions"  # name of an attribute


class FusedStrideCNN(StrideCNN):
    """`StrideCNN` in two kernels, where they are supported."""

    way: Way = "stride"

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, K)
        return _logits(self, images) if is_supported(self, images) else super().forward(images)


class FusedMaxPoolCNN(MaxPoolCNN):
    """`MaxPoolCNN` in two kernels, where they are supported."""

    way: Way = "max"

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, K)
        return _logits(self, images) if is_supported(self, images) else super().forward(images)


class FusedAveragePoolCNN(AveragePoolCNN):
    """`AveragePoolCNN` in two kernels, where they are supported."""

    way: Way = "average"

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, K)
        return _logits(self, images) if is_supported(self, images) else super().forward(images)


FusedPoolingCNN = FusedStrideCNN | FusedMaxPoolCNN | FusedAveragePoolCNN


def is_supported(network: FusedPoolingCNN, images: Tensor) -> bool:
    """Whether the kernels compute this."""
    return are_images_supported(images) and is_network_supported(network)


def are_images_supported(images: Tensor) -> bool:
    """Whether the kernels read these images."""
    return (
        len(images) >= MIN_IMAGES
        and images.device.type == "cpu"
        and images.dtype == torch.uint8
        and images.shape[1:] == (3, IMAGE_SIZE, IMAGE_SIZE)
    )


def is_network_supported(network: FusedPoolingCNN) -> bool:
    """Whether the kernels compute this network, and are wanted: in bfloat16, as under autocast, on a CPU for it."""
    return (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and all(width % DEPTH == 0 for width in _widths(network))
        and network.head.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and bfloat16_units.is_available()
    )


def convolutions_of(network: PoolingCNN) -> tuple[nn.Conv2d, ...]:
    """Return the convolutions; looking for them takes a tenth of a millisecond, so they are kept."""
    found: tuple[nn.Conv2d, ...] | None = network.__dict__.get(_KEPT)
    if found is None:
        found = tuple(module for module in network.features.modules() if isinstance(module, nn.Conv2d))
        network.__dict__[_KEPT] = found
    return found


def _widths(network: PoolingCNN) -> tuple[int, int, int]:
    first, second, third = (convolution.out_channels for convolution in convolutions_of(network))
    return first, second, third


def shapes_of_network(network: FusedPoolingCNN) -> PoolingShapes:
    return shapes_of(network.way, _widths(network))


def parameters_of(network: PoolingCNN) -> list[Tensor]:
    """Return the parameters of the convolutions, weight and bias of each."""
    pairs = ((convolution.weight, convolution.bias) for convolution in convolutions_of(network))
    return [parameter for pair in pairs for parameter in pair if parameter is not None]


def _logits(network: FusedPoolingCNN, images: Tensor) -> Tensor:
    shapes, parameters = shapes_of_network(network), parameters_of(network)
    normalization, is_training = scale_and_offset(network.normalize), torch.is_grad_enabled()
    features: Tensor = _Convolutions.apply(_in_a_layout(images), normalization, shapes, is_training, *parameters)
    with torch.autocast("cpu", enabled=False):
        logits: Tensor = network.head(features)
    return logits


def _in_a_layout(images: Tensor) -> Tensor:
    """Return `images` in one of the layouts that the kernels read."""
    return images if is_packed(images) else images.contiguous()


def is_packed(images: Tensor) -> bool:
    """Whether each pixel is in four bytes, as training batches are."""
    return images.stride() == (4 * IMAGE_SIZE**2, 1, 4 * IMAGE_SIZE, 4)


def scale_and_offset(normalize: Normalize) -> Tensor:
    """Return what pixels are multiplied with, and what is added then, float32 (2, 3)."""
    scale = 1 / normalize.std.view(-1)
    return torch.stack([scale, -normalize.mean.view(-1) * scale])


class _Convolutions(torch.autograd.Function):
    """uint8 (B, 3, S, S) -> activated outputs of the last convolution, float32 (B, E)."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, images: Tensor, normalization: Tensor, shapes: PoolingShapes, is_training: bool, *parameters: Tensor
    ) -> Tensor:
        is_channels_last = are_channels_last(parameters)
        packing = packing_of(shapes, is_channels_last)
        numbers = torch.cat([in_memory_order(p.detach(), is_channels_last) for p in parameters] + [packing.zero])
        memory = _taken_memory(shapes, len(images))
        features = torch.empty(len(images), shapes.second.size**2 * shapes.second.channels_out)
        filters, biases = _picked(numbers.bfloat16(), packing.forward), _picked(numbers, packing.biases)
        constants = images, normalization, packing.configuration
        layout = PACKED if is_packed(images) else PLANAR
        forward_kernel(shapes, layout)(len(images), *constants, filters, biases, *memory.maps, features)
        if not is_training:
            _release(shapes, memory)
            return features
        ctx.save_for_backward(features, numbers)
        ctx.rest = constants, packing, shapes, layout, memory, [parameter.shape for parameter in parameters]
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Any:  # type: ignore[no-untyped-def]
        features, numbers = ctx.saved_tensors
        assert ctx.rest is not None, "the memory of the forward pass is used again, so it has one backward pass"
        (constants, packing, shapes, layout, memory, parameter_shapes), ctx.rest = ctx.rest, None
        threads = torch.get_num_threads()
        tiles = torch.zeros(threads, shapes.gradient_tiles * FLOATS_OF_TILE)
        biases = torch.zeros(threads, len(packing.biases))
        filters = _picked(numbers.bfloat16(), packing.backward)
        arguments = *constants, filters, *memory.maps, features, gradient.contiguous(), tiles, biases
        backward_kernel(shapes, layout)(len(features), *arguments, num_shares=threads)
        _release(shapes, memory)
        both = torch.cat([tiles.sum(dim=0), biases.sum(dim=0)] if threads > 1 else [tiles[0], biases[0]])
        sizes = [shape.numel() for shape in parameter_shapes]
        parts = _picked(both, packing.gradients).split(sizes)
        gradients = [
            from_memory_order(part, shape, packing.is_channels_last)
            for part, shape in zip(parts, parameter_shapes, strict=True)
        ]
        return None, None, None, None, *gradients


def _picked(numbers: Tensor, places: Tensor) -> Tensor:
    """Return numbers[places], in a fifth of the time."""
    return numbers.index_select(0, places)


@dataclass(frozen=True, eq=False)
class Memory:
    """What a forward pass keeps for the backward pass, for a number of images. Borders of maps stay zero."""

    num_images: int
    maps: tuple[Tensor, ...]
    """Maps and bits before the first stage, maps and bits before the second."""

    @classmethod
    def of(cls, shapes: PoolingShapes, num_images: int) -> "Memory":
        stages = shapes.first, shapes.second
        sizes = [size * num_images for stage in stages for size in (stage.input_bytes, stage.mask_bytes)]
        return cls(num_images, tuple(torch.zeros(size, dtype=torch.uint8) for size in sizes))


_free: dict[PoolingShapes, Memory] = {}
"""Memory that is not in use; the next forward pass writes over everything but the zeros."""


def _taken_memory(shapes: PoolingShapes, num_images: int) -> Memory:
    memory = _free.pop(shapes, None)
    if memory is not None and memory.num_images >= num_images:
        return memory
    return Memory.of(shapes, num_images)


def _release(shapes: PoolingShapes, memory: Memory) -> None:
    _free[shapes] = memory

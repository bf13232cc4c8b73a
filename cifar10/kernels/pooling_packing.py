"""Where the numbers of all parameters go before the two kernels of `pooling_network`, and come from after them.

The kernels read filters packed for the tile registers, and write gradients in tiles. Parameters and gradients lie in
memory as PyTorch has them. Each packed number has a place among all parameters, one after the other.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar10.kernels import amx
from cifar10.kernels.pooling_shapes import (
    TILE_BYTES,
    PoolingShapes,
    backward_filters,
    forward_filters,
    gradient_places,
    numbered,
    stem_filters,
    stem_gradient_places,
)

FLOATS_OF_TILE = TILE_BYTES // 4


@dataclass(frozen=True, eq=False)
class Packing:
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


def are_channels_last(parameters: Sequence[Tensor]) -> bool:
    weights = [parameter for parameter in parameters if parameter.ndim == 4]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def in_memory_order(tensor: Tensor, is_channels_last: bool) -> Tensor:
    """Return all numbers one after the other, without a copy if that is how they lie in memory."""
    is_permuted = is_channels_last and tensor.ndim == 4
    return (tensor.permute(0, 2, 3, 1) if is_permuted else tensor).reshape(-1)


def from_memory_order(numbers: Tensor, shape: torch.Size, is_channels_last: bool) -> Tensor:
    """Return the tensor of this shape whose numbers lie in memory in this order."""
    if not (is_channels_last and len(shape) == 4):
        return numbers.view(shape)
    channels_out, channels_in, height, width = shape
    return numbers.view(channels_out, height, width, channels_in).permute(0, 3, 1, 2)


@functools.cache
def packing_of(shapes: PoolingShapes, is_channels_last: bool) -> Packing:
    first, second = shapes.first, shapes.second
    weight_shapes = [
        (shapes.stem_width, 3, 5, 5),
        (first.channels_out, first.channels_in, 3, 3),
        (second.channels_out, second.channels_in, 3, 3),
    ]
    places, weights, biases = 0, [], []
    for shape in weight_shapes:
        numbers = numbered((math.prod(shape),), places)
        weights.append(from_memory_order(numbers, torch.Size(shape), is_channels_last))
        biases.append(numbered(shape[:1], places + weights[-1].numel()))
        places += weights[-1].numel() + shape[0]
    starts = [0, shapes.stem_tiles, shapes.stem_tiles + first.gradient_tiles]
    of_weights = [stem_gradient_places(shapes.stem_width), *(gradient_places(shape) for shape in weight_shapes[1:])]
    of_biases = numbered((sum(map(len, biases)),), shapes.gradient_tiles * FLOATS_OF_TILE).split([*map(len, biases)])
    gradients = [
        part
        for start, weight, bias in zip(starts, of_weights, of_biases, strict=True)
        for part in (in_memory_order(weight + start * FLOATS_OF_TILE, is_channels_last), bias)
    ]
    return Packing(
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

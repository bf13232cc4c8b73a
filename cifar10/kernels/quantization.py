"""8-bit integers for the layers of a network: ranges of their inputs, filters and constants.

Inputs are uint8: x = (q - zero) scale. Filters are int8, with a scale for each output and without zero point. Borders
hold the zero point, so its share of a sum is the same at all positions and becomes part of the shift. A sum fits int32
for up to 7,000 channels.

Shapes: C channels in, K out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cifar10.networks.layers import Conv3x3

_LOWEST = -0.2785
"""Of SiLU."""
_STEPS = 255
_MOST_WEIGHT = 127
_IMAGES = 64  # that are computed together
_SMALLEST = 1e-6  # range of an input that is always 0


class InputRange(NamedTuple):
    """What the uint8 inputs of a convolution stand for."""

    scale: float
    """Of a step."""
    zero_point: int
    """The number, 0 .. 255, that stands for 0."""


def input_ranges(network: nn.Module, images: Tensor, percentiles: Sequence[float]) -> list[list[InputRange]]:
    """Return for each of `percentiles` the range of each 3 x 3 convolution's inputs, in the order of the modules.

    Ranges begin at the lowest value of SiLU.

    Args:
        network: In evaluation mode; the inputs of its 3 x 3 convolutions are outputs of SiLU.
        images: uint8 (N, 3, S, S), N at least 1.
        percentiles: Parts of all values, in percent, that a range contains.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, Conv3x3)]
    tails = [_Tail(len(images), 1 - min(percentiles) / 100) for _ in layers]
    hooks = [layer.register_forward_pre_hook(tail.add) for layer, tail in zip(layers, tails, strict=True)]
    try:
        with torch.inference_mode():
            for part in images.split(_IMAGES):
                network(part)
    finally:
        for hook in hooks:
            hook.remove()
    return [[_input_range(tail.percentile(percentile)) for tail in tails] for percentile in percentiles]


def quantize_filters(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return filters, (K, C, 3, 3), as whole numbers in -127 .. 127, and the sizes of their steps, (K,)."""
    largest = weight.abs().amax(dim=(1, 2, 3))
    scales = torch.where(largest > 0, largest, 1.0) / _MOST_WEIGHT
    return (weight / scales[:, None, None, None]).round(), scales


def integer_constants(
    filters: Tensor,
    filter_scales: Tensor,
    shifts: Tensor,
    source: InputRange,
    target: InputRange | None,
    shortcut: InputRange | None,
) -> Tensor:
    """Return the constants of a layer, float32 (5, K), in the order of `fused_layer.SHIFT` and following.

    Args:
        filters: Whole numbers, (K, C, 3, 3).
        filter_scales: (K,).
        shifts: Added to the convolution, (K,).
        source: Of the inputs.
        target: Of the outputs; None: they are not rounded.
        shortcut: Of what is added before the activation, if anything is.
    """
    scales = filter_scales.double() * source.scale
    shifts = shifts.double() - scales * source.zero_point * filters.double().sum(dim=(1, 2, 3))
    if shortcut is not None:
        shifts = shifts - shortcut.scale * shortcut.zero_point
    numbers = [*output_constants(target), shortcut.scale if shortcut else 0.0]
    return torch.stack([shifts, scales, *(torch.full_like(shifts, number) for number in numbers)]).float()


def output_constants(target: InputRange | None) -> tuple[float, float]:
    """Return steps in 1, and the number that stands for 0."""
    return (1.0, 0.0) if target is None else (1 / target.scale, float(target.zero_point))


class _Tail:
    """The largest inputs of a layer, over several batches.

    Args:
        num_images: In all batches together.
        part: Of all values, that is kept.
    """

    def __init__(self, num_images: int, part: float) -> None:
        self._num_images = num_images
        self._part = part
        self._largest = torch.empty(0)
        self._num_values = 0

    def add(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Take the inputs of a batch, (B, C, H, W), as a hook of the layer."""
        values = inputs[0].float()
        self._num_values = values[0].numel() * self._num_images
        kept = torch.cat([self._largest, values.flatten()])
        most = min(len(kept), math.ceil(self._part * self._num_values) + 1)
        self._largest = kept.topk(most).values

    def percentile(self, percentile: float) -> float:
        """Return a value that `percentile` percent of all values do not exceed."""
        position = min(int((1 - percentile / 100) * self._num_values), len(self._largest) - 1)
        return float(self._largest[position])


def _input_range(highest: float) -> InputRange:
    scale = max(highest - _LOWEST, _SMALLEST) / _STEPS
    return InputRange(scale, min(round(-_LOWEST / scale), _STEPS))

"""The default network for inference on a CPU: a kernel a layer, in bfloat16 or in 8-bit integers.

Normalisation of pixels and batch normalisation become part of the filters. In bfloat16, weights and feature maps are
rounded and sums are float32: probabilities differ by some thousandths from those in float32. In integers, they are
rounded to 8 bits in given ranges, sums are exact, and normalisation and SiLU are float32.

Shapes: B images of S x S pixels, K classes.
"""

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cifar10.kernels import amx
from cifar10.kernels.arithmetic import BF16_AMX, INT8_AMX, INT8_VNNI, Arithmetic
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.first_layer import first_layer_kernel
from cifar10.kernels.fused_convolution import convolution_kernel
from cifar10.kernels.fused_layer import SLAB, FusedConvolution, Pooling
from cifar10.kernels.jit import PreparedCall
from cifar10.kernels.quantization import InputRange, integer_constants, output_constants, quantize_filters
from cifar10.kernels.thread_choice import ThreadChoice
from cifar10.networks.layers import BatchNormSiLU, Conv3x3, ConvPool
from cifar10.networks.speed import ConvolutionGroup, SpeedNet

_IMAGES_PER_THREAD = 32
_MAP_BYTES_PER_THREAD = 4 * 2**20  # of the largest maps
_GROUP = 8  # images that are computed with the same filters, while those are in the core's cache


class FusedNetwork:
    """uint8 (B, S, S, 3) -> probabilities (B, K).

    Args:
        network: Its weights are copied.
        image_size: S.
        arithmetic: Of all layers but the first and the last, which compute in float32.
        ranges: For integers, of the inputs of each 3 x 3 convolution.

    Raises:
        ValueError: There are no kernels for this network or this CPU, or another number of ranges is needed.
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        arithmetic: Arithmetic = BF16_AMX,
        ranges: Sequence[InputRange] = (),
    ) -> None:
        problem = obstacle(network, arithmetic)
        if problem is not None or not isinstance(network, SpeedNet):
            raise ValueError(problem)
        num_ranges = len(_convolutions(network)) if arithmetic.is_integer else 0
        if len(ranges) != num_ranges:
            raise ValueError(f"the network needs the ranges of {num_ranges} layers, and not of {len(ranges)}")
        self.arithmetic = arithmetic
        self._lock = threading.Lock()
        with torch.inference_mode():
            self._head = network.head.weight.float().T.contiguous().numpy()
            self._calls = _Calls(network, image_size, arithmetic, ranges)

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return class probabilities, (B, K), of `pixels`, uint8 (B, S, S, 3), RGB, C-contiguous."""
        most = self._calls.most_images
        with self._lock:  # the feature maps are in use
            parts = [self._calls.run(pixels[start : start + most]) for start in range(0, len(pixels), most)]
            logits = np.concatenate(parts) @ self._head if parts else np.empty((0, self._head.shape[1]), np.float32)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities


def obstacle(network: nn.Module, arithmetic: Arithmetic) -> str | None:
    """Return why `network` cannot be computed in `arithmetic` here; None if it can."""
    missing = arithmetic.missing()
    if missing is not None:
        return missing
    if not isinstance(network, SpeedNet):
        return f"there are no kernels for the network {type(network).__name__}"
    widths = [layer.out_channels for layer in _convolutions(network)]
    if any(width % SLAB for width in widths):
        return f"there are no kernels for {widths} channels, only for multiples of {SLAB}"
    return None


def integer_arithmetic() -> Arithmetic:
    """Return the fastest arithmetic in 8-bit integers that this CPU has; if it has none, a common one."""
    return INT8_VNNI if INT8_AMX.missing() else INT8_AMX


class _Layer(NamedTuple):
    convolution: FusedConvolution
    filters: Tensor
    constants: Tensor
    of_unit: Tensor
    """What the unit that multiplies needs beside those, see `convolution_kernel`."""


class _Calls:
    """The kernels of all layers, with memory for the maps between them."""

    def __init__(
        self, network: SpeedNet, image_size: int, arithmetic: Arithmetic, ranges: Sequence[InputRange]
    ) -> None:
        num_threads = torch.get_num_threads()
        side, width = network.whiten.kernel_size[0], network.whiten.out_channels
        maps = FeatureMaps(image_size - side + 1, width, arithmetic)
        layers = list(_layers(network, maps, ranges))
        zeros = [each.zero_point for each in ranges] or [0] * len(layers)
        image_bytes = maps.image_positions * maps.position_bytes
        of_thread = max(1, min(_IMAGES_PER_THREAD, _MAP_BYTES_PER_THREAD // image_bytes))
        self.most_images = of_thread * num_threads
        self._threads = defaultdict[int, ThreadChoice](functools.partial(ThreadChoice, num_threads))
        """Binary digits of the number of images -> threads for it."""
        self._group = min(_GROUP, of_thread)
        self._first_rows = maps.size
        overhang = 2 * max(layer.convolution.block_positions for layer in layers)
        buffers = [maps.allocate(self.most_images, overhang, zeros[0])]
        first = first_layer_kernel(image_size, side, maps)
        kernels = [convolution_kernel(layer.convolution, self._group) for layer in layers]
        workspaces = torch.empty(num_threads * max(kernel.workspace_size for kernel in (first, *kernels)))
        first_weights = _first_weights(network, maps, ranges[0] if ranges else None)
        self._first = PreparedCall(first, num_threads, [0, *first_weights, buffers[0]], workspaces)
        self._further: list[tuple[PreparedCall, int]] = []
        for number, (layer, kernel) in enumerate(zip(layers, kernels, strict=True), 1):
            convolution = layer.convolution
            is_last = convolution.pooling == "global"
            results = (
                torch.zeros(self.most_images, convolution.channels_out)
                if is_last
                else convolution.target.allocate(self.most_images, overhang, zeros[number])
            )
            shortcut = [buffers[-2]] if convolution.has_shortcut else []
            arguments: list[Tensor | int] = [
                buffers[-1],
                layer.filters,
                layer.constants,
                results,
                layer.of_unit,
                0,
                *shortcut,
            ]
            self._further.append((PreparedCall(kernel, num_threads, arguments, workspaces), convolution.num_slabs))
            buffers.append(results)
        self._results = buffers[-1].numpy()

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of the last layer for at most `most_images` images."""
        num_images = len(pixels)
        choice = self._threads[num_images.bit_length()]
        started = time.perf_counter()
        self._first.replace(0, pixels.ctypes.data)
        self._first.run(num_images * self._first_rows, choice.number)
        for call, num_slabs in self._further:
            call.replace(5, num_images)
            call.run(-(-num_images // self._group) * num_slabs, choice.number)
        choice.record(num_images, time.perf_counter() - started)
        return self._results[:num_images].copy()


def _first_weights(network: SpeedNet, maps: FeatureMaps, target: InputRange | None) -> tuple[Tensor, Tensor]:
    """Return filters for pixels in 0 .. 255, (side side 3, C), and constants, (rows, C)."""
    mean, std = network.normalize.mean.double(), network.normalize.std.double()
    scaled = network.whiten.weight.double() / std  # (24, 3, side, side)
    weights = torch.zeros(scaled[0].numel(), maps.channels)
    weights[:, : maps.num_channels] = scaled.permute(2, 3, 1, 0).reshape(-1, maps.num_channels)
    shifts = torch.zeros(maps.channels)
    shifts[: maps.num_channels] = -(scaled * mean).sum(dim=(1, 2, 3))
    further = [torch.full_like(shifts, number) for number in (1.0, *output_constants(target))]
    return weights, torch.stack([shifts, *further])


def _layers(network: SpeedNet, maps: FeatureMaps, ranges: Sequence[InputRange]) -> Iterator[_Layer]:
    """Yield the convolutions; the last one also computes the global maximum."""
    pairs = [pair for group in network.groups if isinstance(group, ConvolutionGroup) for pair in _pairs(group)]
    for number, (layer, norm, has_shortcut) in enumerate(pairs):
        pooling: Pooling = "pairs" if isinstance(layer, ConvPool) else "global" if number == len(pairs) - 1 else "none"
        convolution = FusedConvolution(
            maps.size, maps.num_channels, layer.out_channels, pooling, has_shortcut, maps.arithmetic
        )
        scale = (norm.running_var + norm.eps).rsqrt()
        filters = layer.weight * scale[:, None, None, None]
        shifts = norm.shift * norm.shift_gain - norm.running_mean * scale
        constants, of_unit = shifts.float()[None], amx.configuration()
        if ranges:
            filters, filter_scales = quantize_filters(filters)
            target, shortcut = _following(ranges, number), ranges[number - 1] if has_shortcut else None
            constants = integer_constants(filters, filter_scales, shifts, ranges[number], target, shortcut)
            if not maps.arithmetic.has_tiles:
                of_unit = convolution.starts(filters, ranges[number].zero_point)
        yield _Layer(convolution, convolution.pack(filters), constants, of_unit)
        maps = convolution.target


def _following(ranges: Sequence[InputRange], number: int) -> InputRange | None:
    return ranges[number + 1] if number + 1 < len(ranges) else None


def _convolutions(network: nn.Module) -> list[Conv3x3]:
    return [layer for layer in network.modules() if isinstance(layer, Conv3x3)]


def _pairs(group: ConvolutionGroup) -> Iterator[tuple[Conv3x3, BatchNormSiLU, bool]]:
    """Yield each convolution, what follows it, and whether the first pair's output is added before the activation."""
    yield group.convolve1, group.norm1, False
    yield group.convolve2, group.norm2, False
    if group.depth == 3:
        yield group.convolve3, group.norm3, True

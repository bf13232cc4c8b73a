"""Layers of inference in one pass each, by matrix tiles in bfloat16: 3 x 3 convolution, pooling, shift, SiLU.

A filter is nine matrices, one for each tap. With the maps of `FeatureMaps`, a tap's inputs for 16 neighbouring outputs
are a tile, so a convolution is a matrix product that is summed over taps and channels; no patches are copied. Its
float32 sums stay in the core's cache until they are pooled, activated and rounded.

Shapes: B images, C channels in, K out, maps of H x H.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cifar10.kernels.amx import DEPTH, ROWS, TILE_BYTES, Tiles, load_bfloat16, silu, store_bfloat16
from cifar10.kernels.arrays import FloatArray, byte_array, float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.jit import Kernel

SLAB = 2 * ROWS
"""Outputs that are computed together: K is a multiple of it."""
_TAPS = 3
_LANES = 16
_HALVES = range(SLAB // _LANES)
_FLOAT_BYTES = 4
_SMALL_MAP = 64  # positions; of smaller maps, all rows are computed together
_SLAB_BYTES = _FLOAT_BYTES * SLAB

Pooling = Literal["none", "pairs", "global"]
"""none: (B, K, H, H) in bfloat16. pairs: the largest of 2 x 2, (B, K, H//2, H//2) in bfloat16. global: the largest of
all positions after the activation, (B, K) in float32."""


@dataclass(frozen=True)
class FusedConvolution:
    """SiLU(pool(convolution) + shift + shortcut)."""

    size: int
    """H."""
    channels_in: int
    channels_out: int
    pooling: Pooling
    has_shortcut: bool = False

    @property
    def source(self) -> FeatureMaps:
        return FeatureMaps(self.size, self.channels_in)

    @property
    def target(self) -> FeatureMaps:
        """The maps that it writes, unless it pools globally."""
        return FeatureMaps(self.size // 2 if self.pooling == "pairs" else self.size, self.channels_out)

    @property
    def num_slabs(self) -> int:
        return self.channels_out // SLAB

    @property
    def rows_needed(self) -> int:
        """Rows of the convolution: of an odd size, pooling drops the last."""
        return self.size // 2 * 2 if self.pooling == "pairs" else self.size

    @property
    def block_rows(self) -> int:
        """Rows that are computed together: two tiles of positions at least, if there are so many."""
        if self.pooling == "global" or self.rows_needed * self.source.pitch <= _SMALL_MAP:
            return self.rows_needed
        step = 2 if self.pooling == "pairs" else 1
        return step * -(-2 * ROWS // (step * self.source.pitch))

    @property
    def block_tiles(self) -> int:
        return -(-self.block_rows * self.source.pitch // ROWS)

    def pack(self, weight: Tensor) -> Tensor:
        """Return filters, (K, C, 3, 3), as the kernel reads them: bfloat16, a slab after the other."""
        padded = torch.zeros(self.channels_out, self.source.channels, _TAPS, _TAPS)
        padded[:, : weight.shape[1]] = weight
        parts = padded.view(self.num_slabs, len(_HALVES), ROWS, -1, DEPTH // 2, 2, _TAPS**2)
        return parts.permute(0, 3, 6, 1, 4, 2, 5).contiguous().to(torch.bfloat16)


@functools.cache
def convolution_kernel(layer: FusedConvolution, group: int) -> Kernel:
    """Compile `layer`. An item is a slab of outputs of `group` images; slabs of the same images follow each other.

    Arguments: source, packed filters, shifts (K,), target, `amx.configuration()`, B, and the maps of the shortcut.
    """
    finish = {"none": _finish_maps, "pairs": _finish_pairs, "global": _finish_global}[layer.pooling]
    slab_filter_bytes = layer.source.channels // DEPTH * _TAPS**2 * len(_HALVES) * TILE_BYTES

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, filters, shifts, target, configuration, num_images, *shortcut = arguments
        tiles = Tiles(builder)
        tiles.configure(configuration)
        sums = builder.allocate(layer.block_tiles * ROWS * SLAB)
        with builder.loop(first, end) as item:
            slab, start = item % layer.num_slabs, item // layer.num_slabs * group
            shift = [float_array(builder, shifts).load(slab * SLAB + _LANES * half) for half in _HALVES]
            output = _Output(builder, layer, float_array(builder, sums), shift, slab, target, shortcut)
            with (
                builder.loop(start, builder.minimum(start + group, num_images)) as image,
                builder.loop(0, layer.rows_needed, layer.block_rows) as row,
            ):
                inputs = source + layer.source.offset(image, row, 0)
                _multiply(builder, layer, tiles, inputs, filters + slab * slab_filter_bytes, sums)
                finish(output, image, row)
        tiles.release()

    return Kernel(emit, num_arguments=7 if layer.has_shortcut else 6, num_lanes=_LANES)


def _multiply(
    builder: KernelBuilder, layer: FusedConvolution, tiles: Tiles, inputs: Integer, filters: Integer, sums: Integer
) -> None:
    """Write the sums of a block, float32 (positions, 32), two tiles of positions at a time."""
    stride = layer.source.position_bytes
    for first in range(0, layer.block_tiles, 2):
        positions = range(first, min(first + 2, layer.block_tiles))
        for total in range(2 * len(positions)):  # registers 0 .. 3; 4 and 5 hold inputs, 6 and 7 filters
            tiles.zero(total)
        with builder.loop(0, layer.source.channels // DEPTH) as depth:
            tap_filters, tap_inputs = filters + depth * (_TAPS**2 * 2 * TILE_BYTES), inputs + depth * (2 * DEPTH)
            for tap in range(_TAPS**2):
                shift = (tap // _TAPS - 1) * layer.source.pitch + tap % _TAPS - 1
                for half in _HALVES:
                    tiles.load(6 + half, tap_filters + (2 * tap + half) * TILE_BYTES, TILE_BYTES // ROWS)
                for number, tile in enumerate(positions):
                    tiles.load(4 + number, tap_inputs + (shift + tile * ROWS) * stride, stride)
                    for half in _HALVES:
                        tiles.add_product(2 * number + half, 4 + number, 6 + half)
        for number, tile in enumerate(positions):
            for half in _HALVES:
                place = sums + (tile * ROWS * _SLAB_BYTES + half * _FLOAT_BYTES * _LANES)
                tiles.store(2 * number + half, place, _SLAB_BYTES)


@dataclass(frozen=True)
class _Output:
    """A slab of a block: its sums, and where its results go."""

    builder: KernelBuilder
    layer: FusedConvolution
    sums: FloatArray
    shift: list[Vector]
    slab: Integer
    target: Integer
    shortcut: Sequence[Integer]

    def load(self, row: Integer, column: Integer, half: int) -> Vector:
        """Return the sums at a position of the block."""
        return self.sums.load(row * (self.layer.source.pitch * SLAB) + column * SLAB + _LANES * half)

    def activated(self, total: Vector, half: int, place: Integer | None = None) -> Vector:
        shifted = total + self.shift[half]
        if place is not None and self.shortcut:
            shifted = shifted + load_bfloat16(self.builder, self.shortcut[0] + place)
        return silu(self.builder, shifted)

    def place(self, image: Integer, row: Integer, column: Integer, half: int) -> Integer:
        """Return the bytes from the beginning of the target's memory to the channels of this half."""
        return self.layer.target.offset(image, row, column) + self.slab * (2 * SLAB) + 2 * _LANES * half

    def store(self, total: Vector, half: int, place: Integer) -> None:
        store_bfloat16(self.builder, self.activated(total, half, place), self.target + place)


def _finish_maps(output: _Output, image: Integer, row: Integer) -> None:
    builder, layer = output.builder, output.layer
    num_rows = builder.minimum(builder.integer(layer.block_rows), builder.integer(layer.rows_needed) - row)
    with builder.loop(0, num_rows) as y, builder.loop(0, layer.size) as x:
        for half in _HALVES:
            output.store(output.load(y, x, half), half, output.place(image, row + y, x, half))


def _finish_pairs(output: _Output, image: Integer, row: Integer) -> None:
    builder, layer = output.builder, output.layer
    num_rows = builder.minimum(builder.integer(layer.block_rows), builder.integer(layer.rows_needed) - row)
    with builder.loop(0, num_rows // 2) as y, builder.loop(0, layer.size // 2) as x:
        for half in _HALVES:
            upper, lower = (_larger(*(output.load(y * 2 + dy, x * 2 + dx, half) for dx in (0, 1))) for dy in (0, 1))
            output.store(_larger(upper, lower), half, output.place(image, row // 2 + y, x, half))


def _finish_global(output: _Output, image: Integer, row: Integer) -> None:
    builder, layer = output.builder, output.layer
    results = float_array(builder, output.target)
    for half in _HALVES:

        def larger_of_row(y: Integer, largest: list[Vector], half: int = half) -> list[Vector]:
            def larger(x: Integer, largest: list[Vector]) -> list[Vector]:
                place = output.place(image, y, x, half)
                return [_larger(output.activated(output.load(y, x, half), half, place), largest[0])]

            return builder.fold(0, layer.size, largest, larger)

        [largest] = builder.fold(0, layer.size, [builder.constant(-1.0)], larger_of_row)  # SiLU is above -0.28
        results.store(largest, image * layer.channels_out + output.slab * SLAB + _LANES * half)


def _larger(one: Vector, other: Vector) -> Vector:
    return one.builder.select(one.greater(other), one, other)


@functools.cache
def first_layer_kernel(image_size: int, side: int, num_channels: int) -> Kernel:
    """Compile SiLU(convolution) of pixels, uint8 (B, S, S, 3), with `side` x `side` filters and no border.

    An item is a row of an image. Arguments: pixels, weights (side side 3, C) and shifts (C,) in float32, target.
    """
    target_maps = FeatureMaps(image_size - side + 1, num_channels)
    row_numbers = 3 * image_size
    vectors = range(target_maps.channels // _LANES)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        pixels, weights, shifts, target = arguments
        weight, shift = float_array(builder, weights), float_array(builder, shifts)
        rows = float_array(builder, builder.allocate(side * row_numbers))
        numbers = range(side * side * 3)
        scales = [[weight.load(n * target_maps.channels + _LANES * vector) for vector in vectors] for n in numbers]
        with builder.loop(first, end) as item:
            image, row = item // target_maps.size, item % target_maps.size
            for y in range(side):
                bytes_of_row = byte_array(builder, pixels + (image * image_size + row + y) * row_numbers)
                _widen(builder, bytes_of_row, rows, y * row_numbers, row_numbers)
            with builder.loop(0, target_maps.size) as x:
                sums = [shift.load(_LANES * vector) for vector in vectors]
                for number in numbers:
                    y, place = divmod(number, side * 3)
                    pixel = rows.broadcast(x * 3 + (y * row_numbers + place))
                    sums = [pixel * scales[number][vector] + sums[vector] for vector in vectors]
                for vector in vectors:
                    place_of = target + target_maps.offset(image, row, x) + 2 * _LANES * vector
                    store_bfloat16(builder, silu(builder, sums[vector]), place_of)

    return Kernel(emit, num_arguments=4, num_lanes=_LANES)


def _widen(builder: KernelBuilder, source: Any, target: FloatArray, start: int, length: int) -> None:
    """Convert `length` uint8 to float32; the last vector overlaps the one before it, so that no more is read."""
    with builder.loop(0, length // _LANES * _LANES, _LANES) as place:
        target.store(source.load(place).to_float(), place + start)
    if length % _LANES:
        place = builder.integer(length - _LANES)
        target.store(source.load(place).to_float(), place + start)

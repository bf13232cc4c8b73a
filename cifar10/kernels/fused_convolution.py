"""Layers of inference in one pass each: 3 x 3 convolution, pooling, shift, SiLU.

The sums of a convolution stay in the core's cache until they are pooled, activated and rounded.

Shapes: B images, C channels in, K out, maps of H x H.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cifar10.kernels.amx import ROWS, Tiles
from cifar10.kernels.arithmetic import silu
from cifar10.kernels.arrays import float_array, int_array
from cifar10.kernels.block_sums import multiply_tiles, multiply_vectors
from cifar10.kernels.codegen import AnyVector, Integer, IntVector, KernelBuilder, Vector
from cifar10.kernels.fused_layer import (
    HALVES,
    LANES,
    OUTPUT_SCALE,
    OUTPUT_ZERO,
    SCALE,
    SHIFT,
    SHORTCUT_SCALE,
    SLAB,
    SUM_BYTES,
    TAPS,
    FusedConvolution,
)
from cifar10.kernels.jit import Kernel


@functools.cache
def convolution_kernel(layer: FusedConvolution, group: int) -> Kernel:
    """Compile `layer`. An item is a slab of outputs of `group` images; slabs of the same images follow each other.

    Arguments: source, packed filters, constants (rows, K), target, `amx.configuration()` for tiles or
    `FusedConvolution.starts` for vectors, B, and the maps of the shortcut.
    """
    finish = {"none": _finish_maps, "pairs": _finish_pairs, "global": _finish_global}[layer.pooling]
    slab_filter_bytes = layer.num_depths * TAPS**2 * len(HALVES) * layer.half_bytes

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, filters, constants, target, of_unit, num_images, *shortcut = arguments
        tiles = Tiles(builder)
        if layer.arithmetic.has_tiles:
            tiles.configure(of_unit)
        sums = builder.allocate(layer.block_tiles * ROWS * SLAB)
        with builder.loop(first, end) as item:
            slab, start = item % layer.num_slabs, item // layer.num_slabs * group
            output = _Output(builder, layer, sums, _Constants(builder, layer, constants, slab), slab, target, shortcut)
            with (
                builder.loop(start, builder.minimum(start + group, num_images)) as image,
                builder.loop(0, layer.side_needed, layer.block_rows) as row,
            ):
                inputs, slab_filters = source + layer.source.offset(image, row, 0), filters + slab * slab_filter_bytes
                if layer.arithmetic.has_tiles:
                    multiply_tiles(builder, layer, tiles, inputs, slab_filters, sums)
                else:
                    starts = of_unit + slab * (SLAB * SUM_BYTES)
                    multiply_vectors(builder, layer, inputs, slab_filters, sums, starts, row)
                finish(output, image, row)
        if layer.arithmetic.has_tiles:
            tiles.release()

    return Kernel(emit, num_arguments=7 if layer.has_shortcut else 6, num_lanes=LANES)


class _Constants:
    """The constants of a slab, each a vector for each half."""

    def __init__(self, builder: KernelBuilder, layer: FusedConvolution, address: Integer, slab: Integer) -> None:
        array = float_array(builder, address)

        def load(row: int) -> list[Vector]:
            return [array.load(slab * SLAB + (row * layer.channels_out + LANES * half)) for half in HALVES]

        self.shift = load(SHIFT)
        if layer.arithmetic.is_integer:
            self.scale, self.output_scale, self.output_zero = load(SCALE), load(OUTPUT_SCALE), load(OUTPUT_ZERO)
            self.shortcut_scale = load(SHORTCUT_SCALE)


@dataclass(frozen=True)
class _Output:
    """A slab of a block: its sums, and where its results go."""

    builder: KernelBuilder
    layer: FusedConvolution
    sums: Integer
    constants: _Constants
    slab: Integer
    target: Integer
    shortcut: Sequence[Integer]

    def load(self, row: Integer, column: Integer, half: int) -> Any:
        """Return the sums at a position of the block: a Vector, or an IntVector."""
        array = (int_array if self.layer.arithmetic.is_integer else float_array)(self.builder, self.sums)
        return array.load(row * (self.layer.source.pitch * SLAB) + column * SLAB + LANES * half)

    def activated(self, total: Vector | IntVector, half: int, place: Integer | None = None) -> Vector:
        constants = self.constants
        if isinstance(total, IntVector):
            total = total.to_float() * constants.scale[half]
        shifted = total + constants.shift[half]
        if place is not None and self.shortcut:
            shortcut = self.layer.arithmetic.load(self.builder, self.shortcut[0] + place)
            shifted = shifted + (
                shortcut * constants.shortcut_scale[half] if self.layer.arithmetic.is_integer else shortcut
            )
        return silu(self.builder, shifted)

    def place(self, image: Integer, row: Integer, column: Integer, half: int) -> Integer:
        """Return the bytes from the beginning of the target's memory to the channels of this half."""
        channel = self.slab * SLAB + LANES * half
        return self.layer.target.offset(image, row, column) + channel * self.layer.arithmetic.bytes

    def store(self, total: Vector | IntVector, half: int, place: Integer) -> None:
        result = self.activated(total, half, place)
        if self.layer.arithmetic.is_integer:
            result = result * self.constants.output_scale[half] + self.constants.output_zero[half]
        self.layer.arithmetic.store(self.builder, result, self.target + place)


def _finish_maps(output: _Output, image: Integer, row: Integer) -> None:
    builder, layer = output.builder, output.layer
    num_rows = builder.minimum(builder.integer(layer.block_rows), builder.integer(layer.side_needed) - row)
    with builder.loop(0, num_rows) as y, builder.loop(0, layer.size) as x:
        for half in HALVES:
            output.store(output.load(y, x, half), half, output.place(image, row + y, x, half))


def _finish_pairs(output: _Output, image: Integer, row: Integer) -> None:
    builder, layer = output.builder, output.layer
    num_rows = builder.minimum(builder.integer(layer.block_rows), builder.integer(layer.side_needed) - row)
    with builder.loop(0, num_rows // 2) as y, builder.loop(0, layer.size // 2) as x:
        for half in HALVES:
            upper, lower = (_larger(*(output.load(y * 2 + dy, x * 2 + dx, half) for dx in (0, 1))) for dy in (0, 1))
            output.store(_larger(upper, lower), half, output.place(image, row // 2 + y, x, half))


def _finish_global(output: _Output, image: Integer, row: Integer) -> None:
    builder, layer = output.builder, output.layer
    results = float_array(builder, output.target)
    for half in HALVES:

        def larger_of_row(y: Integer, largest: list[Vector], half: int = half) -> list[Vector]:
            def larger(x: Integer, largest: list[Vector]) -> list[Vector]:
                place = output.place(image, y, x, half)
                return [_larger(output.activated(output.load(y, x, half), half, place), largest[0])]

            return builder.fold(0, layer.size, largest, larger)

        [largest] = builder.fold(0, layer.size, [builder.constant(-1.0)], larger_of_row)  # SiLU is above -0.28
        results.store(largest, image * layer.channels_out + output.slab * SLAB + LANES * half)


def _larger(one: AnyVector, other: AnyVector) -> AnyVector:
    return one.builder.select(one.greater(other), one, other)

"""The sums of a 3 x 3 convolution for a block of positions: a product of matrices for each tap.

A filter is nine matrices, one for each tap. With the maps of `FeatureMaps`, a tap's inputs for neighbouring outputs lie
side by side, so a convolution is a matrix product that is summed over taps and channels; no patches are copied.
"""

from collections.abc import Sequence

from cifar10.kernels.amx import ROW_BYTES, ROWS, Tiles
from cifar10.kernels.arrays import int_array
from cifar10.kernels.codegen import Integer, IntVector, KernelBuilder, declare
from cifar10.kernels.fused_layer import HALVES, LANES, SLAB, TAPS, FusedConvolution

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

_SUM_BYTES = 4
_SLAB_BYTES = _SUM_BYTES * SLAB
_UNROLLED = 2  # groups of channels; of more, LLVM keeps inputs on the stack


def multiply_tiles(
    builder: KernelBuilder, layer: FusedConvolution, tiles: Tiles, inputs: Integer, filters: Integer, sums: Integer
) -> None:
    """Write the sums of a block, float32 or int32 (positions, 32), two tiles of positions at a time.

    Args:
        builder: Of the kernel.
        layer: Whose arithmetic has tiles.
        tiles: Configured.
        inputs: Address of the first position of the block.
        filters: Address of the packed filters of a slab.
        sums: Address of the sums.
    """
    stride = layer.source.position_bytes
    for first in range(0, layer.block_tiles, 2):
        positions = range(first, min(first + 2, layer.block_tiles))
        for total in range(2 * len(positions)):  # registers 0 .. 3; 4 and 5 hold inputs, 6 and 7 filters
            tiles.zero(total)
        with builder.loop(0, layer.num_depths) as depth:
            tap_filters, tap_inputs = filters + depth * (TAPS**2 * 2 * layer.half_bytes), inputs + depth * ROW_BYTES
            for tap in range(TAPS**2):
                shift = layer.tap_positions(tap)
                for half in HALVES:
                    tiles.load(6 + half, tap_filters + (2 * tap + half) * layer.half_bytes, ROW_BYTES)
                for number, tile in enumerate(positions):
                    tiles.load(4 + number, tap_inputs + (shift + tile * ROWS) * stride, stride)
                    for half in HALVES:
                        tiles.add_product(layer.arithmetic.instruction, 2 * number + half, 4 + number, 6 + half)
        for number, tile in enumerate(positions):
            for half in HALVES:
                place = sums + (tile * ROWS * _SLAB_BYTES + half * _SUM_BYTES * LANES)
                tiles.store(2 * number + half, place, _SLAB_BYTES)


def multiply_vectors(
    builder: KernelBuilder, layer: FusedConvolution, inputs: Integer, filters: Integer, sums: Integer
) -> None:
    """Write the sums of a block, int32 (positions, 32), in vectors of 16 outputs; arguments as for `multiply_tiles`."""
    for positions in layer.position_blocks:
        totals = _sums_in_registers(builder, layer, positions, inputs, filters)
        for number, total in enumerate(totals):
            place, half = divmod(number, len(HALVES))
            int_array(builder, sums).store(total, positions[place] * SLAB + half * LANES)


def _sums_in_registers(
    builder: KernelBuilder, layer: FusedConvolution, positions: Sequence[int], inputs: Integer, filters: Integer
) -> list[IntVector]:
    """Return the sums of some positions of a block, two vectors for each."""

    def add_depth(depth: Integer, totals: list[IntVector]) -> list[IntVector]:
        depth_inputs = inputs + depth * (layer.depth * layer.arithmetic.bytes)

        def add_tap(tap: Integer, totals: list[IntVector]) -> list[IntVector]:
            tap_inputs = depth_inputs + layer.tap_positions(tap) * layer.source.position_bytes
            tap_filters = filters + (depth * TAPS**2 + tap) * (len(HALVES) * layer.half_bytes)
            return _add_tap(builder, layer, positions, tap_inputs, tap_filters, totals)

        return builder.fold(0, TAPS**2, totals, add_tap)

    zeros = [builder.int_constant(0)] * (len(HALVES) * len(positions))
    return builder.fold(0, layer.num_depths, zeros, add_depth)


def _add_tap(
    builder: KernelBuilder,
    layer: FusedConvolution,
    positions: Sequence[int],
    inputs: Integer,
    filters: Integer,
    totals: list[IntVector],
) -> list[IntVector]:
    """Return `totals`, two vectors for each position, with the products of a tap added."""
    position_numbers, half_numbers = layer.source.position_bytes // _SUM_BYTES, layer.half_bytes // _SUM_BYTES

    def add_groups(group: Integer, totals: list[IntVector]) -> list[IntVector]:
        added = list(totals)
        for further in range(_UNROLLED):
            of_group = int_array(builder, filters + (group + further) * (_SUM_BYTES * LANES))
            weights = [of_group.load(half * half_numbers) for half in HALVES]
            values = int_array(builder, inputs + (group + further) * _SUM_BYTES)
            for number, position in enumerate(positions):
                value = values.broadcast(position * position_numbers)
                for half in HALVES:
                    place = len(HALVES) * number + half
                    added[place] = _add_products(builder, added[place], value, weights[half])
        return added

    return builder.fold(0, layer.depth // layer.arithmetic.group, totals, add_groups, step=_UNROLLED)


def _add_products(builder: KernelBuilder, total: IntVector, values: IntVector, weights: IntVector) -> IntVector:
    """Add to each lane the sum of the products of its four uint8 and its four int8."""
    kind = ir.FunctionType(builder.int_vector_type, [builder.int_vector_type] * 3)
    function = declare(builder.llvm.module, "llvm.x86.avx512.vpdpbusd.512", kind)
    return IntVector(builder, builder.llvm.call(function, [total.value, values.value, weights.value]))

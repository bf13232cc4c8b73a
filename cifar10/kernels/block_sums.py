"""The sums of a 3 x 3 convolution for a block of positions: a product of matrices for each tap.

A filter is nine matrices, one for each tap. With the maps of `FeatureMaps`, a tap's inputs for neighbouring outputs lie
side by side, so a convolution is a matrix product that is summed over taps and channels; no patches are copied.
"""

from collections.abc import Sequence

from cifar10.kernels.amx import ROW_BYTES, ROWS, Tiles
from cifar10.kernels.arrays import int_array
from cifar10.kernels.codegen import Integer, IntVector, KernelBuilder, declare
from cifar10.kernels.fused_layer import (
    AT_FIRST,
    AT_LAST,
    HALVES,
    LANES,
    NUM_BORDERS,
    SLAB,
    SUM_BYTES,
    TAPS,
    FusedConvolution,
)

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

_SLAB_BYTES = SUM_BYTES * SLAB
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
                place = sums + (tile * ROWS * _SLAB_BYTES + half * SUM_BYTES * LANES)
                tiles.store(2 * number + half, place, _SLAB_BYTES)


def multiply_vectors(
    builder: KernelBuilder,
    layer: FusedConvolution,
    inputs: Integer,
    filters: Integer,
    sums: Integer,
    starts: Integer,
    first_row: Integer,
) -> None:
    """Write the sums of a block, int32 (positions, 32), in vectors of 16 outputs.

    Taps on the border are left out: of 7 x 7 positions, those are 18 % of the products.

    Args:
        builder: Of the kernel.
        layer: Whose arithmetic has no tiles.
        inputs: Address of the first position of the block.
        filters: Address of the packed filters of a slab.
        sums: Address of the sums.
        starts: Address of the slab's part of `FusedConvolution.starts`.
        first_row: Of the block.
    """
    one = builder.integer(1)
    with builder.loop(0, layer.block_rows) as row_of_block:
        row = first_row + row_of_block
        tap_rows = one - builder.minimum(row, one), builder.minimum(builder.integer(layer.size) - row + 1, one * TAPS)
        border = tap_rows[0] * AT_FIRST + (one * TAPS - tap_rows[1]) * AT_LAST
        row_starts = int_array(builder, starts + border * (NUM_BORDERS * layer.channels_out * SUM_BYTES))
        row_inputs = inputs + row_of_block * (layer.source.pitch * layer.source.position_bytes)
        row_sums = int_array(builder, sums + row_of_block * (layer.source.pitch * _SLAB_BYTES))
        for columns in layer.column_parts:
            begin = [
                row_starts.load(layer.border(column) * layer.channels_out + half * LANES)
                for column in columns
                for half in HALVES
            ]
            totals = _add_products_of_columns(builder, layer, columns, tap_rows, row_inputs, filters, begin)
            for number, total in enumerate(totals):
                column, half = divmod(number, len(HALVES))
                row_sums.store(total, columns[column] * SLAB + half * LANES)


def _add_products_of_columns(
    builder: KernelBuilder,
    layer: FusedConvolution,
    columns: range,
    tap_rows: tuple[Integer, Integer],
    inputs: Integer,
    filters: Integer,
    totals: list[IntVector],
) -> list[IntVector]:
    """Return `totals`, two vectors for each of some columns of a row, with the products of some rows of taps added."""

    def add_depth(depth: Integer, totals: list[IntVector]) -> list[IntVector]:
        depth_inputs = inputs + depth * (layer.depth * layer.arithmetic.bytes)

        def add_tap_row(tap_row: Integer, totals: list[IntVector]) -> list[IntVector]:
            for tap_column in range(TAPS):
                tap = tap_row * TAPS + tap_column
                tap_inputs = depth_inputs + layer.tap_positions(tap) * layer.source.position_bytes
                tap_filters = filters + (depth * TAPS**2 + tap) * (len(HALVES) * layer.half_bytes)
                inside = range(max(columns.start, 1 - tap_column), min(columns.stop, layer.size + 1 - tap_column))
                first, end = (len(HALVES) * (column - columns.start) for column in (inside.start, inside.stop))
                added = _add_tap(builder, layer, inside, tap_inputs, tap_filters, totals[first:end])
                totals = [*totals[:first], *added, *totals[end:]]
            return totals

        return builder.fold(*tap_rows, totals, add_tap_row)

    return builder.fold(0, layer.num_depths, totals, add_depth)


def _add_tap(
    builder: KernelBuilder,
    layer: FusedConvolution,
    columns: Sequence[int],
    inputs: Integer,
    filters: Integer,
    totals: list[IntVector],
) -> list[IntVector]:
    """Return `totals`, two vectors for each of some columns, with the products of a tap added."""
    position_numbers, half_numbers = layer.source.position_bytes // SUM_BYTES, layer.half_bytes // SUM_BYTES

    def add_groups(group: Integer, totals: list[IntVector]) -> list[IntVector]:
        added = list(totals)
        for further in range(_UNROLLED):
            of_group = int_array(builder, filters + (group + further) * (SUM_BYTES * LANES))
            weights = [of_group.load(half * half_numbers) for half in HALVES]
            values = int_array(builder, inputs + (group + further) * SUM_BYTES)
            for number, column in enumerate(columns):
                value = values.broadcast(column * position_numbers)
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

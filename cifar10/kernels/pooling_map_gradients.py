"""Gradients of the maps of an image, from the last to the first: through activations, convolutions and halving."""

from collections.abc import Callable
from itertools import product

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES, ROWS
from cifar10.kernels.arrays import float_array
from cifar10.kernels.bfloat16_units import Factor, Unit
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.halves import BYTES, LANES
from cifar10.kernels.pooling_shapes import DEPTH, TILE_BYTES, Stage
from cifar10.kernels.tile_products import Sums, add_products, in_twos

_FLOAT_BYTES = 4

Store = Callable[[Integer, Integer, Integer, int, list[Vector]], None]
"""Row, column, its half, number of a group of 16 channels, and the gradients of two neighbouring positions there."""


def through_activation(
    builder: KernelBuilder, stage: Stage, features: Integer, gradient: Integer, store: Store
) -> None:
    """Store the gradient after a stage of 4 x 4 positions: that of its activated outputs, where these are positive.

    Args:
        builder: Of the kernel.
        stage: The last one.
        features: Address of the activated outputs, float32 (K, H H).
        gradient: Address of their gradient.
        store: Is called for all positions.
    """
    values, given, zero = float_array(builder, features), float_array(builder, gradient), builder.constant(0.0)
    for group in range(stage.channels_out // LANES):
        rows = []
        for channel in range(LANES):
            place = (LANES * group + channel) * LANES
            is_positive = builder.llvm.fcmp_ordered(">", values.load(place).value, zero.value)
            rows.append(builder.select(is_positive, given.load(place), zero).value)
        columns = [Vector(builder, column) for column in halves.transposed(builder, rows)]
        for position in range(0, LANES, 2):
            row, column = divmod(position, stage.size)
            row_number, column_number, half = map(builder.integer, (row, column, column // 2))
            store(row_number, column_number, half, group, columns[position : position + 2])


def gradient_of_maps(unit: Unit, stage: Stage, rows: Integer, filters: Integer, sums: Integer) -> None:
    """Write the gradient of each map before the convolution of a stage: products of filters, summed over their taps.

    Args:
        unit: Configured.
        stage: The stage.
        rows: Address of the gradient after it, (positions, K).
        filters: Address of its filters, packed for gradients.
        sums: Address of the result, float32 (maps, tiles of positions, C).
    """
    groups, depths = stage.channels_in // LANES, stage.channels_out // DEPTH
    position_bytes = BYTES * stage.channels_out

    def sum_at(source: int, row: int, group: int) -> Integer:
        return sums + _FLOAT_BYTES * ((source * stage.num_tiles + row) * ROWS * stage.channels_in + LANES * group)

    def row_at(row: int, shift: int, depth: int) -> Integer:
        return rows + ((stage.origin() + row * ROWS - shift) * position_bytes + depth * ROW_BYTES)

    def filter_at(tap: int, depth: int, group: int) -> Integer:
        return filters + ((tap * depths + depth) * groups + group) * TILE_BYTES

    for source, lines, columns in product(range(stage.num_maps), in_twos(stage.num_tiles), in_twos(groups)):
        addresses = [[sum_at(source, row, group) for group in columns] for row in lines]
        total = Sums(addresses, _FLOAT_BYTES * stage.channels_in)
        total.zero(unit)
        rows_of_lines = [stage.rows_of_tile(row) for row in lines]
        taps = [(tap, shift) for tap, (of_map, shift) in enumerate(stage.taps) if of_map == source]
        for (tap, shift), depth in product(taps, range(depths)):
            left = Factor([row_at(row, shift, depth) for row in lines], position_bytes, rows_of_lines)
            right = Factor([filter_at(tap, depth, group) for group in columns], ROW_BYTES)
            add_products(unit, [(left, right)])
        total.store(unit)


def through_halving(builder: KernelBuilder, stage: Stage, sums: Integer, bits: Integer, store: Store) -> None:
    """Store the gradient of the map before halving: that of the halved maps, where the bits let it through.

    Args:
        builder: Of the kernel.
        stage: That halves it.
        sums: Address of the gradient of the halved maps, as from `gradient_of_maps`.
        bits: Address of the bits of an image, (H, H, 2 x 2, C / 16) of 16 each.
        store: Is called for all positions.
    """
    groups, zero, numbers = stage.channels_in // LANES, builder.constant(0.0), float_array(builder, sums)
    map_numbers = stage.num_tiles * ROWS * stage.channels_in
    with builder.loop(0, stage.size) as row, builder.loop(0, stage.size) as column:
        place = (row * stage.pitch + column) * stage.channels_in
        first_bits = (row * stage.size + column) * (4 * groups)
        for group in range(groups):
            values = [numbers.load(place + (number * map_numbers + LANES * group)) for number in range(stage.num_maps)]
            if stage.way == "average":
                values = [values[0] * 0.25]
            for y in range(2):
                both = []
                for x in range(2):
                    number = 2 * y + x
                    flow = halves.load_mask(builder, bits + (first_bits + (number * groups + group)) * BYTES)
                    both.append(builder.select(flow, values[number % stage.num_maps], zero))
                store(row * 2 + y, column * 2, column, group, both)

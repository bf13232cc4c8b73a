"""Left factors for the gradients of filters: maps and pixels with their positions side by side."""

from cifar10.kernels import halves
from cifar10.kernels.arrays import float_array
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.halves import BYTES, LANES, Layout
from cifar10.kernels.pooling_shapes import (
    DEPTH,
    IMAGE_CHANNELS,
    IMAGE_SIZE,
    STEM_PADDING,
    STEM_SIDE,
    STEM_SIZE,
    Stage,
)

ROWS_OF_PARITY = STEM_SIZE + STEM_SIDE // 2
"""Even, or odd, rows of a padded image."""
SHIFTED_BYTES = 2 * ROWS_OF_PARITY * STEM_SIZE * BYTES
"""Of every second column of a channel: even rows, then odd ones."""


def transpose_maps(builder: KernelBuilder, stage: Stage, maps: Integer, target: Integer) -> None:
    """Write maps, (maps, positions, C), with positions and channels exchanged, (maps, C, positions)."""
    position_bytes = BYTES * stage.channels_in
    with builder.loop(0, stage.num_maps) as number, builder.loop(0, stage.positions, DEPTH) as first:
        source = maps + number * stage.map_bytes + first * position_bytes
        goal = target + number * stage.map_bytes + first * BYTES
        for group in range(stage.channels_in // LANES):
            rows = [
                halves.load_raw(builder, source + (position * position_bytes + group * LANES * BYTES))
                for position in range(DEPTH)
            ]
            paired = [halves.pairs(builder, rows[2 * pair], rows[2 * pair + 1]).value for pair in range(DEPTH // 2)]
            for channel, column in enumerate(halves.transposed(builder, paired)):
                halves.store_raw(builder, column, goal + (group * LANES + channel) * (stage.positions * BYTES))


def shift_pixels(
    builder: KernelBuilder, pixels: Integer, layout: Layout, normalization: Integer, target: Integer
) -> None:
    """Write what each filter weight is multiplied with: every second column, shifted by the weight's column.

    Row (column of the filter, channel) of the result: even rows of the padded image, then odd ones.
    """
    numbers = float_array(builder, normalization)
    zeros = builder.llvm.trunc(builder.int_constant(0).value, halves.rounded(builder, builder.constant(0.0)).type)
    for channel in range(IMAGE_CHANNELS):
        scale, offset = numbers.broadcast(channel), numbers.broadcast(IMAGE_CHANNELS + channel)
        with builder.loop(0, IMAGE_SIZE) as row:
            left, right = (
                halves.rounded(
                    builder,
                    halves.load_pixels(builder, pixels, row * IMAGE_SIZE + start, channel, layout) * scale + offset,
                )
                for start in (0, LANES)
            )
            even, odd = (halves.shuffled(builder, left, right, range(first, 2 * LANES, 2)) for first in range(2))
            later, earlier = list(range(1, LANES + 1)), [LANES, *range(LANES - 1)]
            columns = [
                halves.shuffled(builder, even, zeros, earlier),
                halves.shuffled(builder, odd, zeros, earlier),
                even,
                odd,
                halves.shuffled(builder, even, zeros, later),
            ]
            padded = row + STEM_PADDING
            place = ((padded % 2) * ROWS_OF_PARITY + padded // 2) * (STEM_SIZE * BYTES)
            for column, values in enumerate(columns):
                at = place + (column * IMAGE_CHANNELS + channel) * SHIFTED_BYTES
                halves.store_raw(builder, values, target + at)

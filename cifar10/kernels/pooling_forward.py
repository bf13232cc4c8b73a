"""The forward pass of a small network in one kernel: one image after the other, in bfloat16.

Pixels -> 5 x 5 convolution with stride 2 -> ReLU -> halve -> 3 x 3 convolution -> ReLU -> halve -> 3 x 3 convolution ->
ReLU. What the backward pass needs is kept: the halved maps, and bits for the inputs through which gradients flow.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES, ROWS
from cifar10.kernels.arrays import float_array
from cifar10.kernels.bfloat16_units import Factor, Unit, unit_for
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.halves import BYTES, LANES, Layout
from cifar10.kernels.jit import Kernel
from cifar10.kernels.pooling_shapes import (
    DEPTH,
    IMAGE_CHANNELS,
    IMAGE_SIZE,
    STEM_PADDING,
    STEM_PAIRS,
    STEM_SIDE,
    STEM_SIZE,
    TILE_BYTES,
    PoolingShapes,
    Stage,
)
from cifar10.kernels.tile_products import Sums, add_products

_FLOAT_BYTES = 4
_PADDED = IMAGE_SIZE + 2 * STEM_PADDING
"""Height and width of an image with its border."""
_PIXEL_BYTES = IMAGE_CHANNELS * BYTES
_ROW_BYTES = _PADDED * _PIXEL_BYTES

Values = Callable[[Integer, Integer, int], Vector]
"""Row, column and number of a group of 16 channels -> the sums of a convolution there, with bias."""


@functools.cache
def forward_kernel(shapes: PoolingShapes, layout: Layout) -> Kernel:
    """Compile the forward pass. An item is an image.

    Arguments: pixels; factor and offset of each channel of pixels, float32 (2, 3); configuration of the tiles; filters
    of the three convolutions, packed; their biases, float32, one after the other; and, written: maps and bits of the
    first stage, maps and bits of the second stage, features, float32 (B, K, H H). Maps must be zero where nothing is
    written.
    """
    first, second = shapes.first, shapes.second

    def emit(builder: KernelBuilder, start: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        pixels, normalization, configuration, filters, biases, maps1, bits1, maps2, bits2, features = arguments
        image_bytes = -(-(_PADDED * _ROW_BYTES + ROW_BYTES) // ROW_BYTES) * ROW_BYTES
        padded = builder.allocate(image_bytes // _FLOAT_BYTES)
        sums = builder.allocate(_sum_bytes(shapes) // _FLOAT_BYTES)
        filters1 = filters + shapes.stem_tiles * TILE_BYTES
        filters2 = filters1 + first.filter_tiles * TILE_BYTES
        biases1 = biases + _FLOAT_BYTES * shapes.stem_width
        biases2 = biases1 + _FLOAT_BYTES * first.channels_out
        unit = unit_for(builder)
        unit.configure(configuration)
        halves.fill_zeros(builder, padded, image_bytes)
        with builder.loop(start, end) as image:
            _pad_image(builder, pixels + image * layout.image_bytes, layout, normalization, padded)
            of_first = maps1 + image * first.input_bytes, bits1 + image * first.mask_bytes
            of_second = maps2 + image * second.input_bytes, bits2 + image * second.mask_bytes
            with builder.loop(0, STEM_SIZE // 2) as row:
                _convolve_pixels(unit, shapes, padded + row * (4 * _ROW_BYTES), filters, sums)
                values = _with_bias(builder, sums, biases, shapes.stem_width, pitch=STEM_SIZE)
                _shrink_row(builder, first, row, (values, builder.integer(0)), *of_first)
            _convolve(unit, first, of_first[0], filters1, sums)
            values = _with_bias(builder, sums, biases1, first.channels_out, first.pitch)
            with builder.loop(0, second.size) as row:
                _shrink_row(builder, second, row, (values, row * 2), *of_second)
            _convolve(unit, second, of_second[0], filters2, sums)
            values = _with_bias(builder, sums, biases2, second.channels_out, second.pitch)
            _write_features(builder, second, values, features + image * (second.size**2 * second.channels_out * 4))
        unit.release()

    return Kernel(emit, num_arguments=10, num_lanes=LANES)


def _sum_bytes(shapes: PoolingShapes) -> int:
    """Return the bytes of the sums of the largest convolution: of two rows of the first one, or a whole further one."""
    sizes = [2 * STEM_SIZE * shapes.stem_width]
    sizes += [ROWS * stage.num_tiles * stage.channels_out for stage in (shapes.first, shapes.second)]
    return _FLOAT_BYTES * max(sizes)


def _pad_image(
    builder: KernelBuilder, pixels: Integer, layout: Layout, normalization: Integer, padded: Integer
) -> None:
    """Write normalised pixels, (S, S, 3) within a border of zeros."""
    numbers = float_array(builder, normalization)
    scale = [numbers.broadcast(channel) for channel in range(IMAGE_CHANNELS)]
    offset = [numbers.broadcast(IMAGE_CHANNELS + channel) for channel in range(IMAGE_CHANNELS)]
    with builder.loop(0, IMAGE_SIZE) as row, builder.loop(0, IMAGE_SIZE, LANES) as column:
        planes = []
        for channel in range(IMAGE_CHANNELS):
            values = halves.load_pixels(builder, pixels, row * IMAGE_SIZE + column, channel, layout)
            values = values * scale[channel] + offset[channel]
            planes.append(halves.rounded(builder, values))
        joined = halves.shuffled(builder, planes[0], planes[1], range(2 * LANES))
        last = halves.shuffled(builder, planes[2], planes[2], range(2 * LANES))
        places = [channel * LANES + lane for lane in range(LANES) for channel in range(IMAGE_CHANNELS)]
        place = (row + STEM_PADDING) * _ROW_BYTES + (column + STEM_PADDING) * _PIXEL_BYTES
        halves.store_raw(builder, halves.shuffled(builder, joined, last, places), padded + place)


def _convolve_pixels(unit: Unit, shapes: PoolingShapes, rows: Integer, filters: Integer, sums: Integer) -> None:
    """Write the sums of two rows of the first convolution, float32 (2, 16, C).

    Args:
        unit: Configured.
        shapes: Of the network.
        rows: Address of the first row of padded pixels that the first of the two rows reads.
        filters: Packed.
        sums: Address.
    """
    width = shapes.stem_width
    groups = width // LANES
    for column in range(0, groups, 2):
        columns = range(column, min(column + 2, groups))
        total = Sums(
            [[sums + (_FLOAT_BYTES * (y * STEM_SIZE * width + LANES * group)) for group in columns] for y in range(2)],
            _FLOAT_BYTES * width,
        )
        total.zero(unit)
        add_products(
            unit,
            (
                (
                    Factor([rows + (2 * y + dy) * _ROW_BYTES for y in range(2)], 2 * _PIXEL_BYTES),
                    Factor(
                        [filters + (dy * groups + group) * TILE_BYTES for group in columns],
                        ROW_BYTES,
                        [range(STEM_PAIRS)] * 2,
                    ),
                )
                for dy in range(STEM_SIDE)
            ),
        )
        total.store(unit)


def _convolve(unit: Unit, stage: Stage, maps: Integer, filters: Integer, sums: Integer) -> None:
    """Write the sums of a 3 x 3 convolution of halved maps, float32 (tiles of positions, K)."""
    groups, depths = stage.channels_out // LANES, stage.channels_in // DEPTH
    position_bytes = BYTES * stage.channels_in
    for tile in range(0, stage.num_tiles, 2):
        rows = range(tile, min(tile + 2, stage.num_tiles))
        for column in range(0, groups, 2):
            columns = range(column, min(column + 2, groups))
            total = Sums(
                [
                    [sums + _FLOAT_BYTES * (row * ROWS * stage.channels_out + LANES * group) for group in columns]
                    for row in rows
                ],
                _FLOAT_BYTES * stage.channels_out,
            )
            total.zero(unit)
            add_products(
                unit,
                (
                    (
                        Factor(
                            [
                                maps
                                + (
                                    source * stage.map_bytes
                                    + (stage.origin() + row * ROWS + shift) * position_bytes
                                    + depth * ROW_BYTES
                                )
                                for row in rows
                            ],
                            position_bytes,
                            [stage.rows_of_tile(row) for row in rows],
                        ),
                        Factor(
                            [filters + ((tap * depths + depth) * groups + group) * TILE_BYTES for group in columns],
                            ROW_BYTES,
                        ),
                    )
                    for tap, (source, shift) in enumerate(stage.taps)
                    for depth in range(depths)
                ),
            )
            total.store(unit)


def _with_bias(builder: KernelBuilder, sums: Integer, biases: Integer, channels: int, pitch: int) -> Values:
    data, bias = float_array(builder, sums), float_array(builder, biases)

    def values(row: Integer, column: Integer, group: int) -> Vector:
        return data.load((row * pitch + column) * channels + LANES * group) + bias.load(LANES * group)

    return values


def _shrink_row(
    builder: KernelBuilder, stage: Stage, row: Integer, source: tuple[Values, Integer], maps: Integer, bits: Integer
) -> None:
    """Write row `row` of halved maps, and the bits, from two rows of sums.

    Args:
        builder: Of the kernel.
        stage: That halves them.
        row: Number of the row after halving.
        source: The sums, and the first of the two rows in them.
        maps: Address of the maps of an image.
        bits: Address of its bits, (H, H, 2 x 2, C / 16) of 16 each.
    """
    groups, (values, first_row) = stage.channels_in // LANES, source
    zero = builder.constant(0.0)
    with builder.loop(0, stage.size) as column:
        position = (row * stage.pitch + column + stage.origin()) * (BYTES * stage.channels_in)
        for group in range(groups):
            corners = [values(first_row + number // 2, column * 2 + number % 2, group) for number in range(4)]
            flows, results = _shrink(builder, stage, corners, zero)
            for number, result in enumerate(results):
                halves.store(builder, result, maps + position + (number * stage.map_bytes + LANES * BYTES * group))
            for number, flow in enumerate(flows):
                place = (row * stage.size + column) * (4 * groups) + (number * groups + group)
                halves.store_mask(builder, flow, bits + place * BYTES)


def _shrink(
    builder: KernelBuilder, stage: Stage, corners: list[Vector], zero: Vector
) -> tuple[list[Any], list[Vector]]:
    """Return the bits of four neighbours, and what becomes of them: four numbers, or one."""
    llvm = builder.llvm
    positive = [llvm.fcmp_ordered(">", corner.value, zero.value) for corner in corners]
    if stage.way == "max":
        best = corners[0]
        for corner in corners[1:]:
            best = builder.select(llvm.fcmp_ordered(">", corner.value, best.value), corner, best)
        flows, is_open = [], llvm.fcmp_ordered(">", best.value, zero.value)
        for corner in corners:  # the first of equals, as PyTorch takes it
            flows.append(llvm.and_(is_open, llvm.fcmp_ordered("==", corner.value, best.value)))
            is_open = llvm.and_(is_open, llvm.not_(flows[-1]))
        return flows, [builder.select(llvm.fcmp_ordered(">", best.value, zero.value), best, zero)]
    activated = [builder.select(mask, corner, zero) for mask, corner in zip(positive, corners, strict=True)]
    if stage.way == "stride":
        return positive, activated
    total = (activated[0] + activated[1]) + (activated[2] + activated[3])
    return positive, [total * 0.25]


def _write_features(builder: KernelBuilder, stage: Stage, values: Values, features: Integer) -> None:
    """Write the activated outputs of an image, float32 (K, H H), which are 16 positions."""
    zero, positions = builder.constant(0.0), range(stage.size**2)
    assert len(positions) == LANES
    for group in range(stage.channels_out // LANES):
        rows = []
        for position in positions:
            row, column = divmod(position, stage.size)
            value = values(builder.integer(row), builder.integer(column), group)
            rows.append(builder.select(builder.llvm.fcmp_ordered(">", value.value, zero.value), value, zero).value)
        for channel, column_values in enumerate(halves.transposed(builder, rows)):
            at = (LANES * group + channel) * (LANES * _FLOAT_BYTES)
            halves.store_raw(builder, column_values, features + at)

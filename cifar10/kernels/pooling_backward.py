"""The backward pass of a small network in one kernel, in bfloat16 on AMX.

First, image by image, gradients of the maps, from the last to the first; then, for several images together, gradients
of the filters, which are products that sum over positions.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES, ROWS, Tiles
from cifar10.kernels.arrays import float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.halves import BYTES, LANES, Layout
from cifar10.kernels.jit import Kernel
from cifar10.kernels.pooling_shapes import (
    DEPTH,
    IMAGE_CHANNELS,
    IMAGE_SIZE,
    STEM_PADDING,
    STEM_SIDE,
    STEM_SIZE,
    TILE_BYTES,
    PoolingShapes,
    Stage,
)
from cifar10.kernels.tile_products import Factor, Sums, add_products

_FLOAT_BYTES = 4
_PAIR_BYTES = 4
_BLOCK = 4  # images whose products for the gradients of filters are summed in registers
_ROWS_OF_PARITY = STEM_SIZE + STEM_SIDE // 2
"""Even, or odd, rows of a padded image."""
_SHIFTED_BYTES = 2 * _ROWS_OF_PARITY * STEM_SIZE * BYTES
"""Of every second column of a channel: even rows, then odd ones."""

Store = Callable[[Integer, Integer, Integer, int, list[Vector]], None]
"""Row, column, its half, number of a group of 16 channels, and the gradients of two neighbouring positions there."""


@dataclass(frozen=True)
class _Slot:
    """Addresses of what the gradients of filters are computed from, for one image of a block."""

    shifted_pixels: Integer
    stem_pairs: Integer
    transposed: tuple[Integer, Integer]
    """Maps before each stage, (maps, C, positions)."""
    pairs: tuple[Integer, Integer]
    """Gradients after each stage, (positions / 2, K, 2)."""


@functools.cache
def backward_kernel(shapes: PoolingShapes, layout: Layout) -> Kernel:
    """Compile the backward pass. An item is an image.

    Arguments: as for the forward kernel, but filters with K and C exchanged, of the two stages only, and no biases; the
    gradient of the features; and, written, for each thread: tiles of the gradients of filters, and those of the biases,
    float32. Both must be zero.
    """

    def emit(builder: KernelBuilder, start: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        (pixels, normalization, configuration, filters, maps1, bits1, maps2, bits2, features) = arguments[:9]
        gradient, tiles_out, biases_out = arguments[9:]
        tiles_out = tiles_out + builder.thread * (shapes.gradient_tiles * TILE_BYTES)
        num_biases = shapes.stem_width + shapes.first.channels_out + shapes.second.channels_out
        biases_out = biases_out + builder.thread * (num_biases * _FLOAT_BYTES)
        pass_ = _Pass(builder, shapes, filters, biases_out)
        pass_.tiles.configure(configuration)
        pass_.clear()
        num_features = shapes.second.size**2 * shapes.second.channels_out
        with builder.loop(start, end, _BLOCK) as block:
            block_end = builder.minimum(block + _BLOCK, end)
            with builder.loop(block, block_end) as image:
                slot = pass_.slot(image - block)
                _shift_pixels(builder, pixels + image * layout.image_bytes, layout, normalization, slot.shifted_pixels)
                place = image * (num_features * _FLOAT_BYTES)
                pass_.through_features(features + place, gradient + place, slot)
                of_second = maps2 + image * shapes.second.input_bytes, bits2 + image * shapes.second.mask_bytes
                of_first = maps1 + image * shapes.first.input_bytes, bits1 + image * shapes.first.mask_bytes
                pass_.through_second(*of_second, slot)
                pass_.through_first(*of_first, slot)
            pass_.add_filter_gradients(tiles_out, block_end - block)
        pass_.tiles.release()

    return Kernel(emit, num_arguments=12, num_lanes=LANES)


class _Pass:
    """Memory of a thread, and the steps.

    Args:
        builder: Of the kernel.
        shapes: Of the network.
        filters: Address of the filters of both stages, packed for gradients.
        biases: Address of this thread's gradients of biases.
    """

    def __init__(self, builder: KernelBuilder, shapes: PoolingShapes, filters: Integer, biases: Integer) -> None:
        self.builder = builder
        self.shapes = shapes
        self.tiles = Tiles(builder)
        self.filters = filters, filters + shapes.first.filter_tiles * TILE_BYTES
        self.biases = float_array(builder, biases)
        stages = shapes.first, shapes.second
        self.rows = tuple(builder.allocate(stage.gradient_bytes // _FLOAT_BYTES) for stage in stages)
        """Gradients after each stage, (positions, K)."""
        sums = max(stage.num_maps * ROWS * stage.num_tiles * stage.channels_in for stage in stages)
        self.sums = builder.allocate(sums)
        self.sizes = [
            ROWS * _SHIFTED_BYTES,
            STEM_SIZE**2 * shapes.stem_width * BYTES,
            *(stage.input_bytes for stage in stages),
            *(DEPTH * stage.num_steps * stage.channels_out * BYTES for stage in stages),
        ]
        self.slots = [builder.allocate(_BLOCK * size // _FLOAT_BYTES) for size in self.sizes]

    def clear(self) -> None:
        """Write zeros where nothing else is written, but is read."""
        stages = self.shapes.first, self.shapes.second
        for address, stage in zip(self.rows, stages, strict=True):
            halves.fill_zeros(self.builder, address, stage.gradient_bytes)
        for number in (0, 4, 5):  # borders of the pixels, and of both gradients
            halves.fill_zeros(self.builder, self.slots[number], _BLOCK * self.sizes[number])

    def slot(self, number: Integer) -> _Slot:
        """Return the memory of image `number` of a block."""
        at = [address + number * size for address, size in zip(self.slots, self.sizes, strict=True)]
        return _Slot(at[0], at[1], (at[2], at[3]), (at[4], at[5]))

    def through_features(self, features: Integer, gradient: Integer, slot: _Slot) -> None:
        """Write the gradient after the second stage: that of the features, where they are positive."""
        builder, stage = self.builder, self.shapes.second
        values, given, zero = float_array(builder, features), float_array(builder, gradient), builder.constant(0.0)
        store = self._store_of_stage(1, slot)
        with builder.loop(0, stage.size) as row, builder.loop(0, stage.size // 2) as half:
            for group in range(stage.channels_out // LANES):
                both = []
                for neighbour in range(2):
                    place = (row * stage.size + half * 2 + neighbour) * stage.channels_out + LANES * group
                    is_positive = builder.llvm.fcmp_ordered(">", values.load(place).value, zero.value)
                    both.append(builder.select(is_positive, given.load(place), zero))
                store(row, half * 2, half, group, both)

    def through_second(self, maps: Integer, bits: Integer, slot: _Slot) -> None:
        """From the gradient after the second stage to that after the first; also transpose the maps between them."""
        stage = self.shapes.second
        _transpose(self.builder, stage, maps, slot.transposed[1])
        self._gradient_of_maps(stage, self.rows[1], self.filters[1])
        self._expand(stage, bits, self._store_of_stage(0, slot))

    def through_first(self, maps: Integer, bits: Integer, slot: _Slot) -> None:
        """From the gradient after the first stage to that after the first convolution."""
        stage = self.shapes.first
        _transpose(self.builder, stage, maps, slot.transposed[0])
        self._gradient_of_maps(stage, self.rows[0], self.filters[0])
        width = self.shapes.stem_width

        def store(row: Integer, column: Integer, half: Integer, group: int, both: list[Vector]) -> None:
            place = ((row * (STEM_SIZE // 2) + half) * width + LANES * group) * _PAIR_BYTES
            self._store_pair(slot.stem_pairs + place, both)
            self._add_to_bias(LANES * group, both)

        self._expand(stage, bits, store)

    def _store_of_stage(self, number: int, slot: _Slot) -> Store:
        """Return what stores a gradient after a stage: in rows for its maps, in pairs for its filters."""
        stage = (self.shapes.first, self.shapes.second)[number]
        first_bias = self.shapes.stem_width + number * self.shapes.first.channels_out

        def store(row: Integer, column: Integer, half: Integer, group: int, both: list[Vector]) -> None:
            position = row * stage.pitch + column
            for neighbour, value in enumerate(both):
                at = (position + (stage.origin() + neighbour)) * (BYTES * stage.channels_out) + BYTES * LANES * group
                halves.store(self.builder, value, self.rows[number] + at)
            pair = row * (stage.pitch // 2) + half
            at = (pair * stage.channels_out + LANES * group) * _PAIR_BYTES
            self._store_pair(slot.pairs[number] + at, both)
            self._add_to_bias(first_bias + LANES * group, both)

        return store

    def _store_pair(self, address: Integer, both: list[Vector]) -> None:
        first, second = (halves.rounded(self.builder, value) for value in both)
        halves.store_raw(self.builder, halves.pairs(self.builder, first, second).value, address)

    def _add_to_bias(self, place: int, both: list[Vector]) -> None:
        self.biases.store(self.biases.load(place) + (both[0] + both[1]), place)

    def _gradient_of_maps(self, stage: Stage, rows: Integer, filters: Integer) -> None:
        """Write the gradient of each map before a stage, float32 (maps, tiles of positions, C)."""
        groups, depths = stage.channels_in // LANES, stage.channels_out // DEPTH
        position_bytes = BYTES * stage.channels_out
        for source in range(stage.num_maps):
            taps = [(tap, shift) for tap, (of_map, shift) in enumerate(stage.taps) if of_map == source]
            for tile in range(0, stage.num_tiles, 2):
                tile_rows = range(tile, min(tile + 2, stage.num_tiles))
                for column in range(0, groups, 2):
                    columns = range(column, min(column + 2, groups))
                    total = Sums(
                        [
                            [
                                self.sums
                                + _FLOAT_BYTES
                                * ((source * stage.num_tiles + row) * ROWS * stage.channels_in + LANES * group)
                                for group in columns
                            ]
                            for row in tile_rows
                        ],
                        _FLOAT_BYTES * stage.channels_in,
                    )
                    total.zero(self.tiles)
                    add_products(
                        self.tiles,
                        (
                            (
                                Factor(
                                    [
                                        rows
                                        + ((stage.origin() + row * ROWS - shift) * position_bytes + depth * ROW_BYTES)
                                        for row in tile_rows
                                    ],
                                    position_bytes,
                                ),
                                Factor(
                                    [
                                        filters + ((tap * depths + depth) * groups + group) * TILE_BYTES
                                        for group in columns
                                    ],
                                    ROW_BYTES,
                                ),
                            )
                            for tap, shift in taps
                            for depth in range(depths)
                        ),
                    )
                    total.store(self.tiles)

    def _expand(self, stage: Stage, bits: Integer, store: Store) -> None:
        """Store the gradient of the map before halving: that of the halved maps, where the bits let it through."""
        builder, groups, zero = self.builder, stage.channels_in // LANES, self.builder.constant(0.0)
        sums = float_array(builder, self.sums)
        map_numbers = stage.num_tiles * ROWS * stage.channels_in
        with builder.loop(0, stage.size) as row, builder.loop(0, stage.size) as column:
            place = (row * stage.pitch + column) * stage.channels_in
            first_bits = (row * stage.size + column) * (4 * groups)
            for group in range(groups):
                values = [sums.load(place + (number * map_numbers + LANES * group)) for number in range(stage.num_maps)]
                if stage.way == "average":
                    values = [values[0] * 0.25]
                for y in range(2):
                    both = []
                    for x in range(2):
                        number = 2 * y + x
                        flow = halves.load_mask(builder, bits + (first_bits + (number * groups + group)) * BYTES)
                        both.append(builder.select(flow, values[number % stage.num_maps], zero))
                    store(row * 2 + y, column * 2, column, group, both)

    def add_filter_gradients(self, gradients: Integer, num_images: Integer) -> None:
        """Add the gradients of all filters, summed over the positions of the images of a block."""
        self._add_stem_gradient(gradients, num_images)
        gradients = gradients + self.shapes.stem_tiles * TILE_BYTES
        for number, stage in enumerate((self.shapes.first, self.shapes.second)):
            self._add_stage_gradient(stage, number, gradients, num_images)
            gradients = gradients + stage.gradient_tiles * TILE_BYTES

    def _add_stem_gradient(self, gradients: Integer, num_images: Integer) -> None:
        width = self.shapes.stem_width
        groups = width // LANES
        for column in range(0, groups, 2):
            columns = range(column, min(column + 2, groups))
            for row in range(0, STEM_SIDE, 2):
                rows = range(row, min(row + 2, STEM_SIDE))
                total = Sums(
                    [[gradients + (dy * groups + group) * TILE_BYTES for group in columns] for dy in rows], ROW_BYTES
                )
                total.load(self.tiles)
                with self.builder.loop(0, num_images) as image, self.builder.loop(0, STEM_SIZE // 2) as step:
                    slot = self.slot(image)
                    left = [
                        slot.shifted_pixels
                        + step * (DEPTH * BYTES)
                        + ((dy % 2) * _ROWS_OF_PARITY + dy // 2) * (STEM_SIZE * BYTES)
                        for dy in rows
                    ]
                    first = slot.stem_pairs + step * (DEPTH * width * BYTES)
                    right = [first + group * (LANES * _PAIR_BYTES) for group in columns]
                    factors = Factor(left, _SHIFTED_BYTES), Factor(right, width * _PAIR_BYTES)
                    add_products(self.tiles, [factors])
                total.store(self.tiles)

    def _add_stage_gradient(self, stage: Stage, number: int, gradients: Integer, num_images: Integer) -> None:
        groups_in, groups_out = stage.channels_in // LANES, stage.channels_out // LANES
        row_bytes = stage.positions * BYTES
        for tap, (source, shift) in enumerate(stage.taps):
            for row in range(0, groups_in, 2):
                rows = range(row, min(row + 2, groups_in))
                for column in range(0, groups_out, 2):
                    columns = range(column, min(column + 2, groups_out))
                    total = Sums(
                        [
                            [
                                gradients + ((tap * groups_in + group) * groups_out + other) * TILE_BYTES
                                for other in columns
                            ]
                            for group in rows
                        ],
                        ROW_BYTES,
                    )
                    total.load(self.tiles)
                    with self.builder.loop(0, num_images) as image:
                        slot = self.slot(image)
                        transposed = slot.transposed[number] + (
                            source * stage.map_bytes + (stage.origin() + shift) * BYTES
                        )
                        pairs = slot.pairs[number]
                        add_products(
                            self.tiles,
                            (
                                (
                                    Factor(
                                        [
                                            transposed + (group * LANES * row_bytes + step * (DEPTH * BYTES))
                                            for group in rows
                                        ],
                                        row_bytes,
                                    ),
                                    Factor(
                                        [
                                            pairs
                                            + (
                                                step * (DEPTH * stage.channels_out * BYTES)
                                                + other * (LANES * _PAIR_BYTES)
                                            )
                                            for other in columns
                                        ],
                                        stage.channels_out * _PAIR_BYTES,
                                    ),
                                )
                                for step in range(stage.num_steps)
                            ),
                        )
                    total.store(self.tiles)


def _transpose(builder: KernelBuilder, stage: Stage, maps: Integer, target: Integer) -> None:
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


def _shift_pixels(
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
            place = ((padded % 2) * _ROWS_OF_PARITY + padded // 2) * (STEM_SIZE * BYTES)
            for column, values in enumerate(columns):
                at = place + (column * IMAGE_CHANNELS + channel) * _SHIFTED_BYTES
                halves.store_raw(builder, values, target + at)

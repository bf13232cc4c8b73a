"""The backward pass of a small network in one kernel, in bfloat16 on AMX.

First, image by image, gradients of the maps, from the last to the first; then, for several images together, gradients
of the filters, which are products that sum over positions.
"""

import functools
from collections.abc import Callable, Sequence

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES, ROWS, Tiles
from cifar10.kernels.arrays import float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.halves import BYTES, LANES, Layout
from cifar10.kernels.jit import Kernel
from cifar10.kernels.pooling_filter_gradients import PAIR_BYTES, Block, Slot, add_filter_gradients
from cifar10.kernels.pooling_operands import SHIFTED_BYTES, shift_pixels, transpose_maps
from cifar10.kernels.pooling_shapes import DEPTH, STEM_SIZE, TILE_BYTES, PoolingShapes, Stage
from cifar10.kernels.tile_products import Factor, Sums, add_products

_FLOAT_BYTES = 4
_BLOCK = 4  # images whose products for the gradients of filters are summed in registers

Store = Callable[[Integer, Integer, Integer, int, list[Vector]], None]
"""Row, column, its half, number of a group of 16 channels, and the gradients of two neighbouring positions there."""


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
                shift_pixels(builder, pixels + image * layout.image_bytes, layout, normalization, slot.shifted_pixels)
                place = image * (num_features * _FLOAT_BYTES)
                pass_.through_features(features + place, gradient + place, slot)
                of_second = maps2 + image * shapes.second.input_bytes, bits2 + image * shapes.second.mask_bytes
                of_first = maps1 + image * shapes.first.input_bytes, bits1 + image * shapes.first.mask_bytes
                pass_.through_second(*of_second, slot)
                pass_.through_first(*of_first, slot)
            add_filter_gradients(pass_.tiles, shapes, Block(pass_.slot, block_end - block), tiles_out)
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
            ROWS * SHIFTED_BYTES,
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

    def slot(self, number: Integer) -> Slot:
        """Return the memory of image `number` of a block."""
        at = [address + number * size for address, size in zip(self.slots, self.sizes, strict=True)]
        return Slot(at[0], at[1], (at[2], at[3]), (at[4], at[5]))

    def through_features(self, features: Integer, gradient: Integer, slot: Slot) -> None:
        """Write the gradient after the second stage: that of the features, where they are positive."""
        builder, stage = self.builder, self.shapes.second
        values, given, zero = float_array(builder, features), float_array(builder, gradient), builder.constant(0.0)
        store = self._store_of_stage(1, slot)
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

    def through_second(self, maps: Integer, bits: Integer, slot: Slot) -> None:
        """From the gradient after the second stage to that after the first; also transpose the maps between them."""
        stage = self.shapes.second
        transpose_maps(self.builder, stage, maps, slot.transposed[1])
        self._gradient_of_maps(stage, self.rows[1], self.filters[1])
        self._expand(stage, bits, self._store_of_stage(0, slot))

    def through_first(self, maps: Integer, bits: Integer, slot: Slot) -> None:
        """From the gradient after the first stage to that after the first convolution."""
        stage = self.shapes.first
        transpose_maps(self.builder, stage, maps, slot.transposed[0])
        self._gradient_of_maps(stage, self.rows[0], self.filters[0])
        width = self.shapes.stem_width

        def store(row: Integer, column: Integer, half: Integer, group: int, both: list[Vector]) -> None:
            place = ((row * (STEM_SIZE // 2) + half) * width + LANES * group) * PAIR_BYTES
            self._store_pair(slot.stem_pairs + place, both)
            self._add_to_bias(LANES * group, both)

        self._expand(stage, bits, store)

    def _store_of_stage(self, number: int, slot: Slot) -> Store:
        """Return what stores a gradient after a stage: in rows for its maps, in pairs for its filters."""
        stage = (self.shapes.first, self.shapes.second)[number]
        first_bias = self.shapes.stem_width + number * self.shapes.first.channels_out

        def store(row: Integer, column: Integer, half: Integer, group: int, both: list[Vector]) -> None:
            position = row * stage.pitch + column
            for neighbour, value in enumerate(both):
                at = (position + (stage.origin() + neighbour)) * (BYTES * stage.channels_out) + BYTES * LANES * group
                halves.store(self.builder, value, self.rows[number] + at)
            pair = row * (stage.pitch // 2) + half
            at = (pair * stage.channels_out + LANES * group) * PAIR_BYTES
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

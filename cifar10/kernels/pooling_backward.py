"""The backward pass of a small network in one kernel, in bfloat16.

First, image by image, gradients of the maps, from the last to the first; then, for several images together, gradients
of the filters, which are products that sum over positions.
"""

import functools
from collections.abc import Sequence

from cifar10.kernels import halves
from cifar10.kernels.amx import ROWS
from cifar10.kernels.arrays import float_array
from cifar10.kernels.bfloat16_units import unit_for
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.halves import BYTES, LANES, Layout
from cifar10.kernels.jit import Kernel
from cifar10.kernels.pooling_filter_gradients import PAIR_BYTES, Block, Slot, add_filter_gradients
from cifar10.kernels.pooling_map_gradients import Store, gradient_of_maps, through_activation, through_halving
from cifar10.kernels.pooling_operands import SHIFTED_BYTES, shift_pixels, transpose_maps
from cifar10.kernels.pooling_shapes import DEPTH, STEM_SIZE, TILE_BYTES, PoolingShapes

_FLOAT_BYTES = 4
_BLOCK = 4  # images whose products for the gradients of filters are summed in registers


@functools.cache
def backward_kernel(shapes: PoolingShapes, layout: Layout) -> Kernel:
    """Compile the backward pass. An item is an image.

    Arguments: as for the forward kernel, but filters with K and C exchanged, of the two stages only, and no biases; the
    gradient of the features; and, written, for each share: tiles of the gradients of filters, and those of the biases,
    float32. Both must be zero.
    """
    first, second = shapes.first, shapes.second
    image_feature_bytes = second.size**2 * second.channels_out * _FLOAT_BYTES
    num_biases = shapes.stem_width + first.channels_out + second.channels_out

    def emit(builder: KernelBuilder, start: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        (pixels, normalization, configuration, filters1, maps1, bits1, maps2, bits2, features) = arguments[:9]
        gradient, tiles_out, biases_out = arguments[9:]
        tiles_out = tiles_out + builder.share * (shapes.gradient_tiles * TILE_BYTES)
        biases_out = biases_out + builder.share * (num_biases * _FLOAT_BYTES)
        filters2 = filters1 + first.filter_tiles * TILE_BYTES
        unit, memory = unit_for(builder), _Memory(builder, shapes, biases_out)
        unit.configure(configuration)
        memory.clear()
        with builder.loop(start, end, _BLOCK) as block:
            block_end = builder.minimum(block + _BLOCK, end)
            with builder.loop(block, block_end) as image:
                slot = memory.slot(image - block)
                shift_pixels(builder, pixels + image * layout.image_bytes, layout, normalization, slot.shifted_pixels)
                place = image * image_feature_bytes
                through_activation(builder, second, features + place, gradient + place, memory.after_stage(1, slot))
                of_second = maps2 + image * second.input_bytes, bits2 + image * second.mask_bytes
                of_first = maps1 + image * first.input_bytes, bits1 + image * first.mask_bytes
                transpose_maps(builder, second, of_second[0], slot.transposed[1])
                gradient_of_maps(unit, second, memory.rows[1], filters2, memory.sums)
                through_halving(builder, second, memory.sums, of_second[1], memory.after_stage(0, slot))
                transpose_maps(builder, first, of_first[0], slot.transposed[0])
                gradient_of_maps(unit, first, memory.rows[0], filters1, memory.sums)
                through_halving(builder, first, memory.sums, of_first[1], memory.after_stem(slot))
            add_filter_gradients(unit, shapes, Block(memory.slot, block_end - block), tiles_out)
        unit.release()

    return Kernel(emit, num_arguments=12, num_lanes=LANES)


class _Memory:
    """Memory of a thread, and what stores gradients in it.

    Args:
        builder: Of the kernel.
        shapes: Of the network.
        biases: Address of this thread's gradients of biases.
    """

    def __init__(self, builder: KernelBuilder, shapes: PoolingShapes, biases: Integer) -> None:
        self.builder = builder
        self.shapes = shapes
        self.biases = float_array(builder, biases)
        stages = shapes.first, shapes.second
        self.rows = tuple(builder.allocate(stage.gradient_bytes // _FLOAT_BYTES) for stage in stages)
        """Gradients after each stage, (positions, K)."""
        sums = max(stage.num_maps * ROWS * stage.num_tiles * stage.channels_in for stage in stages)
        self.sums = builder.allocate(sums)
        """Gradients of the maps before a stage."""
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

    def after_stage(self, number: int, slot: Slot) -> Store:
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

    def after_stem(self, slot: Slot) -> Store:
        """Return what stores a gradient after the first convolution, which has no gradient of its pixels."""
        width = self.shapes.stem_width

        def store(row: Integer, column: Integer, half: Integer, group: int, both: list[Vector]) -> None:
            place = ((row * (STEM_SIZE // 2) + half) * width + LANES * group) * PAIR_BYTES
            self._store_pair(slot.stem_pairs + place, both)
            self._add_to_bias(LANES * group, both)

        return store

    def _store_pair(self, address: Integer, both: list[Vector]) -> None:
        first, second = (halves.rounded(self.builder, value) for value in both)
        halves.store_raw(self.builder, halves.pairs(self.builder, first, second).value, address)

    def _add_to_bias(self, place: int, both: list[Vector]) -> None:
        self.biases.store(self.biases.load(place) + (both[0] + both[1]), place)

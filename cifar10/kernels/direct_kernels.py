"""The kernels of 3 x 3 convolution by a unit that multiplies tiles of bfloat16, forward and backward.

Such a unit multiplies so fast that fewer products, as by Winograd's algorithm, would not be worth their transforms.
A thread copies a block of images with borders of zeros, so that each weight of a filter is a distance between
positions, and multiplies 32 positions by 32 channels at a time. The gradient of filters is summed over positions: for
it, positions and channels of the features are exchanged. The gradient of features is a convolution of the gradient.

Shapes: B images, C channels in, K out, feature maps of H x H, channels last; in factors, C and K are filled up with
zeros to multiples of 32, c and k. Packed filters (k / 32, 9, c / 2, 32, 2), their gradient (9, k / 32, c, 32).
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES, ROWS
from cifar10.kernels.arithmetic import BF16_AMX
from cifar10.kernels.arrays import byte_array, float_array
from cifar10.kernels.bfloat16_units import Factor, Unit, unit_for
from cifar10.kernels.block_maps import BlockMaps
from cifar10.kernels.codegen import Integer, KernelBuilder, lanes_for
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.gemm import Matrix, pair_rows
from cifar10.kernels.halves import BYTES
from cifar10.kernels.jit import Kernel
from cifar10.kernels.tile_products import Sums
from cifar10.kernels.unit_packing import UNIT_ROWS, clear_rows, rounded_up, transpose_pairs
from cifar10.kernels.winograd import TAPS

PANEL = 2 * ROWS
"""Channels of a result that are summed at a time: two tiles side by side."""

_FLOAT_BYTES = _PAIR_BYTES = 4
_PANEL_BYTES = PANEL * _FLOAT_BYTES
_STEP = 2 * ROWS  # numbers that are summed by an instruction
_FORWARD_POSITIONS, _BACKWARD_POSITIONS = 256, 1024  # of a block, if images are small
_SHIFTS = range(-(TAPS // 2), TAPS // 2 + 1)


@dataclass(frozen=True)
class DirectShape:
    """What a kernel is compiled for."""

    size: int
    """Height and width of the input."""
    channels_in: int
    channels_out: int
    pooled: bool

    @property
    def inputs(self) -> FeatureMaps:
        return FeatureMaps(self.size, self.channels_in, BF16_AMX)

    @property
    def outputs(self) -> FeatureMaps:
        """Before pooling."""
        return FeatureMaps(self.size, self.channels_out, BF16_AMX)

    @property
    def output_size(self) -> int:
        """Height and width of the output, after pooling."""
        return self.size // 2 if self.pooled else self.size

    @property
    def gradient_numbers(self) -> int:
        """Numbers of the gradient of filters, filled up."""
        return TAPS**2 * self.inputs.channels * self.outputs.channels

    def block_images(self, positions: int) -> int:
        """Return the images of a block that has about so many positions."""
        return max(1, positions // self.inputs.image_positions)


class _Convolution:
    """Convolutions of maps, a panel of output channels at a time, with rounding or max-pooling of the sums.

    Args:
        builder: Allocates the memory.
        unit: Multiplies; configured.
        maps: Left factors.
        num_images: Of a block, at most.
        channels_out: Of the results.
    """

    def __init__(self, builder: KernelBuilder, unit: Unit, maps: BlockMaps, num_images: int, channels_out: int) -> None:
        self._unit, self._maps, self._channels_out = unit, maps, channels_out
        self._builder = builder.with_lanes(lanes_for(channels_out))
        self._sums = builder.allocate(rounded_up(num_images * maps.layout.image_positions) * PANEL)

    def run(self, filters: Integer, target: Integer, indices: Integer | None, first: Integer, end: Integer) -> None:
        """Write the results of images first .. end - 1; with `indices`, max-pooled 2 x 2, and the indices, too."""
        panel_bytes = TAPS**2 * self._maps.layout.channels * PANEL * BYTES

        def write(panel: Integer, channels: int) -> None:
            self._multiply(filters + panel * panel_bytes, (end - first) * self._maps.layout.image_positions)
            start = panel * PANEL
            for image, place in self._images(first, end):
                if indices is None:
                    self._round(image, place, target, start, channels)
                else:
                    self._pool(image, place, target, indices, start, channels)

        whole, rest = divmod(self._channels_out, PANEL)
        with self._builder.loop(0, whole) as panel:
            write(panel, PANEL)
        if rest:
            write(self._builder.integer(whole), rest)

    def _images(self, first: Integer, end: Integer) -> Iterator[tuple[Integer, Integer]]:
        with self._builder.loop(first, end) as image:
            yield image, (image - first) * self._maps.layout.image_positions

    def _multiply(self, filters: Integer, num_positions: Integer) -> None:
        unit, maps = self._unit, self._maps
        left = maps.matrix(maps.layout.border).address
        with unit.builder.loop(0, num_positions, UNIT_ROWS) as position:
            sums = _sums_at(self._sums + position * _PANEL_BYTES)
            sums.zero(unit)
            with unit.builder.loop(0, maps.layout.channels, _STEP) as channel:
                for tap in range(TAPS**2):
                    shift = _SHIFTS[tap // TAPS] * maps.layout.pitch + _SHIFTS[tap % TAPS]
                    start = left + position * maps.row_bytes + channel * BYTES
                    right = filters + channel * (PANEL * BYTES) + tap * (maps.layout.channels * PANEL * BYTES)
                    unit.add(
                        Factor([start + (shift + row) * maps.row_bytes for row in (0, ROWS)], maps.row_bytes),
                        Factor([right, right + ROW_BYTES], PANEL * _PAIR_BYTES),
                    )
            sums.store(unit)

    def _round(self, image: Integer, place: Integer, target: Integer, start: Integer, channels: int) -> None:
        builder, size = self._builder, self._maps.layout.size
        sums = float_array(builder, self._sums)
        with builder.loop(0, size) as row, builder.loop(0, size) as column:
            source = (place + row * self._maps.layout.pitch + column) * PANEL
            pixel = ((image * size + row) * size + column) * self._channels_out + start
            for channel in range(0, channels, builder.num_lanes):
                halves.store(builder, sums.load(source + channel), target + (pixel + channel) * BYTES)

    def _pool(
        self, image: Integer, place: Integer, target: Integer, indices: Integer, start: Integer, channels: int
    ) -> None:
        builder, layout = self._builder, self._maps.layout
        sums, size, largest = float_array(builder, self._sums), layout.size // 2, byte_array(builder, indices)
        with builder.loop(0, size) as row, builder.loop(0, size) as column:
            corner = (place + row * (2 * layout.pitch) + column * 2) * PANEL
            pixel = ((image * size + row) * size + column) * self._channels_out + start
            for channel in range(0, channels, builder.num_lanes):
                best, index = sums.load(corner + channel), builder.int_constant(0)
                for number in range(1, 4):
                    distance = (number // 2 * layout.pitch + number % 2) * PANEL
                    value = sums.load(corner + (distance + channel))
                    mask = value.exceeds(best)
                    best = builder.select(mask, value, best)
                    index = builder.select(mask, builder.int_constant(number), index)
                halves.store(builder, best, target + (pixel + channel) * BYTES)
                largest.store(index, pixel + channel)


class _FilterGradients:
    """Sums of the products of features and gradients over the positions of a block.

    Args:
        builder: Allocates the memory.
        unit: Multiplies; configured.
        features: Left factors; they are copied with positions and channels exchanged.
        gradients: Right factors; they are copied as pairs of positions.
    """

    def __init__(self, builder: KernelBuilder, unit: Unit, features: BlockMaps, gradients: BlockMaps) -> None:
        self._unit, self._features, self._gradients = unit, features, gradients
        self._builder = builder.with_lanes(halves.LANES)
        exchanged, pairs = (
            builder.allocate(maps.num_rows * maps.row_bytes // _FLOAT_BYTES) for maps in (features, gradients)
        )
        zero = self._builder.integer(0)
        self._exchanged = Matrix(exchanged, zero, features.num_rows // 2, column_stride=1)
        self._pairs = Matrix(pairs, zero, PANEL, gradients.num_rows // 2)

    def add(self, num_positions: Integer, target: Integer) -> None:
        """Add the products of a block to the gradient of the filters at `target`."""
        builder, layout = self._builder, self._features.layout
        rows, columns = layout.channels, self._gradients.layout.channels
        end = rounded_up(num_positions)
        self._pack(num_positions, end)
        with builder.loop(0, TAPS) as y, builder.loop(0, TAPS) as x:
            tap = target + (y * TAPS + x) * (rows * columns * _FLOAT_BYTES)
            with builder.loop(0, columns, PANEL) as column, builder.loop(0, rows, UNIT_ROWS) as row:
                sums = _sums_at(tap + (column * rows + row * PANEL) * _FLOAT_BYTES)
                sums.load(self._unit)
                with builder.loop(0, end, _STEP) as position:
                    self._multiply(row, column, y * layout.pitch + x, position)
                sums.store(self._unit)

    def _pack(self, num_positions: Integer, end: Integer) -> None:
        """Copy the factors; after the positions of the block, gradients are zero."""
        builder, features = self._builder, self._features
        border, channels = features.layout.border, features.layout.channels
        right = self._gradients.matrix(border)
        clear_rows(builder, right, num_positions, end, right.row_stride)
        pair_rows(builder, right, self._pairs, (end, self._gradients.layout.channels), PANEL)
        transpose_pairs(builder, features.matrix(0), self._exchanged, (rounded_up(end + 2 * border), channels))

    def _multiply(self, row: Integer, column: Integer, shift: Integer, position: Integer) -> None:
        """Add the products of 32 channels of features and 32 of gradients, summed over 32 positions.

        Args:
            row: First channel of the features.
            column: First channel of the gradients.
            shift: Positions from a gradient to the feature that it is multiplied with.
            position: First of the gradients.
        """
        row_bytes = self._exchanged.row_stride * _PAIR_BYTES
        left = self._exchanged.address + row * row_bytes + (shift + position) * BYTES
        right = self._pairs.address + (column * self._pairs.column_stride + position // 2 * PANEL) * _PAIR_BYTES
        self._unit.add(
            Factor([left + number * row_bytes for number in (0, ROWS)], row_bytes),
            Factor([right, right + ROW_BYTES], PANEL * _PAIR_BYTES),
        )


def _sums_at(address: Integer) -> Sums:
    """Return the sums of 32 rows of a panel, which are neighbours in memory."""
    tiles = [[address + (row * _PANEL_BYTES + column * ROW_BYTES) for column in range(2)] for row in (0, ROWS)]
    return Sums(tiles, _PANEL_BYTES)


@functools.cache
def forward_kernel(shape: DirectShape) -> Kernel:
    """Compile the forward pass.

    Arguments: features, filters, results, max-pooling indices (if pooled), configuration of the unit.
    """
    length = shape.block_images(_FORWARD_POSITIONS)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, filters, results, indices, configuration = arguments
        unit = unit_for(builder)
        maps = BlockMaps(builder, shape.inputs, length)
        convolution = _Convolution(builder, unit, maps, length, shape.channels_out)
        unit.configure(configuration)
        with builder.loop(first, end, length) as start:
            stop = builder.minimum(start + length, end)
            maps.copy(features, start, stop)
            convolution.run(filters, results, indices if shape.pooled else None, start, stop)
        unit.release()

    return Kernel(emit, num_arguments=5, block_items=length)


@functools.cache
def backward_kernel(shape: DirectShape, for_features: bool) -> Kernel:
    """Compile the backward pass.

    Arguments: features, gradient of the results, max-pooling indices (if pooled), gradient of the filters for each
    share, configuration of the unit; with `for_features` also the filters turned by half a turn with C and K exchanged,
    and the gradient of the features.
    """
    length = shape.block_images(_BACKWARD_POSITIONS)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, gradient, indices, grad_filters, configuration, *further = arguments
        grad_filters = grad_filters + builder.share * (_FLOAT_BYTES * shape.gradient_numbers)
        unit = unit_for(builder)
        inputs, outputs = (BlockMaps(builder, layout, length) for layout in (shape.inputs, shape.outputs))
        sums = _FilterGradients(builder, unit, inputs, outputs)
        convolution = _Convolution(builder, unit, outputs, length, shape.channels_in) if for_features else None
        unit.configure(configuration)
        with builder.loop(first, end, length) as start:
            stop = builder.minimum(start + length, end)
            inputs.copy(features, start, stop)
            if shape.pooled:
                outputs.unpool(gradient, indices, start, stop)
            else:
                outputs.copy(gradient, start, stop)
            sums.add((stop - start) * shape.inputs.image_positions, grad_filters)
            if convolution is not None:
                convolution.run(further[0], further[1], None, start, stop)
        unit.release()

    return Kernel(emit, num_arguments=7 if for_features else 5)

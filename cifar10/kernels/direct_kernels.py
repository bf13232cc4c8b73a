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
from cifar10.kernels.arrays import byte_array, float_array
from cifar10.kernels.bfloat16_units import Factor, Unit, unit_for
from cifar10.kernels.codegen import Integer, KernelBuilder, lanes_for
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
    def pitch(self) -> int:
        """Positions from a row to the next: one column of zeros is the border of both."""
        return self.size + 1

    @property
    def image_positions(self) -> int:
        """Positions from an image to the next: one row of zeros is the border of both."""
        return self.pitch**2

    @property
    def border(self) -> int:
        """Positions before the first image, and after the last."""
        return self.pitch + 1

    @property
    def output_size(self) -> int:
        """Height and width of the output, after pooling."""
        return self.size // 2 if self.pooled else self.size

    @property
    def gradient_numbers(self) -> int:
        """Numbers of the gradient of filters, filled up."""
        return TAPS**2 * rounded_up(self.channels_in) * rounded_up(self.channels_out)

    def block_images(self, positions: int) -> int:
        """Return the images of a block that has about so many positions."""
        return max(1, positions // self.image_positions)


class _Maps:
    """Feature maps of a block of images with their borders, bfloat16, in the thread's workspace.

    Args:
        builder: Allocates the memory.
        shape: Of the convolution.
        channels: Without those that are added.
        num_images: Of a block, at most.
    """

    def __init__(self, builder: KernelBuilder, shape: DirectShape, channels: int, num_images: int) -> None:
        self.shape, self.channels, self.filled = shape, channels, rounded_up(channels)
        self.num_rows = rounded_up(2 * shape.border + rounded_up(num_images * shape.image_positions))
        """Positions with the borders."""
        self.row_bytes = self.filled * BYTES
        self._builder = builder.with_lanes(halves.LANES)
        self._address = builder.allocate(self.num_rows * self.row_bytes // _FLOAT_BYTES)
        halves.fill_zeros(self._builder, self._address, self.num_rows * self.row_bytes)

    def matrix(self, first: int) -> Matrix:
        """Return the words from position `first` on; 0 is the first one of the border."""
        zero = self._builder.integer(0)
        return Matrix(self._address + first * self.row_bytes, zero, self.row_bytes // _FLOAT_BYTES, column_stride=1)

    def copy(self, source: Integer, first: Integer, end: Integer) -> None:
        """Copy the maps of images first .. end - 1 of (B, H, H, C)."""
        builder, size = self._builder, self.shape.size
        with builder.loop(first, end) as image, builder.loop(0, size) as row, builder.loop(0, size) as column:
            pixel = source + ((image * size + row) * size + column) * (self.channels * BYTES)
            here = self._place(image - first, row, column)
            for channel, length in _pieces(self.channels):
                value = halves.load_raw(builder, pixel + channel * BYTES, length)
                halves.store_raw(builder, value, here + channel * BYTES)

    def unpool(self, source: Integer, indices: Integer, first: Integer, end: Integer) -> None:
        """Copy pooled gradients (B, H // 2, H // 2, C) to the pixels that were the largest, and zeros to the others.

        Args:
            source: Address of the gradients.
            indices: Address of the max-pooling indices, uint8, like `source`: which of four pixels was the largest.
            first: Of the images.
            end: After the last of them.
        """
        builder, size = self._builder, self.shape.output_size
        with builder.loop(first, end) as image, builder.loop(0, size) as row, builder.loop(0, size) as column:
            start = ((image * size + row) * size + column) * self.channels
            for channel, length in _pieces(self.channels):
                gradient = halves.load_raw(builder, source + (start + channel) * BYTES, length)
                index = halves.load_raw_bytes(builder, indices + start + channel, length)
                for number in range(4):
                    chosen = halves.where_equal(builder, index, number, gradient)
                    here = self._place(image - first, row * 2 + number // 2, column * 2 + number % 2)
                    halves.store_raw(builder, chosen, here + channel * BYTES)

    def _place(self, image: Integer, row: Integer, column: Integer) -> Integer:
        position = image * self.shape.image_positions + row * self.shape.pitch + column + self.shape.border
        return self._address + position * self.row_bytes


class _Convolution:
    """Convolutions of maps, a panel of output channels at a time, with rounding or max-pooling of the sums.

    Args:
        builder: Allocates the memory.
        unit: Multiplies; configured.
        maps: Left factors.
        num_images: Of a block, at most.
        channels_out: Of the results.
    """

    def __init__(self, builder: KernelBuilder, unit: Unit, maps: _Maps, num_images: int, channels_out: int) -> None:
        self._unit, self._maps, self._channels_out = unit, maps, channels_out
        self._builder = builder.with_lanes(lanes_for(channels_out))
        self._sums = builder.allocate(rounded_up(num_images * maps.shape.image_positions) * PANEL)

    def run(self, filters: Integer, target: Integer, indices: Integer | None, first: Integer, end: Integer) -> None:
        """Write the results of images first .. end - 1; with `indices`, max-pooled 2 x 2, and the indices, too."""
        panel_bytes = TAPS**2 * self._maps.filled * PANEL * BYTES

        def write(panel: Integer, channels: int) -> None:
            self._multiply(filters + panel * panel_bytes, (end - first) * self._maps.shape.image_positions)
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
            yield image, (image - first) * self._maps.shape.image_positions

    def _multiply(self, filters: Integer, num_positions: Integer) -> None:
        unit, maps = self._unit, self._maps
        left = maps.matrix(maps.shape.border).address
        with unit.builder.loop(0, num_positions, UNIT_ROWS) as position:
            here = self._sums + position * _PANEL_BYTES
            sums = Sums(
                [[here + (row * _PANEL_BYTES + column * ROW_BYTES) for column in range(2)] for row in (0, ROWS)],
                _PANEL_BYTES,
            )
            sums.zero(unit)
            with unit.builder.loop(0, maps.filled, _STEP) as channel:
                for tap in range(TAPS**2):
                    shift = _SHIFTS[tap // TAPS] * maps.shape.pitch + _SHIFTS[tap % TAPS]
                    start = left + position * maps.row_bytes + channel * BYTES
                    right = filters + channel * (PANEL * BYTES) + tap * (maps.filled * PANEL * BYTES)
                    unit.add(
                        Factor([start + (shift + row) * maps.row_bytes for row in (0, ROWS)], maps.row_bytes),
                        Factor([right, right + ROW_BYTES], PANEL * _PAIR_BYTES),
                    )
            sums.store(unit)

    def _round(self, image: Integer, place: Integer, target: Integer, start: Integer, channels: int) -> None:
        builder, size = self._builder, self._maps.shape.size
        sums = float_array(builder, self._sums)
        with builder.loop(0, size) as row, builder.loop(0, size) as column:
            source = (place + row * self._maps.shape.pitch + column) * PANEL
            pixel = ((image * size + row) * size + column) * self._channels_out + start
            for channel in range(0, channels, builder.num_lanes):
                halves.store(builder, sums.load(source + channel), target + (pixel + channel) * BYTES)

    def _pool(
        self, image: Integer, place: Integer, target: Integer, indices: Integer, start: Integer, channels: int
    ) -> None:
        builder, shape = self._builder, self._maps.shape
        sums, size, largest = float_array(builder, self._sums), shape.size // 2, byte_array(builder, indices)
        with builder.loop(0, size) as row, builder.loop(0, size) as column:
            corner = (place + row * (2 * shape.pitch) + column * 2) * PANEL
            pixel = ((image * size + row) * size + column) * self._channels_out + start
            for channel in range(0, channels, builder.num_lanes):
                best, index = sums.load(corner + channel), builder.int_constant(0)
                for number in range(1, 4):
                    distance = (number // 2 * shape.pitch + number % 2) * PANEL
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

    def __init__(self, builder: KernelBuilder, unit: Unit, features: _Maps, gradients: _Maps) -> None:
        self._unit, self._features, self._gradients = unit, features, gradients
        self._builder = builder.with_lanes(halves.LANES)
        self._exchanged, self._pairs = (
            builder.allocate(maps.num_rows * maps.row_bytes // _FLOAT_BYTES) for maps in (features, gradients)
        )

    def add(self, num_positions: Integer, target: Integer) -> None:
        """Add the products of a block to the gradient of the filters at `target`."""
        builder, unit, features, gradients = self._builder, self._unit, self._features, self._gradients
        border, pitch = features.shape.border, features.shape.pitch
        end = rounded_up(num_positions)
        right = gradients.matrix(border)
        clear_rows(builder, right, num_positions, end, right.row_stride)
        num_pairs = gradients.num_rows // 2
        pairs = Matrix(self._pairs, builder.integer(0), PANEL, num_pairs)
        pair_rows(builder, right, pairs, (end, gradients.filled), PANEL)
        row_words = features.num_rows // 2
        exchanged = Matrix(self._exchanged, builder.integer(0), row_words, column_stride=1)
        transpose_pairs(builder, features.matrix(0), exchanged, (rounded_up(end + 2 * border), features.filled))
        row_bytes, rows, columns = row_words * _PAIR_BYTES, features.filled, gradients.filled
        with builder.loop(0, TAPS) as y, builder.loop(0, TAPS) as x:
            shift = y * pitch + x
            tap = target + (y * TAPS + x) * (rows * columns * _FLOAT_BYTES)
            with builder.loop(0, columns, PANEL) as column, builder.loop(0, rows, UNIT_ROWS) as row:
                here = tap + (column * rows + row * PANEL) * _FLOAT_BYTES
                sums = Sums(
                    [[here + (r * _PANEL_BYTES + c * ROW_BYTES) for c in range(2)] for r in (0, ROWS)], _PANEL_BYTES
                )
                sums.load(unit)
                with builder.loop(0, end, _STEP) as position:
                    left = self._exchanged + row * row_bytes + (shift + position) * BYTES
                    above = self._pairs + (column * num_pairs + position // 2 * PANEL) * _PAIR_BYTES
                    unit.add(
                        Factor([left + r * row_bytes for r in (0, ROWS)], row_bytes),
                        Factor([above, above + ROW_BYTES], PANEL * _PAIR_BYTES),
                    )
                sums.store(unit)


@functools.cache
def forward_kernel(shape: DirectShape) -> Kernel:
    """Compile the forward pass.

    Arguments: features, filters, results, max-pooling indices (if pooled), configuration of the unit.
    """
    length = shape.block_images(_FORWARD_POSITIONS)

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        features, filters, results, indices, configuration = arguments
        unit = unit_for(builder)
        maps = _Maps(builder, shape, shape.channels_in, length)
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
        inputs, outputs = (
            _Maps(builder, shape, channels, length) for channels in (shape.channels_in, shape.channels_out)
        )
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
            sums.add((stop - start) * shape.image_positions, grad_filters)
            if convolution is not None:
                convolution.run(further[0], further[1], None, start, stop)
        unit.release()

    return Kernel(emit, num_arguments=7 if for_features else 5)


def _pieces(channels: int) -> list[tuple[int, int]]:
    """Return first channels and lengths of vectors: of a cache line, and of half and a quarter of one for the rest."""
    pieces, first = [], 0
    for length in (ROW_BYTES // BYTES, 16, 8):
        while channels - first >= length:
            pieces.append((first, length))
            first += length
    return pieces

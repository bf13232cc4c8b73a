"""Feature maps in memory, and with padding on a thread's stack, as Winograd's transforms read and write them."""

from collections.abc import Iterator

from cifar10.kernels import halves
from cifar10.kernels.arrays import ByteArray, FloatArray, stack_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.winograd import Tiling


class FeatureMap:
    """Some channels of one image's feature map in memory."""

    def __init__(
        self,
        builder: KernelBuilder,
        address: Integer,
        size: int,
        channels: int,
        image: Integer,
        channel: Integer,
        in_bfloat16: bool,
    ) -> None:
        self.data = halves.map_array(builder, address, in_bfloat16)
        self.size = size
        self._channels = channels
        self._first = image * (size**2 * channels) + channel

    def offset(self, row: Integer, column: Integer) -> Integer:
        return self._first + (row * self.size + column) * self._channels


class PaddedMap:
    """Some channels of one image's feature map on the thread's stack, with the padding that windows reach into.

    There all tiles lie alike, so that one piece of code serves tiles at the border, too.
    """

    def __init__(self, builder: KernelBuilder, tiling: Tiling, window_size: int, start: int) -> None:
        self.builder = builder
        self._tiling = tiling
        self._start = start
        self.size = (tiling.tiles_per_side - 1) * tiling.tile + window_size
        self.data: FloatArray = stack_array(builder, self.size**2)

    def clear(self) -> None:
        with self.builder.loop(0, self.size**2) as pixel:
            self.data.store(self.builder.constant(0.0), pixel * self.builder.num_lanes)

    def copy_from(self, source: FeatureMap) -> None:
        for here, there in self._shared_pixels(source):
            self.data.store(source.data.load(there), here)

    def copy_to(self, target: FeatureMap) -> None:
        for here, there in self._shared_pixels(target):
            target.data.store(self.data.load(here), there)

    def window(self, row: Integer, column: Integer) -> "_Window":
        """Return the pixels of a tile."""
        return _Window(self, self.offset(row * self._tiling.tile, column * self._tiling.tile))

    def max_pool(self, pooled: FeatureMap, indices: ByteArray) -> None:
        """Write the largest of each 2 x 2 pixels, and which of the four it is."""
        builder = self.builder
        for corners, offset in self._pooling_windows(pooled):
            best, index = self.data.load(corners[0]), builder.int_constant(0)
            for number in range(1, 4):
                value = self.data.load(corners[number])
                mask = value.greater(best)
                best = builder.select(mask, value, best)
                index = builder.select(mask, builder.int_constant(number), index)
            pooled.data.store(best, offset)
            indices.store(index, offset)

    def max_unpool(self, pooled: FeatureMap, indices: ByteArray) -> None:
        """Give each pooled gradient to the pixel that was the largest, and zero to the other three."""
        builder, zero = self.builder, self.builder.constant(0.0)
        for corners, offset in self._pooling_windows(pooled):
            gradient, index = pooled.data.load(offset), indices.load(offset)
            for number, corner in enumerate(corners):
                self.data.store(builder.select(index.equals(number), gradient, zero), corner)

    def offset(self, row: Integer | int, column: Integer | int) -> Integer:
        return (self.builder.integer(row) * self.size + column) * self.builder.num_lanes

    def _shared_pixels(self, other: FeatureMap) -> Iterator[tuple[Integer, Integer]]:
        """Loop over the pixels that both have; yield their offsets here and in `other`."""
        last = min(other.size, self.size + self._start)
        with self.builder.loop(0, last) as row, self.builder.loop(0, last) as column:
            yield self.offset(row + -self._start, column + -self._start), other.offset(row, column)

    def _pooling_windows(self, pooled: FeatureMap) -> Iterator[tuple[list[Integer], Integer]]:
        """Loop over pooled pixels; yield the offsets of the four pixels here, and of the pooled one."""
        with self.builder.loop(0, pooled.size) as row, self.builder.loop(0, pooled.size) as column:
            first = (row * 2, column * 2)
            corners = [self.offset(first[0] + number // 2, first[1] + number % 2) for number in range(4)]
            yield corners, pooled.offset(row, column)


class _Window:
    """A tile's pixels in a padded map. `store` adds, since the windows of neighbouring tiles may overlap."""

    def __init__(self, padded: PaddedMap, first: Integer) -> None:
        self._padded = padded
        self._first = first

    def load(self, row: Integer | int, column: Integer | int) -> Vector:
        return self._padded.data.load(self._offset(row, column))

    def store(self, value: Vector, row: Integer | int, column: Integer | int) -> None:
        offset = self._offset(row, column)
        self._padded.data.store(self._padded.data.load(offset) + value, offset)

    def _offset(self, row: Integer | int, column: Integer | int) -> Integer:
        return self._first + self._padded.offset(row, column)

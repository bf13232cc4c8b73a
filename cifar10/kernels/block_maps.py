"""Feature maps of a block of images in a thread's workspace, from which kernels on tiles read their factors."""

from cifar10.kernels import halves
from cifar10.kernels.amx import ROW_BYTES
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.gemm import Matrix
from cifar10.kernels.halves import BYTES
from cifar10.kernels.unit_packing import rounded_up

_WORD_BYTES = 4


class BlockMaps:
    """Maps of a block of images, bfloat16. Borders, and channels that fill tiles, stay zero.

    Args:
        builder: Allocates the memory.
        layout: Of the maps.
        num_images: Of a block, at most.
    """

    def __init__(self, builder: KernelBuilder, layout: FeatureMaps, num_images: int) -> None:
        self.layout = layout
        self.num_rows = rounded_up(2 * layout.border + rounded_up(num_images * layout.image_positions))
        """Positions with the borders."""
        self.row_bytes = layout.position_bytes
        self._builder = builder.with_lanes(halves.LANES)
        self._address = builder.allocate(self.num_rows * self.row_bytes // _WORD_BYTES)
        halves.fill_zeros(self._builder, self._address, self.num_rows * self.row_bytes)

    def matrix(self, first: int) -> Matrix:
        """Return the words from position `first` on; 0 is the first one of the border."""
        zero = self._builder.integer(0)
        return Matrix(self._address + first * self.row_bytes, zero, self.row_bytes // _WORD_BYTES, column_stride=1)

    def copy(self, source: Integer, first: Integer, end: Integer) -> None:
        """Copy the maps of images first .. end - 1 of (B, H, H, C)."""
        builder, size, channels = self._builder, self.layout.size, self.layout.num_channels
        with builder.loop(first, end) as image, builder.loop(0, size) as row, builder.loop(0, size) as column:
            pixel = source + ((image * size + row) * size + column) * (channels * BYTES)
            here = self._address + self.layout.offset(image - first, row, column)
            for channel, length in _pieces(channels):
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
        builder, size, channels = self._builder, self.layout.size // 2, self.layout.num_channels
        with builder.loop(first, end) as image, builder.loop(0, size) as row, builder.loop(0, size) as column:
            start = ((image * size + row) * size + column) * channels
            for channel, length in _pieces(channels):
                gradient = halves.load_raw(builder, source + (start + channel) * BYTES, length)
                index = halves.load_raw_bytes(builder, indices + start + channel, length)
                for number in range(4):
                    chosen = halves.where_equal(builder, index, number, gradient)
                    place = self.layout.offset(image - first, row * 2 + number // 2, column * 2 + number % 2)
                    halves.store_raw(builder, chosen, self._address + place + channel * BYTES)


def _pieces(channels: int) -> list[tuple[int, int]]:
    """Return first channels and lengths of vectors: of a cache line, and of half and a quarter of one for the rest."""
    pieces, first = [], 0
    for length in (ROW_BYTES // BYTES, 16, 8):
        while channels - first >= length:
            pieces.append((first, length))
            first += length
    return pieces

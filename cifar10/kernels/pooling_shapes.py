"""The memory of a small network in training: maps, gradients, filters, and where each tap of a filter reads.

A map is stored flat: positions row by row, each row followed by two positions of zeros, which are the border on its
right and, for the next row, on its left. So a tap reads at a constant distance from its output, and pairs of positions
begin at even ones. Before and after a map there are positions of zeros, too.

A convolution with stride 2 reads a map as four: of even and odd rows, of even and odd columns. Then it has no stride,
and each tap reads one of the four.

Shapes: C channels in, K out; a map before a stage has 2H x 2H positions, after it H x H.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cifar10.kernels.amx import ROW_BYTES, ROWS
from cifar10.kernels.halves import BYTES, LANES

Way = Literal["stride", "max", "average"]

TILE_BYTES = ROWS * ROW_BYTES
DEPTH = 32
"""Numbers that a tile of a left factor has in a row: channels, or positions."""
IMAGE_SIZE = 32
IMAGE_CHANNELS = 3
STEM_SIDE, STEM_PADDING = 5, 2
STEM_SIZE = IMAGE_SIZE // 2
"""Height and width of the first map."""
STEM_PAIRS = -(-STEM_SIDE * IMAGE_CHANNELS // 2)
"""Of numbers that a row of a filter is multiplied with; those after them are padding."""
TAPS = 3
_BORDER = 2  # positions after each row
_ORIGIN = 16  # positions before a map, at least pitch + 1


@dataclass(frozen=True)
class Stage:
    """Halve a map, convolve it with 3 x 3 filters, and activate."""

    way: Way
    size: int
    """H."""
    channels_in: int
    channels_out: int

    @property
    def num_maps(self) -> int:
        return 4 if self.way == "stride" else 1

    @property
    def pitch(self) -> int:
        """Positions from one row to the next."""
        return self.size + _BORDER

    @property
    def num_tiles(self) -> int:
        """Tiles of positions that the outputs of an image fill."""
        return -(-self.size * self.pitch // ROWS)

    @property
    def num_steps(self) -> int:
        """Groups of 32 positions that a product for the gradient of the filters sums over, one after the other."""
        return -(-self.size * self.pitch // DEPTH)

    def rows_of_tile(self, number: int) -> list[int]:
        """Return the rows of a tile of positions that are not in the border."""
        positions = range(ROWS * number, ROWS * (number + 1))
        return [position % ROWS for position in positions if self._is_inside(position)]

    def pairs_of_step(self, number: int) -> list[int]:
        """Return the pairs of 32 positions of a step that are not in the border."""
        pairs = range(DEPTH // 2 * number, DEPTH // 2 * (number + 1))
        return [pair % (DEPTH // 2) for pair in pairs if self._is_inside(2 * pair)]

    def _is_inside(self, position: int) -> bool:
        return position < self.size * self.pitch and position % self.pitch < self.size

    @property
    def positions(self) -> int:
        """Positions in memory of a map: before it, its own, and after it; a multiple of 32."""
        return DEPTH * (self.num_steps + 1)

    @property
    def map_bytes(self) -> int:
        """Of one map of an image, (positions, C) in bfloat16."""
        return self.positions * self.channels_in * BYTES

    @property
    def input_bytes(self) -> int:
        """Of all maps of an image."""
        return self.num_maps * self.map_bytes

    @property
    def gradient_bytes(self) -> int:
        """Of a gradient of the outputs of an image, (positions, K) in bfloat16."""
        return self.positions * self.channels_out * BYTES

    @property
    def mask_bytes(self) -> int:
        """Of the bits of an image that say through which inputs a gradient flows: one for each number before it."""
        return 4 * self.size**2 * self.channels_in // 8

    @property
    def filter_tiles(self) -> int:
        """Tiles of the filters, each of 32 channels in and 16 out, or the other way round."""
        return TAPS**2 * (self.channels_in // DEPTH) * (self.channels_out // LANES)

    @property
    def gradient_tiles(self) -> int:
        """Tiles of the gradient of the filters, each of 16 channels in and 16 out."""
        return TAPS**2 * (self.channels_in // LANES) * (self.channels_out // LANES)

    @property
    def taps(self) -> list[tuple[int, int]]:
        """(map, distance in positions) of each tap, row by row."""
        found = []
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if self.way == "stride":  # row 2y - 1 is odd row y - 1, 2y even row y, 2y + 1 odd row y
                    found.append((2 * (dy % 2) + dx % 2, (dy >> 1 if dy else 0) * self.pitch + (dx >> 1 if dx else 0)))
                else:
                    found.append((0, dy * self.pitch + dx))
        return found

    @staticmethod
    def origin() -> int:
        """The position of the first output in a map or a gradient."""
        return _ORIGIN


@dataclass(frozen=True)
class PoolingShapes:
    """The two stages of a network, after a 5 x 5 convolution with stride 2."""

    first: Stage
    second: Stage

    @property
    def stem_width(self) -> int:
        """Channels of the first map."""
        return self.first.channels_in

    @property
    def stem_tiles(self) -> int:
        """Tiles of the filters of the first convolution, and of their gradient: for each row and 16 channels out."""
        return STEM_SIDE * (self.stem_width // LANES)

    @property
    def gradient_tiles(self) -> int:
        """Tiles of the gradients of all filters: of the first convolution, then of the stages."""
        return self.stem_tiles + self.first.gradient_tiles + self.second.gradient_tiles


def shapes_of(way: Way, widths: tuple[int, int, int]) -> PoolingShapes:
    """Return the shapes of a network with these channels, multiples of 32, for images of 32 x 32 pixels."""
    return PoolingShapes(
        Stage(way, STEM_SIZE // 2, widths[0], widths[1]), Stage(way, STEM_SIZE // 4, widths[1], widths[2])
    )


def numbered(shape: tuple[int, ...], first: int) -> Tensor:
    """Return the numbers first, first + 1, ... as a tensor of this shape."""
    return torch.arange(first, first + torch.Size(shape).numel()).view(shape)


def forward_filters(weight: Tensor) -> Tensor:
    """Return 3 x 3 filters as right factors: (K, C, 3, 3) -> (taps, C / 32, K / 16, 16 pairs of channels, 16, 2)."""
    channels_out, channels_in = weight.shape[:2]
    taps = weight.permute(2, 3, 1, 0).reshape(TAPS**2, channels_in // DEPTH, 16, 2, channels_out // LANES, LANES)
    return taps.permute(0, 1, 4, 2, 5, 3)


def backward_filters(weight: Tensor) -> Tensor:
    """Return them as right factors of gradients: the same with K and C exchanged."""
    return forward_filters(weight.transpose(0, 1))


def stem_filters(weight: Tensor, zero: int) -> Tensor:
    """Return 5 x 5 filters as right factors: (K, 3, 5, 5) -> (rows, K / 16, 16 pairs of numbers, 16, 2).

    A row of pixels has 15 numbers, columns before channels; further ones are `zero`.
    """
    width = weight.shape[0]
    rows = weight.permute(2, 3, 1, 0).reshape(STEM_SIDE, STEM_SIDE * IMAGE_CHANNELS, width)
    padding = torch.full((STEM_SIDE, DEPTH - rows.shape[1], width), zero, dtype=rows.dtype)
    rows = torch.cat([rows, padding], dim=1).view(STEM_SIDE, 16, 2, width // LANES, LANES)
    return rows.permute(0, 3, 1, 4, 2)


def gradient_places(shape: tuple[int, ...]) -> Tensor:
    """Return where the gradient of each 3 x 3 filter weight, (K, C, 3, 3), is in the tiles of the kernel.

    The tiles are (taps, C / 16, K / 16), each of 16 channels in x 16 out.
    """
    channels_out, channels_in = shape[:2]
    tiles = numbered((TAPS**2, channels_in // LANES, channels_out // LANES, LANES, LANES), 0)
    return tiles.permute(2, 4, 1, 3, 0).reshape(channels_out, channels_in, TAPS, TAPS)


def stem_gradient_places(width: int) -> Tensor:
    """Return the same for the 5 x 5 filters, (K, 3, 5, 5); the tiles are (rows, K / 16), of 16 numbers x 16 out."""
    tiles = numbered((STEM_SIDE, width // LANES, LANES, LANES), 0)[:, :, : STEM_SIDE * IMAGE_CHANNELS]
    tiles = tiles.view(STEM_SIDE, width // LANES, STEM_SIDE, IMAGE_CHANNELS, LANES)
    return tiles.permute(1, 4, 3, 0, 2).reshape(width, IMAGE_CHANNELS, STEM_SIDE, STEM_SIDE)

"""The shapes of a fused convolution: maps, filters and constants as its kernel reads them, and blocks of its outputs.

Shapes: B images, C channels in, K out, maps of H x H.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from cifar10.kernels.amx import ROWS
from cifar10.kernels.arithmetic import Arithmetic
from cifar10.kernels.codegen import Integer
from cifar10.kernels.feature_maps import FeatureMaps

LANES = 16
SLAB = 2 * LANES
"""Outputs that are computed together: K is a multiple of it."""
HALVES = range(SLAB // LANES)
SUM_BYTES = 4
"""Of a sum, float32 or int32."""
TAPS = 3
"""Side of the filters."""
SHIFT, SCALE, OUTPUT_SCALE, OUTPUT_ZERO, SHORTCUT_SCALE = range(5)
"""Rows of the constants, float32 (rows, K): added to the sum; for integers also factor of the sum, steps in 1 of the
output, number that stands for its 0, and size of a step of the shortcut."""
_REGISTER_COLUMNS = 12  # whose sums vectors keep: of 32 registers, 24 hold those, and 2 filters
AT_FIRST, AT_LAST = 1, 2
"""What `FusedConvolution.border` adds for the first row or column of a map, and for the last."""
NUM_BORDERS = 4
_MOST_DEPTH = 32  # channels
_SMALL_MAP = 64  # positions; of smaller maps, all rows are computed together on tiles

Number = TypeVar("Number", int, Integer)

Pooling = Literal["none", "pairs", "global"]
"""none: (B, K, H, H). pairs: the largest of 2 x 2, (B, K, H//2, H//2). global: the largest of all positions after the
activation, (B, K) in float32."""


@dataclass(frozen=True)
class FusedConvolution:
    """SiLU(pool(convolution) + shift + shortcut)."""

    size: int
    """H."""
    channels_in: int
    channels_out: int
    pooling: Pooling
    has_shortcut: bool
    arithmetic: Arithmetic

    @property
    def source(self) -> FeatureMaps:
        return FeatureMaps(self.size, self.channels_in, self.arithmetic)

    @property
    def target(self) -> FeatureMaps:
        """The maps that it writes, unless it pools globally."""
        size = self.size // 2 if self.pooling == "pairs" else self.size
        return FeatureMaps(size, self.channels_out, self.arithmetic)

    @property
    def num_slabs(self) -> int:
        return self.channels_out // SLAB

    @property
    def depth(self) -> int:
        """Channels in that are summed over together."""
        channels, step = self.source.channels, self.arithmetic.depth
        if self.arithmetic.has_tiles:
            return step
        return max(depth for depth in range(step, _MOST_DEPTH + 1, step) if channels % depth == 0)

    @property
    def num_depths(self) -> int:
        """Parts of the channels in that are summed over one after the other."""
        return self.source.channels // self.depth

    @property
    def half_bytes(self) -> int:
        """Of the filters of 16 outputs, for one tap and one part of the channels in."""
        return self.depth * self.arithmetic.bytes * LANES

    @property
    def side_needed(self) -> int:
        """Rows and columns of the convolution: of an odd size, pooling drops the last."""
        return self.size // 2 * 2 if self.pooling == "pairs" else self.size

    @property
    def block_rows(self) -> int:
        """Rows that are computed together.

        With tiles, two tiles at least, if there are so many. With vectors, as few as can be pooled.
        """
        step = 2 if self.pooling == "pairs" else 1
        is_small = self.arithmetic.has_tiles and self.side_needed * self.source.pitch <= _SMALL_MAP
        if self.pooling == "global" or is_small:
            return self.side_needed
        return step * -(-2 * ROWS // (step * self.source.pitch)) if self.arithmetic.has_tiles else step

    @property
    def column_parts(self) -> list[range]:
        """Columns of a row whose sums vectors keep in registers together."""
        side, number = self.side_needed, -(-self.side_needed // _REGISTER_COLUMNS)
        return [range(side * part // number, side * (part + 1) // number) for part in range(number)]

    def border(self, place: int) -> int:
        """Return 0 for a row or column inside the input, else the sum of AT_FIRST and AT_LAST, as they are true."""
        return AT_FIRST * (place == 0) + AT_LAST * (place == self.size - 1)

    @property
    def block_positions(self) -> int:
        return self.block_rows * self.source.pitch

    @property
    def block_tiles(self) -> int:
        return -(-self.block_positions // ROWS)

    def tap_positions(self, tap: Number) -> Number:
        """Return how many positions the input of a tap, 0 .. 8, lies after that of the middle one."""
        return (tap // TAPS - 1) * self.source.pitch + tap % TAPS - 1

    def starts(self, filters: Tensor, zero_point: int) -> Tensor:
        """Return what the sums of vectors begin with, int32 (4, 4, K), by `border` of row and column.

        Those are the products of the taps on the border, which vectors leave out: its inputs are the zero point.

        Args:
            filters: Whole numbers, (K, C, 3, 3).
            zero_point: Of the inputs.
        """
        taps = zero_point * filters.sum(dim=1, dtype=torch.float64)  # (K, 3, 3)
        inside = torch.ones(NUM_BORDERS, TAPS, dtype=torch.float64)
        inside[AT_FIRST, 0] = inside[AT_LAST, -1] = 0
        inside[AT_FIRST + AT_LAST] = inside[AT_FIRST] * inside[AT_LAST]
        starts = taps.sum(dim=(1, 2)) - torch.einsum("ry,kyx,cx->rck", inside, taps, inside)
        return starts.round().int().contiguous()

    def pack(self, weight: Tensor) -> Tensor:
        """Return filters, (K, C, 3, 3), as the kernel reads them: a slab after the other, in the filters' type."""
        group = self.arithmetic.group
        padded = torch.zeros(self.channels_out, self.source.channels, TAPS, TAPS)
        padded[:, : weight.shape[1]] = weight
        parts = padded.view(self.num_slabs, len(HALVES), LANES, -1, self.depth // group, group, TAPS**2)
        return parts.permute(0, 3, 6, 1, 4, 2, 5).contiguous().to(self.arithmetic.filter_type)

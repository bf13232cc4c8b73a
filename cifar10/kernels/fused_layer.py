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
TAPS = 3
"""Side of the filters."""
SHIFT, SCALE, OUTPUT_SCALE, OUTPUT_ZERO, SHORTCUT_SCALE = range(5)
"""Rows of the constants, float32 (rows, K): added to the sum; for integers also factor of the sum, steps in 1 of the
output, number that stands for its 0, and size of a step of the shortcut."""
_REGISTER_POSITIONS = 12  # whose sums vectors keep: of 32 registers, 24 hold those, and 2 filters
_MOST_POSITIONS = 128  # of a block for vectors: each needs code of its own
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

        Of tiles, two at least, if there are so many. Of vectors, the number that fills their registers best.
        """
        step = 2 if self.pooling == "pairs" else 1
        if self.pooling == "global":
            return self.side_needed
        if self.arithmetic.has_tiles:
            is_small = self.side_needed * self.source.pitch <= _SMALL_MAP
            return self.side_needed if is_small else step * -(-2 * ROWS // (step * self.source.pitch))
        divisors = [rows for rows in range(step, self.side_needed + 1, step) if self.side_needed % rows == 0]
        few = [rows for rows in divisors if rows * self.side_needed <= _MOST_POSITIONS] or divisors[:1]
        return max(few, key=lambda rows: rows * self.side_needed / len(self._positions(rows)))

    @property
    def position_blocks(self) -> list[list[int]]:
        """Positions of a block whose sums vectors keep in registers together, counted from its first one."""
        return self._positions(self.block_rows)

    def _positions(self, rows: int) -> list[list[int]]:
        needed = [row * self.source.pitch + column for row in range(rows) for column in range(self.side_needed)]
        number = -(-len(needed) // _REGISTER_POSITIONS)
        return [needed[len(needed) * n // number : len(needed) * (n + 1) // number] for n in range(number)]

    @property
    def block_positions(self) -> int:
        return self.block_rows * self.source.pitch

    @property
    def block_tiles(self) -> int:
        return -(-self.block_positions // ROWS)

    def tap_positions(self, tap: Number) -> Number:
        """Return how many positions the input of a tap, 0 .. 8, lies after that of the middle one."""
        return (tap // TAPS - 1) * self.source.pitch + tap % TAPS - 1

    def pack(self, weight: Tensor) -> Tensor:
        """Return filters, (K, C, 3, 3), as the kernel reads them: a slab after the other, in the filters' type."""
        group = self.arithmetic.group
        padded = torch.zeros(self.channels_out, self.source.channels, TAPS, TAPS)
        padded[:, : weight.shape[1]] = weight
        parts = padded.view(self.num_slabs, len(HALVES), LANES, -1, self.depth // group, group, TAPS**2)
        return parts.permute(0, 3, 6, 1, 4, 2, 5).contiguous().to(self.arithmetic.filter_type)

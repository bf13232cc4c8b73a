"""How the map of a 3 x 3 convolution is cut into tiles.

A map's results are cut into t x t tiles of m x m; each tile needs a window of n x n inputs, n = m + 2.
"""

import functools
from dataclasses import dataclass

from cifar10.kernels.toom_cook import LARGEST_TILE, TAPS

_SMALLEST_TILE = 2


@dataclass(frozen=True)
class Tiling:
    """How the results of a 3 x 3 convolution over a map are cut."""

    size: int
    """H, of inputs; and of results, of which the pooled ones are fewer."""
    pooled: bool
    """Whether results are pooled 2 x 2: only the largest of four is wanted, and of an odd row or column nothing."""

    @property
    def num_results(self) -> int:
        """Rows of results that are wanted."""
        return self.size // 2 * 2 if self.pooled else self.size

    @functools.cached_property
    def side(self) -> int:
        """m: the one with the fewest products, and of several such the smallest, since it rounds least."""
        return min(range(_SMALLEST_TILE, LARGEST_TILE + 1), key=lambda m: -(-self.num_results // m) * (m + TAPS - 1))

    @property
    def count(self) -> int:
        """t: tiles in a row."""
        return -(-self.num_results // self.side)

    @property
    def window(self) -> int:
        """n: inputs in a row of a tile."""
        return self.side + TAPS - 1

    @property
    def positions(self) -> int:
        """Products of one tile."""
        return self.window**2

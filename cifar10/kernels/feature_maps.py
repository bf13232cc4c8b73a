"""Feature maps in memory as fused layers read them: channels last, with borders of zeros."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cifar10.kernels.arithmetic import Arithmetic
from cifar10.kernels.codegen import Integer
from cifar10.kernels.halves import LANES


@dataclass(frozen=True)
class FeatureMaps:
    """Maps of several images, H x H positions of C channels each.

    One column of zeros follows each row, one row of zeros each image: the border on the right of a row is also that on
    the left of the next. So the inputs of a 3 x 3 filter lie at constant distances from its output, and 16 positions
    side by side are a tile.
    """

    size: int
    """H in pixels."""
    num_channels: int
    """Without those that are added to fill a tile."""
    arithmetic: Arithmetic

    @property
    def channels(self) -> int:
        """C: a multiple of the arithmetic's depth, and a vector at least."""
        depth = self.arithmetic.depth
        return max(-(-self.num_channels // depth) * depth, LANES)

    @property
    def pitch(self) -> int:
        """Positions from one row to the next."""
        return self.size + 1

    @property
    def image_positions(self) -> int:
        """Positions from one image to the next."""
        return self.pitch**2

    @property
    def position_bytes(self) -> int:
        return self.arithmetic.bytes * self.channels

    @property
    def border(self) -> int:
        """Positions before the first image, and after the last."""
        return self.pitch + 1

    def allocate(self, num_images: int, overhang: int, zero: int = 0) -> Tensor:
        """Return memory for `num_images` images, and for `overhang` positions that may be read after the last.

        Args:
            num_images: B.
            overhang: Positions.
            zero: The number that stands for 0, and fills the memory.
        """
        positions = 2 * self.border + num_images * self.image_positions + overhang
        return torch.full((positions * self.channels,), zero, dtype=self.arithmetic.map_type)

    def offset(self, image: Integer, row: Integer, column: Integer | int) -> Integer:
        """Return the bytes from the beginning of the memory to a position."""
        return (image * self.image_positions + row * self.pitch + column + self.border) * self.position_bytes

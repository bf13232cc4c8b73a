"""Feature maps in memory as matrix tiles read them: bfloat16, channels last, with borders of zeros."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cifar10.kernels import amx
from cifar10.kernels.codegen import Integer

_BYTES = 2  # of a bfloat16


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

    @property
    def channels(self) -> int:
        """C: a multiple of 32."""
        return -(-self.num_channels // amx.DEPTH) * amx.DEPTH

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
        return _BYTES * self.channels

    @property
    def _border(self) -> int:
        """Positions before the first image."""
        return self.pitch + 1

    def allocate(self, num_images: int, overhang: int) -> Tensor:
        """Return memory for `num_images` images, and for `overhang` positions that may be read after the last."""
        positions = 2 * self._border + num_images * self.image_positions + overhang
        return torch.zeros(positions * self.channels, dtype=torch.bfloat16)

    def offset(self, image: Integer, row: Integer, column: Integer | int) -> Integer:
        """Return the bytes from the beginning of the memory to a position."""
        return (image * self.image_positions + row * self.pitch + column + self._border) * self.position_bytes

"""Sums of products of tiles: up to 2 x 2 tiles of results are kept in registers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cifar10.kernels.amx import Tiles
from cifar10.kernels.codegen import Integer

_INSTRUCTION = "tdpbf16ps"
_LEFT, _RIGHT = 4, 6  # first registers of the factors; those before hold the sums


@dataclass(frozen=True)
class Factor:
    """Up to two tiles of bfloat16, one below the other of a left factor, one beside the other of a right one."""

    addresses: Sequence[Integer]
    stride: int
    """Bytes from one row of a tile to the next."""


@dataclass(frozen=True)
class Sums:
    """Tiles of float32: a row for each tile of left factors, a column for each of right factors."""

    addresses: Sequence[Sequence[Integer]]
    stride: int

    def zero(self, tiles: Tiles) -> None:
        """Begin at zero."""
        for number, _ in self._registers():
            tiles.zero(number)

    def load(self, tiles: Tiles) -> None:
        """Begin with what is in memory."""
        for number, address in self._registers():
            tiles.load(number, address, self.stride)

    def store(self, tiles: Tiles) -> None:
        """Write the sums."""
        for number, address in self._registers():
            tiles.store(number, address, self.stride)

    def _registers(self) -> list[tuple[int, Integer]]:
        return [
            (2 * row + column, address)
            for row, addresses in enumerate(self.addresses)
            for column, address in enumerate(addresses)
        ]


def add_products(tiles: Tiles, products: Iterable[tuple[Factor, Factor]]) -> None:
    """Add products of a left and a right factor to the sums in the registers."""
    for left, right in products:
        for number, address in enumerate(right.addresses):
            tiles.load(_RIGHT + number, address, right.stride)
        for row, address in enumerate(left.addresses):
            tiles.load(_LEFT + row, address, left.stride)
            for column in range(len(right.addresses)):
                tiles.add_product(_INSTRUCTION, 2 * row + column, _LEFT + row, _RIGHT + column)


def in_twos(number: int) -> list[range]:
    """Return 0 .. number - 1 as ranges of two, of which the last may have one."""
    return [range(first, min(first + 2, number)) for first in range(0, number, 2)]

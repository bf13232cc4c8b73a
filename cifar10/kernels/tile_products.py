"""Sums of products of tiles: up to 2 x 2 tiles of results are kept in a unit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cifar10.kernels.bfloat16_units import Factor, Unit
from cifar10.kernels.codegen import Integer


@dataclass(frozen=True)
class Sums:
    """Tiles of float32: a row for each tile of left factors, a column for each of right factors."""

    addresses: Sequence[Sequence[Integer]]
    stride: int

    def zero(self, unit: Unit) -> None:
        """Begin at zero."""
        for number, _ in self._registers():
            unit.zero(number)

    def load(self, unit: Unit) -> None:
        """Begin with what is in memory."""
        for number, address in self._registers():
            unit.load(number, address, self.stride)

    def store(self, unit: Unit) -> None:
        """Write the sums."""
        for number, address in self._registers():
            unit.store(number, address, self.stride)

    def _registers(self) -> list[tuple[int, Integer]]:
        return [
            (2 * row + column, address)
            for row, addresses in enumerate(self.addresses)
            for column, address in enumerate(addresses)
        ]


def add_products(unit: Unit, products: Iterable[tuple[Factor, Factor]]) -> None:
    """Add products of a left and a right factor to the sums in a unit."""
    for left, right in products:
        unit.add(left, right)


def in_twos(number: int) -> list[range]:
    """Return 0 .. number - 1 as ranges of two, of which the last may have one."""
    return [range(first, min(first + 2, number)) for first in range(0, number, 2)]

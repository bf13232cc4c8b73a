"""One image's map on a thread's own stack, where tiles are cut from it or put together, and results pooled.

Shapes: b images, square maps of H pixels and C channels, channels last: (b, H, H, C).
"""

from collections.abc import Iterator

from cifar10.kernels.arrays import ByteArray, array, buffer
from cifar10.kernels.program import Integer, Lanes, Program
from cifar10.kernels.tiling import Tiling


class Maps:
    """Some channels of one image's map in memory."""

    def __init__(
        self, program: Program, address: Integer, size: int, channels: int, image: Integer, channel: Integer
    ) -> None:
        self.memory = array(address, program)
        self.size = size
        self._channels = channels
        self._first = image * (size**2 * channels) + channel

    def offset(self, row: Integer, column: Integer) -> Integer:
        return self._first + (row * self.size + column) * self._channels


class Plane:
    """Some channels of one image's map on the thread's own stack, with the margins that windows reach into.

    All tiles are cut alike there, so that one piece of code does for all.
    """

    def __init__(self, program: Program, tiling: Tiling, width: int, start: int) -> None:
        self.program = program
        self._tiling = tiling
        self._width = width
        self._start = start
        self.side = (tiling.count - 1) * tiling.side + width
        self.memory = buffer(program, self.side**2)

    def clear(self) -> None:
        with self.program.loop(0, self.side**2) as pixel:
            self.memory.store(self.program.constant(0.0), pixel * self.program.num_lanes)

    def fill(self, maps: Maps) -> None:
        for place, offset in self._shared_pixels(maps):
            self.memory.store(maps.memory.load(offset), place)

    def empty(self, maps: Maps) -> None:
        """Write what lies inside the map into it."""
        for place, offset in self._shared_pixels(maps):
            maps.memory.store(self.memory.load(place), offset)

    def window(self, row: Integer, column: Integer) -> "Window":
        """Return the pixels of a tile."""
        return Window(self, self._place(row * self._tiling.side, column * self._tiling.side))

    def pool(self, pooled: Maps, places: ByteArray) -> None:
        """Write the largest of each 2 x 2 pixels, and which of the four it was."""
        program = self.program
        for corners, offset in self._squares(pooled):
            best, place = self.memory.load(corners[0]), program.whole(0)
            for number in range(1, 4):
                value = self.memory.load(corners[number])
                mask = value.exceeds(best)
                best = program.choose(mask, value, best)
                place = program.choose(mask, program.whole(number), place)
            pooled.memory.store(best, offset)
            places.store(place, offset)

    def unpool(self, pooled: Maps, places: ByteArray) -> None:
        """Give each pooled gradient to the pixel that was the largest, and zero to the other three."""
        program, zero = self.program, self.program.constant(0.0)
        for corners, offset in self._squares(pooled):
            gradient, place = pooled.memory.load(offset), places.load(offset)
            for number, corner in enumerate(corners):
                self.memory.store(program.choose(place.equals(number), gradient, zero), corner)

    def _place(self, row: Integer | int, column: Integer | int) -> Integer:
        return (self.program.integer(row) * self.side + column) * self.program.num_lanes

    def _shared_pixels(self, maps: Maps) -> Iterator[tuple[Integer, Integer]]:
        """Loop over the map's pixels that are in the plane; yield where they are there, and their offset in the map."""
        last = min(maps.size, self.side + self._start)
        with self.program.loop(0, last) as row, self.program.loop(0, last) as column:
            yield self._place(row + -self._start, column + -self._start), maps.offset(row, column)

    def _squares(self, pooled: Maps) -> Iterator[tuple[list[Integer], Integer]]:
        """Loop over pooling squares; yield where their four pixels are, and the offset of their pooled one."""
        with self.program.loop(0, pooled.size) as row, self.program.loop(0, pooled.size) as column:
            first = (row * 2, column * 2)
            corners = [self._place(first[0] + number // 2, first[1] + number % 2) for number in range(4)]
            yield corners, pooled.offset(row, column)


class Window:
    """A tile's pixels in a plane; what is stored there is added to what other tiles have stored."""

    def __init__(self, plane: Plane, first: Integer) -> None:
        self._plane = plane
        self._first = first

    def load(self, row: Integer | int, column: Integer | int) -> Lanes:
        return self._plane.memory.load(self._place(row, column))

    def store(self, value: Lanes, row: Integer | int, column: Integer | int) -> None:
        place = self._place(row, column)
        self._plane.memory.store(self._plane.memory.load(place) + value, place)

    def _place(self, row: Integer | int, column: Integer | int) -> Integer:
        program = self._plane.program
        return self._first + (program.integer(row) * self._plane.side + column) * program.num_lanes

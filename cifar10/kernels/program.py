"""What small vector programs are written with: each call adds an instruction, and Python's loops unroll.

Everything is float32 in memory but for bytes (see `arrays`); `Lanes` are neighbouring numbers that one instruction
works on. What a program becomes, and how it runs, is `machine_code`'s.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

try:
    from llvmlite import ir
except ImportError:  # another kind of machine, perhaps: nothing will be written
    ir = None

_CONTRACT = ("contract",)  # a product and a sum may become one instruction, which rounds once
LINE_BYTES = 64  # of the cache


class Integer:
    """A whole number known when the program runs: a loop's counter, an argument, an offset."""

    def __init__(self, program: "Program", value: Any) -> None:
        self.program = program
        self.value = value

    def __add__(self, other: "Integer | int") -> "Integer":
        return Integer(self.program, self.program.builder.add(self.value, self.program.integer(other).value))

    def __sub__(self, other: "Integer | int") -> "Integer":
        return Integer(self.program, self.program.builder.sub(self.value, self.program.integer(other).value))

    def __mul__(self, other: "Integer | int") -> "Integer":
        return Integer(self.program, self.program.builder.mul(self.value, self.program.integer(other).value))


class Lanes:
    """Some neighbouring float32 numbers in a register."""

    def __init__(self, program: "Program", value: Any) -> None:
        self.program = program
        self.value = value

    def __add__(self, other: "Lanes | float") -> "Lanes":
        return self._apply("fadd", other)

    def __sub__(self, other: "Lanes | float") -> "Lanes":
        return self._apply("fsub", other)

    def __mul__(self, other: "Lanes | float") -> "Lanes":
        return self._apply("fmul", other)

    def __truediv__(self, other: "Lanes | float") -> "Lanes":
        return self._apply("fdiv", other)

    def exceeds(self, other: "Lanes") -> Any:
        """Return where self > other, or either is not a number: a mask for `Program.choose`."""
        return self.program.builder.fcmp_unordered(">", self.value, other.value)

    def _apply(self, instruction: str, other: "Lanes | float") -> "Lanes":
        other = other if isinstance(other, Lanes) else self.program.constant(other)
        emit = getattr(self.program.builder, instruction)
        return Lanes(self.program, emit(self.value, other.value, flags=_CONTRACT))


class WholeLanes:
    """As many neighbouring 32-bit whole numbers."""

    def __init__(self, program: "Program", value: Any) -> None:
        self.program = program
        self.value = value

    def equals(self, number: int) -> Any:
        """Return where they are `number`: a mask for `Program.choose`."""
        return self.program.builder.icmp_signed("==", self.value, self.program.whole(number).value)


AnyLanes = TypeVar("AnyLanes", Lanes, WholeLanes)


class Program:
    """What is being written: instructions for a range of items, of which each thread takes an equal share.

    Args:
        builder: Positioned where the next instruction goes.
        num_lanes: Numbers that an instruction works on.
        thread: Number of the thread that runs it.
        room: Address of memory for this thread alone; None if there is none to be had.
    """

    def __init__(self, builder: Any, num_lanes: int, thread: Any, room: Any) -> None:
        self.builder = builder
        self.num_lanes = num_lanes
        self.thread = Integer(self, thread)
        self.room_length = 0
        """float32 numbers that all rooms of a thread take."""
        self._room = room
        self.lanes_type = ir.VectorType(ir.FloatType(), num_lanes)
        self.whole_type = ir.VectorType(ir.IntType(32), num_lanes)

    def with_lanes(self, num_lanes: int) -> "Program":
        """Return the same program, going on with another number of lanes; rooms can be asked for here only."""
        return Program(self.builder, num_lanes, self.thread.value, room=None)

    def integer(self, value: Integer | int) -> Integer:
        return value if isinstance(value, Integer) else Integer(self, ir.IntType(64)(value))

    def least(self, one: Integer, other: Integer) -> Integer:
        is_less = self.builder.icmp_signed("<", one.value, other.value)
        return Integer(self, self.builder.select(is_less, one.value, other.value))

    def constant(self, value: float) -> Lanes:
        """Return lanes that all hold `value`."""
        return Lanes(self, ir.Constant(self.lanes_type, [_as_float32(value)] * self.num_lanes))

    def whole(self, value: int) -> WholeLanes:
        """Return whole lanes that all hold `value`."""
        return WholeLanes(self, ir.Constant(self.whole_type, [value] * self.num_lanes))

    def choose(self, mask: Any, chosen: AnyLanes, otherwise: AnyLanes) -> AnyLanes:
        return type(chosen)(self, self.builder.select(mask, chosen.value, otherwise.value))

    def room(self, length: int) -> Integer:
        """Return the address of room for `length` numbers, which this thread has for itself during a call."""
        assert self._room is not None, "two programs would give away the same room"
        address, floats = Integer(self, self._room) + 4 * self.room_length, LINE_BYTES // 4
        self.room_length += -(-length // floats) * floats
        return address

    def sigmoid(self, x: Lanes) -> Lanes:
        """Return 1 / (1 + exp(-x)), to within some units in the last place."""
        return self.constant(1.0) / (self._exp(self.constant(0.0) - x) + 1.0)

    def _exp(self, x: Lanes) -> Lanes:
        """Return e^x = 2^k e^r with whole k and |r| <= ln(2) / 2; k goes straight into the exponent bits."""
        x = self._intrinsic("llvm.minnum", x, self.constant(88.0))
        x = self._intrinsic("llvm.maxnum", x, self.constant(-87.0))
        k = self._intrinsic("llvm.rint", x * 1.44269504089)
        r = x - k * 0.693359375 - k * -2.12194440e-4  # ln(2) in two parts, so that the first product is exact
        series = self.constant(1 / 5040)
        for factorial in (720, 120, 24, 6, 2, 1, 1):  # the Taylor series: its error is below float32's here
            series = series * r + 1 / factorial
        power = self.builder.add(self.builder.fptosi(k.value, self.whole_type), self.whole(127).value)
        power = self.builder.shl(power, self.whole(23).value)
        return series * Lanes(self, self.builder.bitcast(power, self.lanes_type))

    def _intrinsic(self, name: str, *operands: Lanes) -> Lanes:
        kind = ir.FunctionType(self.lanes_type, [self.lanes_type] * len(operands))
        function = declare(self.builder.module, f"{name}.v{self.num_lanes}f32", kind)
        return Lanes(self, self.builder.call(function, [operand.value for operand in operands]))

    @contextmanager
    def loop(self, start: Integer | int, end: Integer | int, step: int = 1) -> Iterator[Integer]:
        """Repeat the instructions written inside `with` for a counter from `start` up to before `end`."""
        with self._repeat(start, end, step, []) as (counter, *_):
            yield counter

    def fold(
        self,
        start: Integer | int,
        end: Integer | int,
        initial: Sequence[Lanes],
        body: Callable[[Integer, list[Lanes]], list[Lanes]],
        step: int = 1,
    ) -> list[Lanes]:
        """Return what `body` makes of `initial`, again and again, for a counter from `start` up to before `end`."""
        with self._repeat(start, end, step, initial) as (counter, carried, results):
            results.extend(body(counter, carried))
        return carried

    @contextmanager
    def _repeat(
        self, start: Integer | int, end: Integer | int, step: int, initial: Sequence[Lanes]
    ) -> Iterator[tuple[Integer, list[Lanes], list[Lanes]]]:
        """Yield a counter, lanes that are `initial` at first, and a list for what they are the next time."""
        builder, before = self.builder, self.builder.block
        head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        counter = builder.phi(ir.IntType(64))
        counter.add_incoming(self.integer(start).value, before)
        carried = [Lanes(self, builder.phi(self.lanes_type)) for _ in initial]
        builder.cbranch(builder.icmp_signed("<", counter, self.integer(end).value), body, after)
        builder.position_at_end(body)
        results: list[Lanes] = []
        yield Integer(self, counter), carried, results
        for lanes, first, following in zip(carried, initial, results, strict=True):
            lanes.value.add_incoming(first.value, before)
            lanes.value.add_incoming(following.value, builder.block)
        counter.add_incoming(builder.add(counter, self.integer(step).value), builder.block)
        builder.branch(head)
        builder.position_at_end(after)


def lanes_for(channels: int) -> int:
    """Return how many channels to work on at once; 0 if their number fits none."""
    return next((lanes for lanes in (16, 8) if channels % lanes == 0), 0)


def declare(module: Any, name: str, kind: Any) -> Any:
    """Return a function of LLVM's own or of this process, to be called from `module`."""
    return module.globals.get(name) or ir.Function(module, kind, name)


def _as_float32(value: float) -> float:
    """Round: llvmlite writes constants with all of Python's digits, and LLVM takes only those a float32 has."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded

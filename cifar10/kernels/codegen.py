"""Code generation: a builder of vectorised kernels, and the values in them: integers and SIMD vectors.

Operators and methods do not compute: each adds instructions to the kernel. Loops in Python are unrolled.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

CACHE_LINE_BYTES = 64
_CONTRACT = ("contract",)  # a multiplication and an addition may become one instruction, which rounds once


class Integer:
    """A 64-bit integer known when the kernel runs: a loop counter, an argument, an offset. Division is unsigned."""

    def __init__(self, builder: "KernelBuilder", value: Any) -> None:
        self.builder = builder
        self.value = value

    def __add__(self, other: "Integer | int") -> "Integer":
        return Integer(self.builder, self.builder.llvm.add(self.value, self.builder.integer(other).value))

    def __sub__(self, other: "Integer | int") -> "Integer":
        return Integer(self.builder, self.builder.llvm.sub(self.value, self.builder.integer(other).value))

    def __mul__(self, other: "Integer | int") -> "Integer":
        return Integer(self.builder, self.builder.llvm.mul(self.value, self.builder.integer(other).value))

    def __floordiv__(self, other: int) -> "Integer":
        return Integer(self.builder, self.builder.llvm.udiv(self.value, self.builder.integer(other).value))

    def __mod__(self, other: int) -> "Integer":
        return Integer(self.builder, self.builder.llvm.urem(self.value, self.builder.integer(other).value))


class Vector:
    """A SIMD vector of float32, one element a lane."""

    def __init__(self, builder: "KernelBuilder", value: Any) -> None:
        self.builder = builder
        self.value = value

    def __add__(self, other: "Vector | float") -> "Vector":
        return self._apply("fadd", other)

    def __sub__(self, other: "Vector | float") -> "Vector":
        return self._apply("fsub", other)

    def __mul__(self, other: "Vector | float") -> "Vector":
        return self._apply("fmul", other)

    def __truediv__(self, other: "Vector | float") -> "Vector":
        return self._apply("fdiv", other)

    def greater(self, other: "Vector") -> Any:
        """Return a mask for `KernelBuilder.select`: where self > other, or either is NaN."""
        return self.builder.llvm.fcmp_unordered(">", self.value, other.value)

    def exceeds(self, other: "Vector") -> Any:
        """Return a mask for `KernelBuilder.select`: where self > other, or self is NaN, as the largest is chosen."""
        llvm = self.builder.llvm
        is_nan = llvm.fcmp_unordered("uno", self.value, self.value)
        return llvm.or_(llvm.fcmp_ordered(">", self.value, other.value), is_nan)

    def _apply(self, instruction: str, other: "Vector | float") -> "Vector":
        other = other if isinstance(other, Vector) else self.builder.constant(other)
        emit = getattr(self.builder.llvm, instruction)
        return Vector(self.builder, emit(self.value, other.value, flags=_CONTRACT))


class IntVector:
    """A SIMD vector of int32."""

    def __init__(self, builder: "KernelBuilder", value: Any) -> None:
        self.builder = builder
        self.value = value

    def greater(self, other: "IntVector") -> Any:
        """Return a mask for `KernelBuilder.select`: where self > other."""
        return self.builder.llvm.icmp_signed(">", self.value, other.value)

    def equals(self, number: int) -> Any:
        """Return a mask for `KernelBuilder.select`: where elements are `number`."""
        return self.builder.llvm.icmp_signed("==", self.value, self.builder.int_constant(number).value)

    def to_float(self) -> Vector:
        """Return the numbers in float32."""
        return Vector(self.builder, self.builder.llvm.sitofp(self.value, self.builder.vector_type))


AnyVector = TypeVar("AnyVector", Vector, IntVector)


class KernelBuilder:
    """Writes the code of a kernel.

    Args:
        llvm: llvmlite's IRBuilder, positioned where the next instruction goes.
        num_lanes: Elements of a vector.
        share: Number of the share of the items that the code is about.
        workspace: Address of memory for this thread alone; None: `allocate` may not be called.
    """

    def __init__(self, llvm: Any, num_lanes: int, share: Any, workspace: Any) -> None:
        self.llvm = llvm
        self.num_lanes = num_lanes
        self.share = Integer(self, share)
        self.workspace_size = 0
        """float32 numbers that `allocate` has given away, per thread."""
        self._workspace = workspace
        self.vector_type = ir.VectorType(ir.FloatType(), num_lanes)
        self.int_vector_type = ir.VectorType(ir.IntType(32), num_lanes)

    def with_lanes(self, num_lanes: int) -> "KernelBuilder":
        """Return a builder of the same code with another number of lanes, which cannot `allocate`."""
        return KernelBuilder(self.llvm, num_lanes, self.share.value, workspace=None)

    def integer(self, value: Integer | int) -> Integer:
        return value if isinstance(value, Integer) else Integer(self, ir.IntType(64)(value))

    def minimum(self, one: Integer, other: Integer) -> Integer:
        is_less = self.llvm.icmp_signed("<", one.value, other.value)
        return Integer(self, self.llvm.select(is_less, one.value, other.value))

    def quotient(self, one: Integer, other: Integer) -> Integer:
        """Return one / other, rounded down."""
        return Integer(self, self.llvm.udiv(one.value, other.value))

    def constant(self, value: float) -> Vector:
        """Return a vector with `value` in all lanes."""
        rounded = float(np.float32(value))  # llvmlite writes all digits, and LLVM accepts those of a float32 only
        return Vector(self, ir.Constant(self.vector_type, [rounded] * self.num_lanes))

    def int_constant(self, value: int) -> IntVector:
        """Return an integer vector with `value` in all lanes."""
        return IntVector(self, ir.Constant(self.int_vector_type, [value] * self.num_lanes))

    def select(self, mask: Any, chosen: AnyVector, otherwise: AnyVector) -> AnyVector:
        """Return `chosen` where `mask` is true, else `otherwise`."""
        return type(chosen)(self, self.llvm.select(mask, chosen.value, otherwise.value))

    def allocate(self, length: int) -> Integer:
        """Return the address of `length` float32 numbers of the thread's workspace, valid during one call."""
        assert self._workspace is not None, "two builders would give away the same memory"
        address, floats = Integer(self, self._workspace) + 4 * self.workspace_size, CACHE_LINE_BYTES // 4
        self.workspace_size += -(-length // floats) * floats
        return address

    def intrinsic(self, name: str, *operands: Vector) -> Vector:
        """Return the result of LLVM's function `name`, such as llvm.rint."""
        kind = ir.FunctionType(self.vector_type, [self.vector_type] * len(operands))
        function = declare(self.llvm.module, f"{name}.v{self.num_lanes}f32", kind)
        return Vector(self, self.llvm.call(function, [operand.value for operand in operands]))

    @contextmanager
    def loop(self, start: Integer | int, end: Integer | int, step: Integer | int = 1) -> Iterator[Integer]:
        """Repeat the instructions written inside `with` for a counter in range(start, end, step)."""
        with self._repeat(start, end, step, []) as (counter, *_):
            yield counter

    def fold(
        self,
        start: Integer | int,
        end: Integer | int,
        initial: Sequence[AnyVector],
        body: Callable[[Integer, list[AnyVector]], list[AnyVector]],
        step: int = 1,
    ) -> list[AnyVector]:
        """Loop with vectors carried from one iteration to the next, in registers.

        Args:
            start: First value of the counter.
            end: The counter stays below it.
            initial: What the first iteration gets.
            body: Counter and carried vectors -> the vectors that the next iteration gets.
            step: Of the counter.

        Returns:
            What the last iteration returned; `initial` if there was none.
        """
        with self._repeat(start, end, step, initial) as (counter, carried, results):
            results.extend(body(counter, carried))
        return carried

    @contextmanager
    def _repeat(
        self, start: Integer | int, end: Integer | int, step: Integer | int, initial: Sequence[AnyVector]
    ) -> Iterator[tuple[Integer, list[AnyVector], list[AnyVector]]]:
        """Yield counter, carried vectors, and a list to be filled with what the next iteration gets."""
        llvm, before = self.llvm, self.llvm.block
        head, body, after = (llvm.append_basic_block(name) for name in ("head", "body", "after"))
        llvm.branch(head)
        llvm.position_at_end(head)
        counter = llvm.phi(ir.IntType(64))
        counter.add_incoming(self.integer(start).value, before)
        carried = [type(vector)(self, llvm.phi(vector.value.type)) for vector in initial]
        llvm.cbranch(llvm.icmp_signed("<", counter, self.integer(end).value), body, after)
        llvm.position_at_end(body)
        results: list[AnyVector] = []
        yield Integer(self, counter), carried, results
        for vector, first, following in zip(carried, initial, results, strict=True):
            vector.value.add_incoming(first.value, before)
            vector.value.add_incoming(following.value, llvm.block)
        counter.add_incoming(llvm.add(counter, self.integer(step).value), llvm.block)
        llvm.branch(head)
        llvm.position_at_end(after)


def lanes_for(channels: int) -> int:
    """Return how many channels one vector holds; 0 if their number is not a multiple of 8."""
    return next((lanes for lanes in (16, 8) if channels % lanes == 0), 0)


def declare(module: Any, name: str, kind: Any) -> Any:
    """Return the function `name` of LLVM or of this process, declared in `module`."""
    return module.globals.get(name) or ir.Function(module, kind, name)

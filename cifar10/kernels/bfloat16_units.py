"""What multiplies tiles of bfloat16: Intel's matrix registers, or AVX-512's vectors for those.

A tile has 16 rows of 64 bytes, see `amx`. Both units have the same four sums, of 16 x 16 float32, in rows of two.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cifar10.kernels import amx, jit
from cifar10.kernels.arrays import IntArray, float_array, int_array
from cifar10.kernels.codegen import Integer, IntVector, KernelBuilder, Vector

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

_NUM_SUMS, _LANES = 4, 16
_LEFT, _RIGHT = 4, 6  # first tile registers of the factors; those before hold the sums
_SUM_BYTES = amx.ROWS * amx.ROW_BYTES
_MAX_ACCUMULATORS = 16  # of 32 vector registers


@dataclass(frozen=True)
class Factor:
    """Up to two tiles of bfloat16, one below the other of a left factor, one beside the other of a right one."""

    addresses: Sequence[Integer]
    stride: int
    """Bytes from one row of a tile to the next."""
    rows: Sequence[Sequence[int]] = (range(amx.ROWS),) * 2
    """Of each tile, those that matter: others have only zeros in a right factor, or nobody reads their sums."""


class MatrixUnit(amx.Tiles):
    """AMX: the sums are the first four of the eight registers."""

    def add(self, left: Factor, right: Factor) -> None:
        """Add left right to the sums."""
        for number, address in enumerate(right.addresses):
            self.load(_RIGHT + number, address, right.stride)
        for row, address in enumerate(left.addresses):
            self.load(_LEFT + row, address, left.stride)
            for column in range(len(right.addresses)):
                self.add_product("tdpbf16ps", 2 * row + column, _LEFT + row, _RIGHT + column)


class VectorUnit:
    """AVX-512's instruction for pairs of bfloat16: the sums are in the thread's workspace."""

    def __init__(self, builder: KernelBuilder) -> None:
        self.builder = builder
        self._sums = builder.allocate(_NUM_SUMS * _SUM_BYTES // 4)

    def configure(self, address: Integer) -> None:
        """Do nothing: there are no registers to be shaped."""

    def release(self) -> None:
        """Do nothing."""

    def zero(self, number: int) -> None:
        """Begin a sum at zero."""
        self._call("zero", _write_zeros, self._sum(number))

    def load(self, number: int, address: Integer, stride: int) -> None:
        """Begin a sum with what is in memory: 16 rows, `stride` bytes apart."""
        self._call("copy", _copy_rows, address, stride, self._sum(number), amx.ROW_BYTES)

    def store(self, number: int, address: Integer, stride: int) -> None:
        """Write a sum: 16 rows, `stride` bytes apart."""
        self._call("copy", _copy_rows, self._sum(number), amx.ROW_BYTES, address, stride)

    def add(self, left: Factor, right: Factor) -> None:
        """Add left right to the sums."""
        pairs = right.rows[0]
        assert all(rows == pairs for rows in right.rows)
        for number, (address, rows) in enumerate(zip(left.addresses, left.rows, strict=False)):
            numbers: list[Integer | int] = [self._sum(2 * number), address, left.stride, right.stride, *right.addresses]
            name = "_".join(map(str, ["add", len(right.addresses), *rows, "pairs", *pairs]))
            self._call(name, functools.partial(_add_rows, rows, pairs), *numbers)

    def _sum(self, number: int) -> Integer:
        return self._sums + number * _SUM_BYTES

    def _call(self, name: str, write: Callable[..., None], *numbers: Integer | int) -> None:
        """Call the function whose code `write` writes; a kernel does so at hundreds of places."""
        module = self.builder.llvm.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(numbers)), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            llvm = ir.IRBuilder(function.append_basic_block())
            builder = KernelBuilder(llvm, _LANES, ir.IntType(64)(0), workspace=None)
            write(builder, *(Integer(builder, argument) for argument in function.args))
            llvm.ret_void()
        self.builder.llvm.call(function, [self.builder.integer(number).value for number in numbers])


Unit = MatrixUnit | VectorUnit


def is_available() -> bool:
    """Whether this CPU has one of the units."""
    has_vectors = jit.is_available() and jit.has_avx512() and jit.has_capability("avx512_bf16")
    return amx.is_available("amx_bf16") or has_vectors


def unit_for(builder: KernelBuilder) -> Unit:
    """Return the faster of the units that this CPU has."""
    return MatrixUnit(builder) if amx.is_available("amx_bf16") else VectorUnit(builder)


def _write_zeros(builder: KernelBuilder, target: Integer) -> None:
    sums = float_array(builder, target)
    with builder.loop(0, amx.ROWS) as row:
        sums.store(builder.constant(0.0), row * _LANES)


def _copy_rows(
    builder: KernelBuilder, source: Integer, source_stride: Integer, target: Integer, target_stride: Integer
) -> None:
    with builder.loop(0, amx.ROWS) as row:
        values = float_array(builder, source + row * source_stride).load(0)
        float_array(builder, target + row * target_stride).store(values, 0)


def _add_rows(
    rows: Sequence[int],
    pairs: Sequence[int],
    builder: KernelBuilder,
    sums: Integer,
    left: Integer,
    left_stride: Integer,
    right_stride: Integer,
    *rights: Integer,
) -> None:
    """Add the product of a left tile and one or two right ones to one or two sums, some rows at a time."""
    at_once = _MAX_ACCUMULATORS // len(rights)
    for some in (rows[first : first + at_once] for first in range(0, len(rows), at_once)):
        lines = [int_array(builder, left + left_stride * row) for row in some]

        def add_pair(lines: Sequence[IntArray], pair: Integer, totals: list[Vector]) -> list[Vector]:
            factors = [int_array(builder, address + pair * right_stride).load(0) for address in rights]
            both = [(repeated, factor) for repeated in [line.broadcast(pair) for line in lines] for factor in factors]
            return [add_pairs(builder, total, *each) for total, each in zip(totals, both, strict=True)]

        places = [(number * amx.ROWS + row) * _LANES for row in some for number in range(len(rights))]
        totals = [float_array(builder, sums).load(place) for place in places]
        for run in _runs(pairs):
            totals = builder.fold(run.start, run.stop, totals, functools.partial(add_pair, lines))
        for place, total in zip(places, totals, strict=True):
            float_array(builder, sums).store(total, place)


def _runs(numbers: Sequence[int]) -> list[range]:
    """Return rising numbers as ranges."""
    runs: list[range] = []
    for number in numbers:
        is_next = bool(runs) and number == runs[-1].stop
        runs[-1:] = [range(runs[-1].start, number + 1)] if is_next else [*runs[-1:], range(number, number + 1)]
    return runs


def add_pairs(builder: KernelBuilder, total: Vector, left: IntVector, right: IntVector) -> Vector:
    """Return total + the products of the pairs in each lane."""
    kind = ir.FunctionType(builder.vector_type, [builder.int_vector_type] * 2 + [builder.vector_type])
    instruction = ir.InlineAsm(kind, "vdpbf16ps $2, $1, $0", "=v,v,v,0")
    return Vector(builder, builder.llvm.call(instruction, [left.value, right.value, total.value]))

"""Intel's AMX in bfloat16: eight registers that hold tiles of a matrix, and an instruction that multiplies two of them.

A tile has 16 rows of 64 bytes: 16 x 32 bfloat16 of the left factor, 32 x 16 of the right one, stored as 16 rows of 16
pairs, or 16 x 16 float32 of their product. Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 1,
chapter 18. With it come AVX-512 and its conversion to bfloat16.
"""

import ctypes
import functools
import sys
from typing import Any

import torch
from torch import Tensor

from cifar10.kernels import jit
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector, declare

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

ROWS = 16
"""Of a tile."""
DEPTH = 32
"""bfloat16 numbers in a row of the left factor: channels that one instruction sums over."""
TILE_BYTES = 64 * ROWS

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux on x86-64: asm/prctl.h, asm/fpu/types.h
_LOG2_E = 1.4426950408889634
_EXP2 = (0.0096181, 0.0555041, 0.2402265, 0.6931472, 1.0)  # Taylor series; off by 4e-5 for |x| <= 1/2
_HIGHEST_LANES = 16


@functools.cache
def is_available() -> bool:
    """Whether this process may use AMX in bfloat16; Linux is asked for permission."""
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not (sys.platform == "linux" and features.get("amx_bf16") and jit.is_available()):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def configuration() -> Tensor:
    """Return what `Tiles.configure` loads: all eight tiles have 16 rows of 64 bytes."""
    values = torch.zeros(64, dtype=torch.uint8)
    values[0] = 1  # the palette
    values[16:32:2] = 64  # bytes in a row, as 16-bit numbers
    values[48:56] = ROWS
    return values


class Tiles:
    """Writes instructions on the tile registers 0 to 7."""

    def __init__(self, builder: KernelBuilder) -> None:
        self.builder = builder

    def configure(self, address: Integer) -> None:
        """Give the registers their shapes. Each thread must do so once, and `release` them in the end."""
        self._emit("ldtilecfg", self._pointer(address))

    def release(self) -> None:
        self._emit("tilerelease")

    def zero(self, tile: int) -> None:
        self._emit("tilezero", _byte(tile))

    def load(self, tile: int, address: Integer, stride: int) -> None:
        """Read 16 rows of 64 bytes, `stride` bytes apart."""
        self._emit("tileloadd64", _byte(tile), self._pointer(address), ir.IntType(64)(stride))

    def store(self, tile: int, address: Integer, stride: int) -> None:
        """Write 16 rows of 64 bytes, `stride` bytes apart."""
        self._emit("tilestored64", _byte(tile), self._pointer(address), ir.IntType(64)(stride))

    def add_product(self, total: int, left: int, right: int) -> None:
        """Add left right to total, in float32."""
        self._emit("tdpbf16ps", _byte(total), _byte(left), _byte(right))

    def _pointer(self, address: Integer) -> Any:
        return self.builder.llvm.inttoptr(address.value, ir.IntType(8).as_pointer())

    def _emit(self, name: str, *operands: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        self.builder.llvm.call(declare(self.builder.llvm.module, f"llvm.x86.{name}", kind), operands)


def _byte(tile: int) -> Any:
    return ir.IntType(8)(tile)


def silu(builder: KernelBuilder, x: Vector) -> Vector:
    """Return x / (1 + exp(-x)), to within 1e-4 of its size, which is a fortieth of bfloat16's rounding."""
    assert builder.num_lanes == _HIGHEST_LANES
    exponent = x * -_LOG2_E
    whole = builder.intrinsic("llvm.rint", exponent)
    part = exponent - whole
    power = builder.constant(_EXP2[0])
    for coefficient in _EXP2[1:]:
        power = power * part + builder.constant(coefficient)
    mask, rounding = ir.IntType(16)(-1), ir.IntType(32)(4)  # all lanes; the current rounding mode
    power = _avx512(builder, "mask.scalef", power.value, whole.value, power.value, mask, rounding)
    total = power + 1.0
    return x * _avx512(builder, "rcp14", total.value, total.value, mask)


def store_bfloat16(builder: KernelBuilder, vector: Vector, address: Integer) -> None:
    """Round a vector of 16 float32 to bfloat16, and write it."""
    llvm, halves = builder.llvm, ir.VectorType(ir.IntType(16), _HIGHEST_LANES)
    convert = ir.InlineAsm(ir.FunctionType(halves, [builder.vector_type]), "vcvtneps2bf16 $1, $0", "=v,v")
    pointer = llvm.inttoptr(address.value, halves.as_pointer())
    llvm.store(llvm.call(convert, [vector.value]), pointer).align = 2


def load_bfloat16(builder: KernelBuilder, address: Integer) -> Vector:
    """Read 16 bfloat16 as float32."""
    llvm, halves = builder.llvm, ir.VectorType(ir.IntType(16), _HIGHEST_LANES)
    loaded = llvm.load(llvm.inttoptr(address.value, halves.as_pointer()))
    loaded.align = 2
    widened = llvm.shl(llvm.zext(loaded, builder.int_vector_type), builder.int_constant(16).value)
    return Vector(builder, llvm.bitcast(widened, builder.vector_type))


def _avx512(builder: KernelBuilder, name: str, *operands: Any) -> Vector:
    kind = ir.FunctionType(builder.vector_type, [operand.type for operand in operands])
    function = declare(builder.llvm.module, f"llvm.x86.avx512.{name}.ps.512", kind)
    return Vector(builder, builder.llvm.call(function, operands))

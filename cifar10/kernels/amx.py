"""Intel's AMX: eight registers that hold tiles of a matrix, and instructions that multiply two of them.

A tile has 16 rows of 64 bytes. In bfloat16: 16 x 32 numbers of the left factor, 32 x 16 of the right one, stored as 16
rows of 16 pairs, and 16 x 16 float32 of their product. In integers: 16 x 64 uint8, 64 x 16 int8, stored as 16 rows of
16 groups of four, and 16 x 16 int32. Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 1,
chapter 18. With it come AVX-512 and its conversion to bfloat16.
"""

import ctypes
import functools
import sys
from typing import Any

import torch
from torch import Tensor

from cifar10.kernels import jit
from cifar10.kernels.codegen import Integer, KernelBuilder, declare

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

ROWS = 16
"""Of a tile."""
ROW_BYTES = 64

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux on x86-64: asm/prctl.h, asm/fpu/types.h


@functools.cache
def is_available(capability: str) -> bool:
    """Return whether this process may use AMX. On Linux, this requests the permission for its registers.

    Args:
        capability: amx_bf16 or amx_int8.
    """
    if not (sys.platform == "linux" and jit.has_capability(capability) and jit.is_available()):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


def configuration() -> Tensor:
    """Return what `Tiles.configure` loads: all eight tiles have 16 rows of 64 bytes."""
    values = torch.zeros(64, dtype=torch.uint8)
    values[0] = 1  # the palette
    values[16:32:2] = ROW_BYTES  # as 16-bit numbers
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

    def add_product(self, instruction: str, total: int, left: int, right: int) -> None:
        """Add left right to total.

        Args:
            instruction: tdpbf16ps for bfloat16, summed in float32; tdpbusd for uint8 and int8, summed in int32.
            total: Tile of the sums.
            left: Tile of the left factor.
            right: Tile of the right factor.
        """
        self._emit(instruction, _byte(total), _byte(left), _byte(right))

    def _pointer(self, address: Integer) -> Any:
        return self.builder.llvm.inttoptr(address.value, ir.IntType(8).as_pointer())

    def _emit(self, name: str, *operands: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        self.builder.llvm.call(declare(self.builder.llvm.module, f"llvm.x86.{name}", kind), operands)


def _byte(tile: int) -> Any:
    return ir.IntType(8)(tile)

"""Formats of numbers that fused layers compute in: bfloat16, or 8-bit integers with ranges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cifar10.kernels import amx, halves, jit
from cifar10.kernels.arrays import byte_array
from cifar10.kernels.codegen import Integer, IntVector, KernelBuilder, Vector, declare

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

_LANES = 16
_LOG2_E = 1.4426950408889634
_EXP2 = (0.0096181, 0.0555041, 0.2402265, 0.6931472, 1.0)  # Taylor series; off by 4e-5 for |x| <= 1/2
_CURRENT_ROUNDING = 4  # operand of AVX-512 instructions: to the nearest, ties to even


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are stored and multiplied."""

    precision: str
    """bf16 or int8."""
    unit: str
    """What computes: AMX or VNNI."""
    instruction: str
    """Multiplies and adds."""
    map_type: torch.dtype
    """Of inputs and outputs of a layer."""
    filter_type: torch.dtype
    depth: int
    """Maps have a multiple of so many channels; on tiles, so many are summed over together."""
    load: Callable[[KernelBuilder, Integer], Vector]
    """Reads 16 numbers at an address, in bytes, as float32."""
    store: Callable[[KernelBuilder, Vector, Integer], None]
    """Rounds 16 float32, and writes them to an address, in bytes."""

    @property
    def is_integer(self) -> bool:
        return self.precision == "int8"

    @property
    def has_tiles(self) -> bool:
        return self.unit == "AMX"

    @property
    def bytes(self) -> int:
        """Of a number."""
        return self.map_type.itemsize

    @property
    def group(self) -> int:
        """Neighbouring channels in 32 bits, which one lane of an instruction sums over."""
        return 4 // self.bytes

    def missing(self) -> str | None:
        """Return what this machine lacks for it; None if nothing."""
        if not jit.is_available():
            return "our kernels need the package llvmlite, and a PyTorch that computes with GNU's OpenMP, as on Linux"
        if self.has_tiles:
            is_there = amx.is_available(f"amx_{self.precision}")
            return None if is_there else "this CPU has no matrix units (AMX)"
        is_there = jit.has_avx512() and jit.has_capability("avx512_vnni")
        return None if is_there else "this CPU has no integer vectors (AVX-512 VNNI)"


def silu(builder: KernelBuilder, x: Vector) -> Vector:
    """Return x / (1 + exp(-x)), to within 1e-4 of its size, which is a fortieth of bfloat16's rounding."""
    assert builder.num_lanes == _LANES
    exponent = x * -_LOG2_E
    whole = builder.intrinsic("llvm.rint", exponent)
    part = exponent - whole
    power = builder.constant(_EXP2[0])
    for coefficient in _EXP2[1:]:
        power = power * part + builder.constant(coefficient)
    mask, rounding = ir.IntType(16)(-1), ir.IntType(32)(_CURRENT_ROUNDING)
    kind = builder.vector_type
    power = Vector(
        builder, _avx512(builder, "mask.scalef.ps", kind, power.value, whole.value, power.value, mask, rounding)
    )
    total = power + 1.0
    return x * Vector(builder, _avx512(builder, "rcp14.ps", kind, total.value, total.value, mask))


def _load_uint8(builder: KernelBuilder, address: Integer) -> Vector:
    return byte_array(builder, address).load(0).to_float()


def _store_uint8(builder: KernelBuilder, vector: Vector, address: Integer) -> None:
    """Round to the nearest of 0 .. 255, ties to even; NaN becomes 0."""
    kind, mask, rounding = builder.int_vector_type, ir.IntType(16)(-1), ir.IntType(32)(_CURRENT_ROUNDING)
    lowest, highest = builder.int_constant(0), builder.int_constant(255)
    rounded = IntVector(builder, _avx512(builder, "mask.cvtps2dq", kind, vector.value, lowest.value, mask, rounding))
    rounded = builder.select(rounded.greater(lowest), rounded, lowest)
    byte_array(builder, address).store(builder.select(highest.greater(rounded), rounded, highest), 0)


def _avx512(builder: KernelBuilder, name: str, result: Any, *operands: Any) -> Any:
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.llvm.call(declare(builder.llvm.module, f"llvm.x86.avx512.{name}.512", kind), operands)


BF16_AMX = Arithmetic(
    "bf16", "AMX", "tdpbf16ps", torch.bfloat16, torch.bfloat16, 32, load=halves.load, store=halves.store
)
INT8_AMX = Arithmetic("int8", "AMX", "tdpbusd", torch.uint8, torch.int8, 64, load=_load_uint8, store=_store_uint8)
INT8_VNNI = Arithmetic("int8", "VNNI", "vpdpbusd", torch.uint8, torch.int8, 8, load=_load_uint8, store=_store_uint8)

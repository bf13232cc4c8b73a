"""Values in generated code: integers, SIMD vectors, and arrays of them in memory.

Operators on these objects do not compute: each adds an instruction to the kernel that a `KernelBuilder` writes.
"""

from typing import TYPE_CHECKING, Any, TypeVar

try:
    from llvmlite import ir
except ImportError:  # then `codegen.is_available` is false, and no code is generated
    ir = None

if TYPE_CHECKING:
    from cifar10.kernels.codegen import KernelBuilder

CACHE_LINE_BYTES = 64
_FLOAT_ALIGNMENT = 4  # bytes; PyTorch aligns tensors, but not the rows in them
_CONTRACT = ("contract",)  # a multiplication and an addition may become one instruction, which rounds once


class Integer:
    """A 64-bit integer known when the kernel runs: a loop counter, an argument, an offset."""

    def __init__(self, builder: "KernelBuilder", value: Any) -> None:
        self.builder = builder
        self.value = value

    def __add__(self, other: "Integer | int") -> "Integer":
        return Integer(self.builder, self.builder.llvm.add(self.value, self.builder.integer(other).value))

    def __sub__(self, other: "Integer | int") -> "Integer":
        return Integer(self.builder, self.builder.llvm.sub(self.value, self.builder.integer(other).value))

    def __mul__(self, other: "Integer | int") -> "Integer":
        return Integer(self.builder, self.builder.llvm.mul(self.value, self.builder.integer(other).value))


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

    def _apply(self, instruction: str, other: "Vector | float") -> "Vector":
        other = other if isinstance(other, Vector) else self.builder.constant(other)
        emit = getattr(self.builder.llvm, instruction)
        return Vector(self.builder, emit(self.value, other.value, flags=_CONTRACT))


class IntVector:
    """A SIMD vector of int32."""

    def __init__(self, builder: "KernelBuilder", value: Any) -> None:
        self.builder = builder
        self.value = value

    def equals(self, number: int) -> Any:
        """Return a mask for `KernelBuilder.select`: where elements are `number`."""
        return self.builder.llvm.icmp_signed("==", self.value, self.builder.int_constant(number).value)


AnyVector = TypeVar("AnyVector", Vector, IntVector)


class FloatArray:
    """float32 numbers in memory; offsets count numbers."""

    def __init__(self, builder: "KernelBuilder", pointer: Any) -> None:
        self.builder = builder
        self._pointer = pointer

    def load(self, offset: Integer | int) -> Vector:
        """Return the vector that begins at `offset`."""
        value = self.builder.llvm.load(self._address(offset))
        value.align = _FLOAT_ALIGNMENT
        return Vector(self.builder, value)

    def broadcast(self, offset: Integer | int) -> Vector:
        """Return a vector with the number at `offset` in all lanes."""
        llvm, builder = self.builder.llvm, self.builder
        number = llvm.load(llvm.gep(self._pointer, [builder.integer(offset).value]))
        first = llvm.insert_element(ir.Constant(builder.vector_type, ir.Undefined), number, ir.IntType(32)(0))
        undefined = ir.Constant(builder.vector_type, ir.Undefined)
        return Vector(builder, llvm.shuffle_vector(first, undefined, ir.Constant(builder.int_vector_type, None)))

    def prefetch(self, offset: Integer) -> None:
        """Bring what is at `offset` into the cache; the offset may be outside the array."""
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        llvm = self.builder.llvm
        function = declare(llvm.module, "llvm.prefetch.p0i8", kind)
        llvm.call(function, [llvm.bitcast(self._address(offset), byte), number(0), number(3), number(1)])

    def store(self, vector: Vector, offset: Integer | int) -> None:
        """Write a vector to `offset` and after."""
        self.builder.llvm.store(vector.value, self._address(offset)).align = _FLOAT_ALIGNMENT

    def store_nontemporal(self, vector: Vector, offset: Integer | int) -> None:
        """Write a vector of one cache line past the caches, without reading the line first, as `store` does.

        The address must be a multiple of the line's 64 bytes.
        """
        assert 4 * vector.builder.num_lanes == CACHE_LINE_BYTES
        llvm = self.builder.llvm
        instruction = llvm.store(vector.value, self._address(offset))
        instruction.align = CACHE_LINE_BYTES
        instruction.set_metadata("nontemporal", llvm.module.add_metadata([ir.IntType(32)(1)]))

    def _address(self, offset: Integer | int) -> Any:
        llvm = self.builder.llvm
        address = llvm.gep(self._pointer, [self.builder.integer(offset).value])
        return llvm.bitcast(address, self.builder.vector_type.as_pointer())


class ByteArray:
    """uint8 numbers in memory; vectors of them are widened to int32."""

    def __init__(self, builder: "KernelBuilder", pointer: Any) -> None:
        self.builder = builder
        self._pointer = pointer

    def load(self, offset: Integer) -> IntVector:
        """Return the vector that begins at `offset`."""
        value = self.builder.llvm.load(self._address(offset))
        value.align = 1
        return IntVector(self.builder, self.builder.llvm.zext(value, self.builder.int_vector_type))

    def store(self, vector: IntVector, offset: Integer) -> None:
        """Write the low byte of each element."""
        low = self.builder.llvm.trunc(vector.value, self._byte_vector_type)
        self.builder.llvm.store(low, self._address(offset)).align = 1

    @property
    def _byte_vector_type(self) -> Any:
        return ir.VectorType(ir.IntType(8), self.builder.num_lanes)

    def _address(self, offset: Integer) -> Any:
        address = self.builder.llvm.gep(self._pointer, [offset.value])
        return self.builder.llvm.bitcast(address, self._byte_vector_type.as_pointer())


def float_array(builder: "KernelBuilder", address: Integer) -> FloatArray:
    """Return the float32 array at `address`, to be accessed with vectors of the builder's number of lanes."""
    return FloatArray(builder, builder.llvm.inttoptr(address.value, ir.FloatType().as_pointer()))


def byte_array(builder: "KernelBuilder", address: Integer) -> ByteArray:
    """Return the uint8 array at `address`."""
    return ByteArray(builder, builder.llvm.inttoptr(address.value, ir.IntType(8).as_pointer()))


def stack_array(builder: "KernelBuilder", num_vectors: int) -> FloatArray:
    """Allocate an array of `num_vectors` vectors on each thread's own stack."""
    with builder.llvm.goto_entry_block():
        allocated = builder.llvm.alloca(builder.vector_type, size=num_vectors)
        allocated.align = CACHE_LINE_BYTES
        pointer = builder.llvm.bitcast(allocated, ir.FloatType().as_pointer())
    return FloatArray(builder, pointer)


def declare(module: Any, name: str, kind: Any) -> Any:
    """Return the function `name` of LLVM or of this process, declared in `module`."""
    return module.globals.get(name) or ir.Function(module, kind, name)

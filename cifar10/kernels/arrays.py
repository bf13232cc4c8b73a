"""Arrays in memory, as kernels read and write them: float32 and uint8, a vector at a time."""

from typing import Any

from cifar10.kernels.codegen import CACHE_LINE_BYTES, Integer, IntVector, KernelBuilder, Vector, declare

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

_FLOAT_ALIGNMENT = 4  # bytes; PyTorch aligns tensors, but not the rows in them


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

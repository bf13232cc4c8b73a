"""Arrays in memory, as kernels read and write them: float32, int32 and uint8, a vector at a time."""

from typing import Any, Generic, TypeAlias

from cifar10.kernels.codegen import CACHE_LINE_BYTES, AnyVector, Integer, IntVector, KernelBuilder, Vector, declare

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

_ALIGNMENT = 4  # bytes of float32 and int32; PyTorch aligns tensors, but not the rows in them


class WordArray(Generic[AnyVector]):
    """float32 or int32 numbers in memory; offsets count numbers.

    Args:
        builder: Writes the code.
        pointer: The first number.
        vector: Class of the vectors that are read and written.
        vector_type: Their type in LLVM.
    """

    def __init__(self, builder: "KernelBuilder", pointer: Any, vector: type[AnyVector], vector_type: Any) -> None:
        self.builder = builder
        self._pointer = pointer
        self._vector: type[AnyVector] = vector
        self._vector_type = vector_type

    def load(self, offset: Integer | int) -> AnyVector:
        """Return the vector that begins at `offset`."""
        value = self.builder.llvm.load(self._address(offset))
        value.align = _ALIGNMENT
        loaded: AnyVector = self._vector(self.builder, value)
        return loaded

    def broadcast(self, offset: Integer | int) -> AnyVector:
        """Return a vector with the number at `offset` in all lanes."""
        llvm, builder = self.builder.llvm, self.builder
        number = llvm.load(llvm.gep(self._pointer, [builder.integer(offset).value]))
        undefined = ir.Constant(self._vector_type, ir.Undefined)
        first = llvm.insert_element(undefined, number, ir.IntType(32)(0))
        lanes = llvm.shuffle_vector(first, undefined, ir.Constant(builder.int_vector_type, None))
        repeated: AnyVector = self._vector(builder, lanes)
        return repeated

    def prefetch(self, offset: Integer) -> None:
        """Bring what is at `offset` into the cache; the offset may be outside the array."""
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        llvm = self.builder.llvm
        function = declare(llvm.module, "llvm.prefetch.p0i8", kind)
        llvm.call(function, [llvm.bitcast(self._address(offset), byte), number(0), number(3), number(1)])

    def store(self, vector: AnyVector, offset: Integer | int) -> None:
        """Write a vector to `offset` and after."""
        self.builder.llvm.store(vector.value, self._address(offset)).align = _ALIGNMENT

    def store_nontemporal(self, vector: AnyVector, offset: Integer | int) -> None:
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
        return llvm.bitcast(address, self._vector_type.as_pointer())


FloatArray: TypeAlias = WordArray[Vector]
IntArray: TypeAlias = WordArray[IntVector]


class ByteArray:
    """uint8 numbers in memory; vectors of them are widened to int32."""

    def __init__(self, builder: "KernelBuilder", pointer: Any) -> None:
        self.builder = builder
        self._pointer = pointer

    def load(self, offset: Integer | int) -> IntVector:
        """Return the vector that begins at `offset`."""
        value = self.builder.llvm.load(self._address(offset))
        value.align = 1
        return IntVector(self.builder, self.builder.llvm.zext(value, self.builder.int_vector_type))

    def store(self, vector: IntVector, offset: Integer | int) -> None:
        """Write the low byte of each element."""
        low = self.builder.llvm.trunc(vector.value, self._byte_vector_type)
        self.builder.llvm.store(low, self._address(offset)).align = 1

    @property
    def _byte_vector_type(self) -> Any:
        return ir.VectorType(ir.IntType(8), self.builder.num_lanes)

    def _address(self, offset: Integer | int) -> Any:
        address = self.builder.llvm.gep(self._pointer, [self.builder.integer(offset).value])
        return self.builder.llvm.bitcast(address, self._byte_vector_type.as_pointer())


def float_array(builder: "KernelBuilder", address: Integer) -> FloatArray:
    """Return the float32 array at `address`, to be accessed with vectors of the builder's number of lanes."""
    pointer = builder.llvm.inttoptr(address.value, ir.FloatType().as_pointer())
    return WordArray(builder, pointer, Vector, builder.vector_type)


def int_array(builder: "KernelBuilder", address: Integer) -> IntArray:
    """Return the int32 array at `address`, to be accessed with vectors of the builder's number of lanes."""
    pointer = builder.llvm.inttoptr(address.value, ir.IntType(32).as_pointer())
    return WordArray(builder, pointer, IntVector, builder.int_vector_type)


def byte_array(builder: "KernelBuilder", address: Integer) -> ByteArray:
    """Return the uint8 array at `address`."""
    return ByteArray(builder, builder.llvm.inttoptr(address.value, ir.IntType(8).as_pointer()))


def stack_array(builder: "KernelBuilder", num_vectors: int) -> FloatArray:
    """Allocate an array of `num_vectors` vectors on each thread's own stack."""
    with builder.llvm.goto_entry_block():
        allocated = builder.llvm.alloca(builder.vector_type, size=num_vectors)
        allocated.align = CACHE_LINE_BYTES
        pointer = builder.llvm.bitcast(allocated, ir.FloatType().as_pointer())
    return WordArray(builder, pointer, Vector, builder.vector_type)

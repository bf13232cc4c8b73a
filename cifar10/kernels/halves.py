"""Vectors of bfloat16 and of bits, as kernels read and write them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cifar10.kernels.arrays import FloatArray, float_array
from cifar10.kernels.codegen import Integer, IntVector, KernelBuilder, Vector

try:
    from llvmlite import ir
except ImportError:  # then `jit.is_available` is false, and no code is generated
    ir = None

LANES = 16


class Layout(NamedTuple):
    """How the pixels of an image lie in memory."""

    bytes_of_pixel: int
    """1 or 4, see `load_pixels`."""
    num_pixels: int
    """Of an image."""

    @property
    def image_bytes(self) -> int:
        return self.num_pixels * (self.bytes_of_pixel if self.bytes_of_pixel > 1 else 3)


BYTES = 2
"""Of a bfloat16."""


class HalfArray:
    """bfloat16 numbers in memory, which are computed with in float32; offsets count numbers.

    Args:
        builder: Writes the code.
        address: Of the first number.
    """

    def __init__(self, builder: KernelBuilder, address: Integer) -> None:
        self._builder = builder
        self._address = address

    def load(self, offset: Integer | int) -> Vector:
        """Return the vector that begins at `offset`."""
        return load(self._builder, self._address + self._builder.integer(offset) * BYTES)

    def store(self, vector: Vector, offset: Integer | int) -> None:
        """Round a vector, and write it to `offset` and after."""
        store(self._builder, vector, self._address + self._builder.integer(offset) * BYTES)


def map_array(builder: KernelBuilder, address: Integer, in_bfloat16: bool) -> FloatArray | HalfArray:
    """Return the numbers of feature maps at an address, bfloat16 or float32."""
    return HalfArray(builder, address) if in_bfloat16 else float_array(builder, address)


def vector_type(builder: KernelBuilder) -> Any:
    """Return the type of a vector of bfloat16, one a lane."""
    return ir.VectorType(ir.IntType(16), builder.num_lanes)


def load(builder: KernelBuilder, address: Integer) -> Vector:
    """Return bfloat16 at an address, one a lane, as float32."""
    llvm = builder.llvm
    widened = llvm.zext(load_raw(builder, address, builder.num_lanes), builder.int_vector_type)
    widened = llvm.shl(widened, builder.int_constant(16).value)
    return Vector(builder, llvm.bitcast(widened, builder.vector_type))


def store(builder: KernelBuilder, vector: Vector, address: Integer) -> None:
    """Round float32 to bfloat16, and write them to an address."""
    store_raw(builder, rounded(builder, vector), address)


def rounded(builder: KernelBuilder, vector: Vector) -> Any:
    """Return float32 as bfloat16, <lanes x i16>, rounded to the nearest."""
    convert = ir.InlineAsm(ir.FunctionType(vector_type(builder), [builder.vector_type]), "vcvtneps2bf16 $1, $0", "=v,v")
    return builder.llvm.call(convert, [vector.value])


def store_raw(builder: KernelBuilder, value: Any, address: Integer) -> None:
    """Write a vector of any type to an address."""
    pointer = builder.llvm.inttoptr(address.value, value.type.as_pointer())
    builder.llvm.store(value, pointer).align = BYTES


def load_raw(builder: KernelBuilder, address: Integer, num_halves: int = LANES) -> Any:
    """Return bfloat16 at an address as they are, <num_halves x i16>."""
    kind = ir.VectorType(ir.IntType(16), num_halves)
    loaded = builder.llvm.load(builder.llvm.inttoptr(address.value, kind.as_pointer()))
    loaded.align = BYTES
    return loaded


def load_raw_bytes(builder: KernelBuilder, address: Integer, num_bytes: int) -> Any:
    """Return bytes at an address, <num_bytes x i8>."""
    kind = ir.VectorType(ir.IntType(8), num_bytes)
    loaded = builder.llvm.load(builder.llvm.inttoptr(address.value, kind.as_pointer()))
    loaded.align = 1
    return loaded


def where_equal(builder: KernelBuilder, numbers: Any, number: int, values: Any) -> Any:
    """Return elements of `values` where those of `numbers`, integers, are `number`, and zeros elsewhere."""
    mask = builder.llvm.icmp_signed("==", numbers, ir.Constant(numbers.type, [number] * numbers.type.count))
    return builder.llvm.select(mask, values, ir.Constant(values.type, None))


def shuffled(builder: KernelBuilder, first: Any, second: Any, places: Sequence[int]) -> Any:
    """Return the elements at `places` of two vectors of the same type, those of the second counted on."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))
    return builder.llvm.shuffle_vector(first, second, mask)


def pairs(builder: KernelBuilder, first: Any, second: Any) -> IntVector:
    """Return element i of `first` and of `second`, <lanes x i16>, side by side in 32 bits, as products want them."""
    llvm, kind = builder.llvm, builder.int_vector_type
    high = llvm.shl(llvm.zext(second, kind), builder.int_constant(16).value)
    return IntVector(builder, llvm.or_(llvm.zext(first, kind), high))


def transposed(builder: KernelBuilder, rows: Sequence[Any]) -> list[Any]:
    """Return the columns of a 16 x 16 matrix given as its rows, vectors of 32-bit numbers."""
    vectors = list(rows)
    distance = 1
    while distance < LANES:
        swapped = list(vectors)
        low = [lane if not lane & distance else lane - distance + LANES for lane in range(LANES)]
        high = [lane + distance if not lane & distance else lane + LANES for lane in range(LANES)]
        for place in range(LANES):
            if not place & distance:
                first, second = vectors[place], vectors[place + distance]
                swapped[place] = shuffled(builder, first, second, low)
                swapped[place + distance] = shuffled(builder, first, second, high)
        vectors = swapped
        distance *= 2
    return vectors


def load_pixels(builder: KernelBuilder, pixels: Integer, place: Integer, channel: int, layout: Layout) -> Vector:
    """Return a channel of 16 neighbouring pixels as float32.

    Args:
        builder: Of the kernel.
        pixels: Address of an image, uint8.
        place: Number of the first pixel.
        channel: Of three.
        layout: Of the image: one channel after the other, or four bytes for each pixel, of which the last is unused.
    """
    llvm, is_packed = builder.llvm, layout.bytes_of_pixel > 1
    kind = ir.VectorType(ir.IntType(8), LANES * layout.bytes_of_pixel)
    address = pixels + place * layout.bytes_of_pixel + (0 if is_packed else channel * layout.num_pixels)
    loaded = llvm.load(llvm.inttoptr(address.value, kind.as_pointer()))
    loaded.align = 1
    if is_packed:
        loaded = shuffled(builder, loaded, loaded, range(channel, LANES * layout.bytes_of_pixel, layout.bytes_of_pixel))
    return IntVector(builder, llvm.zext(loaded, builder.int_vector_type)).to_float()


def store_mask(builder: KernelBuilder, mask: Any, address: Integer) -> None:
    """Write 16 bits, one for each lane of a mask, to an address."""
    bits = builder.llvm.bitcast(mask, ir.IntType(LANES))
    builder.llvm.store(bits, builder.llvm.inttoptr(address.value, ir.IntType(LANES).as_pointer())).align = BYTES


def load_mask(builder: KernelBuilder, address: Integer) -> Any:
    """Return the mask that `store_mask` wrote."""
    bits = builder.llvm.load(builder.llvm.inttoptr(address.value, ir.IntType(LANES).as_pointer()))
    bits.align = BYTES
    return builder.llvm.bitcast(bits, ir.VectorType(ir.IntType(1), LANES))


def fill_zeros(builder: KernelBuilder, address: Integer, num_bytes: int) -> None:
    """Write zeros to an address; `num_bytes` is a multiple of a vector's 64."""
    zero = builder.constant(0.0)
    assert num_bytes % (4 * LANES) == 0
    with builder.loop(0, num_bytes, 4 * LANES) as place:
        store_raw(builder, zero.value, address + place)

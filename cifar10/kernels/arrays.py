"""Numbers in memory, as vector programs read and write them."""

from typing import Any

from cifar10.kernels.program import LINE_BYTES, Integer, Lanes, Program, WholeLanes, declare

try:
    from llvmlite import ir
except ImportError:  # another kind of machine, perhaps: nothing will be written
    ir = None

_ALIGNMENT = 4  # bytes; PyTorch aligns tensors, not the rows in them


class Array:
    """float32 numbers in memory, from an address on."""

    def __init__(self, program: Program, pointer: Any) -> None:
        self.program = program
        self.pointer = pointer

    def load(self, offset: Integer | int) -> Lanes:
        """Return the numbers from `offset` on."""
        value = self.program.builder.load(self._address(offset))
        value.align = _ALIGNMENT
        return Lanes(self.program, value)

    def broadcast(self, offset: Integer | int) -> Lanes:
        """Return lanes that all hold the number at `offset`."""
        builder, program = self.program.builder, self.program
        number = builder.load(builder.gep(self.pointer, [program.integer(offset).value]))
        first = builder.insert_element(ir.Constant(program.lanes_type, ir.Undefined), number, ir.IntType(32)(0))
        nowhere = ir.Constant(program.lanes_type, ir.Undefined)
        return Lanes(program, builder.shuffle_vector(first, nowhere, ir.Constant(program.whole_type, None)))

    def prefetch(self, offset: Integer) -> None:
        """Bring what lies at `offset` into the cache; it need not exist."""
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        builder = self.program.builder
        function = declare(builder.module, "llvm.prefetch.p0i8", kind)
        builder.call(function, [builder.bitcast(self._address(offset), byte), number(0), number(3), number(1)])

    def store(self, lanes: Lanes, offset: Integer | int) -> None:
        """Write numbers to `offset` and the places after it."""
        self.program.builder.store(lanes.value, self._address(offset)).align = _ALIGNMENT

    def stream(self, lanes: Lanes, offset: Integer | int) -> None:
        """Write past the caches, a whole line at a time; the address must be a multiple of its 64 bytes.

        Plain writing reads the line first.
        """
        assert 4 * lanes.program.num_lanes == LINE_BYTES
        builder = self.program.builder
        instruction = builder.store(lanes.value, self._address(offset))
        instruction.align = LINE_BYTES
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))

    def _address(self, offset: Integer | int) -> Any:
        builder = self.program.builder
        address = builder.gep(self.pointer, [self.program.integer(offset).value])
        return builder.bitcast(address, self.program.lanes_type.as_pointer())


class ByteArray:
    """uint8 numbers in memory, from an address on; in registers they are 32 bits wide."""

    def __init__(self, program: Program, pointer: Any) -> None:
        self.program = program
        self.pointer = pointer

    def load(self, offset: Integer) -> WholeLanes:
        """Return as many numbers from `offset` on as there are lanes."""
        value = self.program.builder.load(self._address(offset))
        value.align = 1
        return WholeLanes(self.program, self.program.builder.zext(value, self.program.whole_type))

    def store(self, lanes: WholeLanes, offset: Integer) -> None:
        """Write the low byte of each number."""
        low = self.program.builder.trunc(lanes.value, self._type)
        self.program.builder.store(low, self._address(offset)).align = 1

    @property
    def _type(self) -> Any:
        return ir.VectorType(ir.IntType(8), self.program.num_lanes)

    def _address(self, offset: Integer) -> Any:
        return self.program.builder.bitcast(
            self.program.builder.gep(self.pointer, [offset.value]), self._type.as_pointer()
        )


def array(address: Integer, program: Program) -> Array:
    """Return what lies at an address, to be read and written with the lanes of `program`."""
    return Array(program, program.builder.inttoptr(address.value, ir.FloatType().as_pointer()))


def byte_array(address: Integer, program: Program) -> ByteArray:
    return ByteArray(program, program.builder.inttoptr(address.value, ir.IntType(8).as_pointer()))


def buffer(program: Program, length: int) -> Array:
    """Return room for `length` lanes, on each thread's own stack."""
    with program.builder.goto_entry_block():
        room = program.builder.alloca(program.lanes_type, size=length)
        room.align = LINE_BYTES
        pointer = program.builder.bitcast(room, ir.FloatType().as_pointer())
    return Array(program, pointer)

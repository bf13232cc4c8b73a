"""Code generation: vectorised loops, compiled by LLVM (llvmlite) for the CPU at hand, and run by PyTorch's threads.

Compiling takes some tenths of a second per kernel, once a process. Kernels run on the OpenMP threads of PyTorch: the
threads of a second library would compete with them for the cores.
"""

import ctypes
import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cifar10.kernels.simd import CACHE_LINE_BYTES, AnyVector, Integer, IntVector, Vector, declare

try:
    from llvmlite import binding, ir
except ImportError:  # then `is_available` is false, and PyTorch's operators compute
    binding = ir = None

MIN_IMAGES = 32  # for fewer, PyTorch's operators are as fast, or less can be saved than compiling takes

_OPENMP = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@functools.cache
def is_available() -> bool:
    """Whether this process has a compiler (llvmlite) and GNU's OpenMP, as PyTorch for Linux has."""
    try:
        process = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return False
    return binding is not None and all(hasattr(process, name) for name in _OPENMP)


@functools.cache
def has_avx512() -> bool:
    """Whether there are 32 registers of 16 float32, and not 16 registers of 8 or fewer."""
    return binding is not None and bool(binding.get_host_cpu_features().get("avx512f"))


def lanes_for(channels: int) -> int:
    """Return how many channels one vector holds; 0 if their number is not a multiple of 8."""
    return next((lanes for lanes in (16, 8) if channels % lanes == 0), 0)


class KernelBuilder:
    """Writes the code of a kernel. Each method adds instructions; loops in Python are unrolled.

    Args:
        llvm: llvmlite's IRBuilder, positioned where the next instruction goes.
        num_lanes: Elements of a vector.
        thread: Index of the thread that runs the code.
        workspace: Address of memory for this thread alone; None: `allocate` may not be called.
    """

    def __init__(self, llvm: Any, num_lanes: int, thread: Any, workspace: Any) -> None:
        self.llvm = llvm
        self.num_lanes = num_lanes
        self.thread = Integer(self, thread)
        self.workspace_size = 0
        """float32 numbers that `allocate` has given away, per thread."""
        self._workspace = workspace
        self.vector_type = ir.VectorType(ir.FloatType(), num_lanes)
        self.int_vector_type = ir.VectorType(ir.IntType(32), num_lanes)

    def with_lanes(self, num_lanes: int) -> "KernelBuilder":
        """Return a builder of the same code with another number of lanes, which cannot `allocate`."""
        return KernelBuilder(self.llvm, num_lanes, self.thread.value, workspace=None)

    def integer(self, value: Integer | int) -> Integer:
        return value if isinstance(value, Integer) else Integer(self, ir.IntType(64)(value))

    def minimum(self, one: Integer, other: Integer) -> Integer:
        is_less = self.llvm.icmp_signed("<", one.value, other.value)
        return Integer(self, self.llvm.select(is_less, one.value, other.value))

    def constant(self, value: float) -> Vector:
        """Return a vector with `value` in all lanes."""
        return Vector(self, ir.Constant(self.vector_type, [_round_to_float32(value)] * self.num_lanes))

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

    def sigmoid(self, x: Vector) -> Vector:
        """Return 1 / (1 + exp(-x)), to within some units in the last place."""
        return self.constant(1.0) / (self._exp(self.constant(0.0) - x) + 1.0)

    def _exp(self, x: Vector) -> Vector:
        """Return e^x = 2^k e^r with integer k and |r| <= ln(2) / 2; k goes straight into the exponent bits."""
        x = self._intrinsic("llvm.minnum", x, self.constant(88.0))
        x = self._intrinsic("llvm.maxnum", x, self.constant(-87.0))
        k = self._intrinsic("llvm.rint", x * 1.44269504089)
        r = x - k * 0.693359375 - k * -2.12194440e-4  # ln(2) in two parts, so that the first product is exact
        series = self.constant(1 / 5040)
        for factorial in (720, 120, 24, 6, 2, 1, 1):  # the Taylor series: its error is below float32's here
            series = series * r + 1 / factorial
        power = self.llvm.add(self.llvm.fptosi(k.value, self.int_vector_type), self.int_constant(127).value)
        power = self.llvm.shl(power, self.int_constant(23).value)
        return series * Vector(self, self.llvm.bitcast(power, self.vector_type))

    def _intrinsic(self, name: str, *operands: Vector) -> Vector:
        kind = ir.FunctionType(self.vector_type, [self.vector_type] * len(operands))
        function = declare(self.llvm.module, f"{name}.v{self.num_lanes}f32", kind)
        return Vector(self, self.llvm.call(function, [operand.value for operand in operands]))

    @contextmanager
    def loop(self, start: Integer | int, end: Integer | int, step: int = 1) -> Iterator[Integer]:
        """Repeat the instructions written inside `with` for a counter in range(start, end, step)."""
        with self._repeat(start, end, step, []) as (counter, *_):
            yield counter

    def fold(
        self,
        start: Integer | int,
        end: Integer | int,
        initial: Sequence[Vector],
        body: Callable[[Integer, list[Vector]], list[Vector]],
        step: int = 1,
    ) -> list[Vector]:
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
        self, start: Integer | int, end: Integer | int, step: int, initial: Sequence[Vector]
    ) -> Iterator[tuple[Integer, list[Vector], list[Vector]]]:
        """Yield counter, carried vectors, and a list to be filled with what the next iteration gets."""
        llvm, before = self.llvm, self.llvm.block
        head, body, after = (llvm.append_basic_block(name) for name in ("head", "body", "after"))
        llvm.branch(head)
        llvm.position_at_end(head)
        counter = llvm.phi(ir.IntType(64))
        counter.add_incoming(self.integer(start).value, before)
        carried = [Vector(self, llvm.phi(self.vector_type)) for _ in initial]
        llvm.cbranch(llvm.icmp_signed("<", counter, self.integer(end).value), body, after)
        llvm.position_at_end(body)
        results: list[Vector] = []
        yield Integer(self, counter), carried, results
        for vector, first, following in zip(carried, initial, results, strict=True):
            vector.value.add_incoming(first.value, before)
            vector.value.add_incoming(following.value, llvm.block)
        counter.add_incoming(llvm.add(counter, self.integer(step).value), llvm.block)
        llvm.branch(head)
        llvm.position_at_end(after)


def _round_to_float32(value: float) -> float:
    """llvmlite writes constants with all digits of a float64; LLVM accepts only those that a float32 has."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


Emit = Callable[[KernelBuilder, Integer, Integer, Sequence[Integer]], None]
"""Writes the code of one thread: builder, first item, end of its items, the arguments of the call."""


class Kernel:
    """A compiled function. Call it with the number of items, and tensors or integers as arguments.

    The items are divided evenly among PyTorch's threads.

    Args:
        emit: Writes the code.
        num_arguments: Arguments of a call beside the number of items.
        num_lanes: Elements of a vector.
    """

    def __init__(self, emit: Emit, num_arguments: int, num_lanes: int = 16) -> None:
        self._address, self._workspace_size = _compile(emit, num_arguments, num_lanes)
        self._task = ctypes.c_int64 * (3 + num_arguments)
        self._run = ctypes.CDLL(None).GOMP_parallel
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._run.restype = None

    def __call__(self, num_items: int, *arguments: Tensor | int) -> None:
        num_threads = torch.get_num_threads()
        workspaces = torch.empty(num_threads * self._workspace_size) if self._workspace_size else 0
        numbers = (x.data_ptr() if isinstance(x, Tensor) else x for x in (workspaces, *arguments))
        task = self._task(num_items, 4 * self._workspace_size, *numbers)
        self._run(self._address, ctypes.addressof(task), num_threads, 0)


def _compile(emit: Emit, num_arguments: int, num_lanes: int) -> tuple[int, int]:
    """Return the address of the compiled function, and the float32 numbers of workspace that each thread needs.

    The function takes one pointer, as OpenMP calls it: to the number of items, the bytes of a thread's workspace, the
    address of the first workspace, and the arguments.
    """
    engine, machine = _engine()
    module = ir.Module()
    int64, int32 = ir.IntType(64), ir.IntType(32)
    name = f"kernel{next(_NUMBERS)}"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [int64.as_pointer()]), name)
    llvm = ir.IRBuilder(function.append_basic_block())
    thread, num_threads = (
        llvm.sext(llvm.call(declare(module, called, ir.FunctionType(int32, [])), []), int64) for called in _OPENMP[1:]
    )
    items, stride, workspaces, *arguments = (
        llvm.load(llvm.gep(function.args[0], [int64(position)])) for position in range(3 + num_arguments)
    )
    first = llvm.sdiv(llvm.mul(items, thread), num_threads)
    end = llvm.sdiv(llvm.mul(items, llvm.add(thread, int64(1))), num_threads)
    builder = KernelBuilder(llvm, num_lanes, thread, llvm.add(workspaces, llvm.mul(stride, thread)))
    emit(builder, Integer(builder, first), Integer(builder, end), [Integer(builder, x) for x in arguments])
    llvm.ret_void()
    compiled = binding.parse_assembly(str(module))
    compiled.verify()
    # The code is unrolled and vectorised already: LLVM schedules, folds and allocates registers.
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(compiled, passes)
    engine.add_module(compiled)
    engine.finalize_object()
    return engine.get_function_address(name), builder.workspace_size


_NUMBERS = iter(range(10**9))


@functools.cache
def _engine() -> tuple[Any, Any]:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=3)
    process = ctypes.CDLL(None)
    for name in _OPENMP[1:]:
        binding.add_symbol(name, ctypes.cast(getattr(process, name), ctypes.c_void_p).value)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine), machine

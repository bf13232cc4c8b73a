"""Vector programs, compiled for the very processor they run on, and run by PyTorch's own threads.

LLVM (through llvmlite) turns a `Program` into machine code in some tenths of a second, once a process. PyTorch's OpenMP
threads run it: threads of another library would fight with them for the cores.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cifar10.kernels.program import Integer, Program, declare

try:
    from llvmlite import binding, ir
except ImportError:  # another kind of machine, perhaps: the library's own operators do the work
    binding = ir = None

LEAST_IMAGES = 32  # to work on: with fewer, the library is as fast, or less can be saved than compiling takes

_OPENMP = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")

_allowed = True


def allow(is_allowed: bool) -> None:
    """Let kernels be used from now on, or not."""
    global _allowed  # noqa: PLW0603 - like PyTorch's own number of threads
    _allowed = is_allowed


def are_usable() -> bool:
    """Return whether kernels are allowed here, and can be compiled and run."""
    return _allowed and _can_run()


@functools.cache
def _can_run() -> bool:
    """Return whether there is a compiler, and an OpenMP of GNU's kind in this process, as in PyTorch for Linux."""
    try:
        process = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return False
    return binding is not None and all(hasattr(process, name) for name in _OPENMP)


@functools.cache
def has_wide_registers() -> bool:
    """Return whether there are 32 registers of 16 numbers (AVX-512), and not 16 of 8 or less."""
    return binding is not None and bool(binding.get_host_cpu_features().get("avx512f"))


Emit = Callable[[Program, Integer, Integer, Sequence[Integer]], None]
"""Writes a program for the items from one number up to before another, given what `Kernel` is called with."""


class Kernel:
    """A compiled program; call it with the number of items, and with addresses (tensors) and whole numbers.

    Args:
        emit: Writes the program.
        num_arguments: How many arguments a call has beside the number of items.
        num_lanes: Numbers that an instruction works on.
    """

    def __init__(self, emit: Emit, num_arguments: int, num_lanes: int = 16) -> None:
        self._address, self._room_length = _compile(emit, num_arguments, num_lanes)
        self._task = ctypes.c_int64 * (3 + num_arguments)
        self._run = ctypes.CDLL(None).GOMP_parallel
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._run.restype = None

    def __call__(self, num_items: int, *arguments: Tensor | int) -> None:
        num_threads = torch.get_num_threads()
        rooms = torch.empty(num_threads * self._room_length) if self._room_length else 0
        numbers = (x.data_ptr() if isinstance(x, Tensor) else x for x in (rooms, *arguments))
        task = self._task(num_items, 4 * self._room_length, *numbers)
        self._run(self._address, ctypes.addressof(task), num_threads, 0)


def _compile(emit: Emit, num_arguments: int, num_lanes: int) -> tuple[int, int]:
    """Return the address of a function, and what room it wants for each thread, in float32 numbers.

    The function takes a pointer, as OpenMP wants it, to the number of items, the bytes between two threads' rooms, the
    first room's address, and the arguments.
    """
    engine, machine = _engine()
    module = ir.Module()
    whole, number = ir.IntType(64), ir.IntType(32)
    name = f"kernel{next(_NUMBERS)}"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [whole.as_pointer()]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    thread, num_threads = (
        builder.sext(builder.call(declare(module, asked, ir.FunctionType(number, [])), []), whole)
        for asked in _OPENMP[1:]
    )
    items, pace, rooms, *arguments = (
        builder.load(builder.gep(function.args[0], [whole(position)])) for position in range(3 + num_arguments)
    )
    first = builder.sdiv(builder.mul(items, thread), num_threads)
    end = builder.sdiv(builder.mul(items, builder.add(thread, whole(1))), num_threads)
    program = Program(builder, num_lanes, thread, room=builder.add(rooms, builder.mul(pace, thread)))
    emit(program, Integer(program, first), Integer(program, end), [Integer(program, x) for x in arguments])
    program.builder.ret_void()
    compiled = binding.parse_assembly(str(module))
    compiled.verify()
    # Loops are written as they should be; only scheduling, folding and registers are left to the compiler.
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(compiled, passes)
    engine.add_module(compiled)
    engine.finalize_object()
    return engine.get_function_address(name), program.room_length


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

"""Just-in-time compilation by LLVM (llvmlite) for the CPU at hand; kernels run on PyTorch's own threads.

Compiling takes some tenths of a second per kernel, once a process. The threads are those of PyTorch's OpenMP: the
threads of a second library would compete with them for the cores.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cifar10.kernels.codegen import Integer, KernelBuilder, declare

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


def has_capability(name: str) -> bool:
    """Whether PyTorch says that this CPU has `name`, such as avx512_vnni."""
    return hasattr(torch.cpu, "get_capabilities") and bool(torch.cpu.get_capabilities().get(name))


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
        self.address, self.workspace_size = _compile(emit, num_arguments, num_lanes)

    def __call__(self, num_items: int, *arguments: Tensor | int) -> None:
        PreparedCall(self, torch.get_num_threads(), arguments).run(num_items)


class PreparedCall:
    """A call of `kernel` that may be repeated: each repetition takes some microseconds less than a new call.

    Args:
        kernel: Is called.
        num_threads: Threads that divide the items.
        arguments: Tensors are kept.
        workspaces: Memory for the threads, of which several calls, one after the other, may use the same.
    """

    def __init__(
        self, kernel: Kernel, num_threads: int, arguments: Sequence[Tensor | int], workspaces: Tensor | None = None
    ) -> None:
        if workspaces is None and kernel.workspace_size:
            workspaces = torch.empty(num_threads * kernel.workspace_size)
        self._kept = kernel, workspaces, arguments
        numbers = (x.data_ptr() if isinstance(x, Tensor) else x or 0 for x in (workspaces, *arguments))
        self._task = (ctypes.c_int64 * (3 + len(arguments)))(0, 4 * kernel.workspace_size, *numbers)
        self._call = kernel.address, ctypes.addressof(self._task), num_threads, 0

    def replace(self, position: int, number: int) -> None:
        """Set the argument at `position`, an integer or an address, for the following calls."""
        self._task[3 + position] = number

    def run(self, num_items: int) -> None:
        """Run the kernel on the first `num_items` items."""
        self._task[0] = num_items
        _parallel()(*self._call)


@functools.cache
def _parallel() -> Any:
    """Return GOMP_parallel(function, data, num_threads, flags), which calls a function in several threads."""
    function = ctypes.CDLL(None).GOMP_parallel
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


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
    binding.initialize_native_asmparser()  # for inline assembly
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=3)
    process = ctypes.CDLL(None)
    for name in _OPENMP[1:]:
        binding.add_symbol(name, ctypes.cast(getattr(process, name), ctypes.c_void_p).value)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine), machine

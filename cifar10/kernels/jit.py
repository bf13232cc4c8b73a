"""Just-in-time compilation by LLVM (llvmlite) for the CPU at hand; kernels run on PyTorch's own threads.

Compiling takes some tenths of a second per kernel; a later process loads the object code from a file. The threads are
those of PyTorch's OpenMP: the threads of a second library would compete with them for the cores.
"""

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cifar10.kernels import object_cache
from cifar10.kernels.codegen import Integer, KernelBuilder, declare

try:
    import llvmlite
    from llvmlite import binding, ir
except ImportError:  # then `is_available` is false, and PyTorch's operators compute
    llvmlite = binding = ir = None

MIN_IMAGES = 32  # for fewer, PyTorch's operators are as fast, or less can be saved than compiling takes

_THREAD = "omp_get_thread_num"
_OPENMP = ("GOMP_parallel", _THREAD)


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
"""Writes the code for a share of the items: builder, first item, end of the share, the arguments of the call."""

_SHARES_PER_THREAD = 8
_MAX_SUM_BYTES, _MIN_SHARE_IMAGES = 96 * 2**20, 128


class Kernel:
    """A compiled function. Call it with the number of items, and tensors or integers as arguments.

    The items are divided into shares, which PyTorch's threads take one after the other: a thread whose processor works
    for others as well takes fewer.

    Args:
        emit: Writes the code.
        num_arguments: Arguments of a call beside the number of items.
        num_lanes: Elements of a vector.
        block_items: The most items that it computes together.
    """

    def __init__(self, emit: Emit, num_arguments: int, num_lanes: int = 16, block_items: int = 1) -> None:
        self.block_items = block_items
        self.address, self.workspace_size = _compile(emit, num_arguments, num_lanes)

    def __call__(self, num_items: int, *arguments: Tensor | int, num_shares: int | None = None) -> None:
        PreparedCall(self, torch.get_num_threads(), arguments, num_shares=num_shares).run(num_items)


class PreparedCall:
    """A call of `kernel` that may be repeated: each repetition takes some microseconds less than a new call.

    Args:
        kernel: Is called.
        num_threads: The most threads that divide the items.
        arguments: Tensors are kept.
        workspaces: Memory for the threads, of which several calls, one after the other, may use the same.
        num_shares: Shares of the items, if a kernel needs to know them: it may add to sums of its own in each.
    """

    def __init__(
        self,
        kernel: Kernel,
        num_threads: int,
        arguments: Sequence[Tensor | int],
        workspaces: Tensor | None = None,
        num_shares: int | None = None,
    ) -> None:
        if workspaces is None and kernel.workspace_size:
            workspaces = torch.empty(num_threads * kernel.workspace_size)
        self._kept = kernel, workspaces, arguments
        numbers = (x.data_ptr() if isinstance(x, Tensor) else x or 0 for x in (workspaces, *arguments))
        self._num_shares, self._num_threads = num_shares, num_threads
        self._task = (ctypes.c_int64 * (5 + len(arguments)))(0, 0, 0, 4 * kernel.workspace_size, *numbers)
        self._call = kernel.address, ctypes.addressof(self._task)

    def replace(self, position: int, number: int) -> None:
        """Set the argument at `position`, an integer or an address, for the following calls."""
        self._task[5 + position] = number

    def run(self, num_items: int, num_threads: int | None = None) -> None:
        """Run the kernel on the first `num_items` items, with all threads or with `num_threads` of them."""
        threads = num_threads or self._num_threads
        num_shares = self._num_shares or threads * self._shares_per_thread(num_items, threads)
        self._task[:3] = [0, -(-num_items // num_shares), num_items]
        _parallel()(*self._call, threads, 0)

    def _shares_per_thread(self, num_items: int, num_threads: int) -> int:
        """Return how many shares there are for each thread, in none of which the last block is a small one."""
        kernel: Kernel = self._kept[0]
        blocks = max(1, -(-num_items // (num_threads * kernel.block_items)))
        return -(-blocks // -(-blocks // _SHARES_PER_THREAD))


def shares_of_sums(num_images: int, sum_bytes: int) -> int:
    """Return into how many shares the images of a backward pass are divided, each with sums of its own.

    A multiple of the number of threads. More shares are divided more evenly among threads that are interrupted, but all
    sums have to be cleared and added up.
    """
    threads = torch.get_num_threads()
    most = min(_MAX_SUM_BYTES // (threads * sum_bytes), num_images // (threads * _MIN_SHARE_IMAGES))
    return threads * max(1, min(most, _SHARES_PER_THREAD))


@functools.cache
def _parallel() -> Any:
    """Return GOMP_parallel(function, data, num_threads, flags), which calls a function in several threads."""
    function = ctypes.CDLL(None).GOMP_parallel
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


def _compile(emit: Emit, num_arguments: int, num_lanes: int) -> tuple[int, int]:
    """Return the address of the compiled function, and the float32 numbers of workspace that each thread needs.

    The function takes one pointer, as OpenMP calls it: to the number of the next share, the items of a share, the
    number of items, the bytes of a thread's workspace, the address of the first workspace, and the arguments.
    """
    module = ir.Module()
    int64, int32 = ir.IntType(64), ir.IntType(32)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [int64.as_pointer()]), _NAME)
    llvm = ir.IRBuilder(function.append_basic_block())
    thread = llvm.sext(llvm.call(declare(module, _THREAD, ir.FunctionType(int32, [])), []), int64)
    share_items, items, stride, workspaces, *arguments = (
        llvm.load(llvm.gep(function.args[0], [int64(position)])) for position in range(1, 5 + num_arguments)
    )
    workspace = llvm.add(workspaces, llvm.mul(stride, thread))
    take, compute, leave = (function.append_basic_block(label) for label in ("take", "compute", "leave"))
    llvm.branch(take)
    llvm.position_at_end(take)
    share = llvm.atomic_rmw("add", function.args[0], int64(1), "monotonic")
    first = llvm.mul(share, share_items)
    llvm.cbranch(llvm.icmp_signed("<", first, items), compute, leave)
    llvm.position_at_end(compute)
    builder = KernelBuilder(llvm, num_lanes, share, workspace)
    end = builder.minimum(Integer(builder, llvm.add(first, share_items)), Integer(builder, items))
    emit(builder, Integer(builder, first), end, [Integer(builder, x) for x in arguments])
    llvm.branch(take)
    llvm.position_at_end(leave)
    llvm.ret_void()
    return _load(str(module)), builder.workspace_size


def _load(text: str) -> int:
    """Return the address of the function of a module, whose object code may be in a file since an earlier process."""
    key = object_cache.key_of([text, *_target()])
    with _lock:  # two threads must not add a function of the same name to the engine
        if key not in _loaded:
            engine, machine = _engine()
            name = f"{_NAME}_{key}"
            code = object_cache.load(key)
            if code is None:
                code = _object_code(text.replace(f'@"{_NAME}"', f'@"{name}"'), machine)
                object_cache.store(key, code)
            engine.add_object_file(binding.ObjectFileRef.from_data(code))
            engine.finalize_object()
            _loaded[key] = int(engine.get_function_address(name))
        return _loaded[key]


def _object_code(text: str, machine: Any) -> bytes:
    compiled = binding.parse_assembly(text)
    compiled.verify()
    options = binding.create_pipeline_tuning_options(_SPEED_LEVEL)
    for name in _LEFT_OUT:
        setattr(options, name, False)
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(compiled, passes)
    code: bytes = machine.emit_object(compiled)
    return code


_NAME = "kernel"
_SPEED_LEVEL, _MACHINE_LEVEL = 2, 3
_LEFT_OUT = "loop_unrolling", "loop_vectorization", "slp_vectorization"
"""The code is unrolled and vectorised already: LLVM schedules, folds and allocates registers."""
_lock = threading.Lock()
_loaded: dict[str, int] = {}
"""Addresses of the functions of this process."""


@functools.cache
def _target() -> tuple[str, ...]:
    """Return what object code depends on beside the module: compiler, its options, and the CPU."""
    versions = llvmlite.__version__, ".".join(map(str, binding.llvm_version_info))
    triple, features = binding.get_default_triple(), binding.get_host_cpu_features().flatten()
    return *versions, repr((_SPEED_LEVEL, _MACHINE_LEVEL, _LEFT_OUT)), triple, binding.get_host_cpu_name(), features


@functools.cache
def _engine() -> tuple[Any, Any]:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()  # for inline assembly
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=_MACHINE_LEVEL)
    process = ctypes.CDLL(None)
    binding.add_symbol(_THREAD, ctypes.cast(getattr(process, _THREAD), ctypes.c_void_p).value)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine), machine

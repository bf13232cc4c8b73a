"""Which device to compute on, and what it can do."""

import torch

from cifar10.errors import UsageError
from cifar10.system.limits import num_cpus


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UsageError: There is no such kind of device, or this machine does not have it.
    """
    num_gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not index.isdecimal()):
        raise UsageError(f"device={name!r} is not known; choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= num_gpus:
        raise UsageError(f"device={name}: this machine has {num_gpus} CUDA devices; choose auto or cpu")
    return torch.device("cpu" if kind == "cpu" else name)


def limit_threads(num_processes: int = 1) -> None:
    """Let PyTorch use no more threads than this process has processors, shared with others of its run.

    PyTorch counts the machine's. Where a container or a job may use fewer, threads that have to wait for their turn
    hold up all others at the end of each operation.
    """
    most = max(1, num_cpus() // num_processes)
    if torch.get_num_threads() > most or num_processes > 1:
        torch.set_num_threads(most)


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices as such (Intel's AMX): many times as fast as float32 vectors."""
    return hasattr(torch.cpu, "get_capabilities") and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

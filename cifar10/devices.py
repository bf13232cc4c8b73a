"""Choose a device, query its capabilities, and prepare a network for it."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from cifar10 import kernels
from cifar10.errors import UsageError
from cifar10.system.limits import num_cpus


def choose_device(name: str) -> torch.device:
    """Return the device called `name`: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UsageError: The name is unknown, or this machine has no such device.
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
    """Limit PyTorch's threads to the processors of this process, divided by the processes of its run.

    PyTorch counts the processors of the machine. A container or a job may have fewer, and threads that wait for a
    processor delay all others at the end of each operation.
    """
    most = max(1, num_cpus() // num_processes)
    if torch.get_num_threads() > most or num_processes > 1:
        torch.set_num_threads(most)


def has_matrix_units() -> bool:
    """Whether this CPU has instructions for bfloat16 matrices (Intel's AMX): many times as fast as float32 vectors."""
    return bool(_cpu_capabilities().get("amx_bf16"))


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_matrix_units() or bool(_cpu_capabilities().get("avx512_bf16"))


def _cpu_capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def fastest_precision(device: torch.device, with_kernels: bool) -> Literal["fp32", "bf16"]:
    """Return the precision in which a network trains fastest.

    Our kernels in float32 are faster than bfloat16 on a CPU that has instructions for it but no matrix units.
    """
    if device.type == "cpu" and with_kernels and kernels.is_available():
        return "bf16" if has_matrix_units() else "fp32"
    return "bf16" if computes_bf16(device) else "fp32"


def prepare_network(network: nn.Module, channels_last: bool, with_kernels: bool) -> nn.Module:
    """Set memory format and layers of `network` in place, and return it. Its outputs change by rounding only.

    Args:
        network: Its weights keep their values and their names.
        channels_last: Lay weights out as (out, H, W, in) in memory, and not as (out, in, H, W).
        with_kernels: Use our own kernels for its layers on a CPU in float32.
    """
    network = network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return kernels.convert(network) if with_kernels else network


def fuse(network: nn.Module, image_size: int) -> kernels.FusedNetwork:
    """Return a copy of `network` that is computed in bfloat16 by our own kernels, for inference on this CPU.

    Raises:
        UsageError: There are no kernels for this network or this CPU.
    """
    try:
        return kernels.FusedNetwork(network, image_size)
    except ValueError as error:
        raise UsageError(f"engine=native is not possible: {error}; choose torch or onnx") from None

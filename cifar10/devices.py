"""Choose a device, query its capabilities, and prepare a network for it."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

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


def fastest_precision(device: torch.device, with_kernels: bool, target: str | None = None) -> Literal["fp32", "bf16"]:
    """Return the precision in which a network trains fastest.

    Our kernels in float32 are faster than PyTorch's operators in bfloat16 on a CPU without matrix units. Some networks
    have kernels in bfloat16, too.

    Args:
        device: Computes.
        with_kernels: Whether our kernels may be used.
        target: Class of the network, such as package.module.Class; None: any.
    """
    if device.type == "cpu" and with_kernels and kernels.is_available():
        in_bfloat16 = has_matrix_units() or (target is not None and kernels.converts_to_bfloat16(target))
        return "bf16" if in_bfloat16 else "fp32"
    return "bf16" if computes_bf16(device) else "fp32"


def prepare_network(
    network: nn.Module, channels_last: bool, with_kernels: bool, with_programs: bool = False
) -> nn.Module:
    """Set memory format and layers of `network` in place, and return it. Its outputs change by rounding only.

    Args:
        network: Its weights keep their values and their names.
        channels_last: Lay weights out as (out, H, W, in) in memory, and not as (out, in, H, W).
        with_kernels: Use our own kernels for its layers on a CPU in float32.
        with_programs: Then also use our programs on a GPU in bfloat16.
    """
    network = network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return kernels.convert(network, with_programs) if with_kernels else network


def direct_gradients(network: nn.Module) -> kernels.DirectGradients | None:
    """Return what computes cross-entropy and gradients of `network` without autograd; None if our kernels do not.

    Call it as the forward pass, in the same context. The network must be trained as a whole.
    """
    return kernels.direct_gradients(network)


def has_gpu_kernels(network: nn.Module) -> bool:
    """Whether `network` computes with our own programs on a GPU, so that nothing is left for torch.compile to fuse."""
    return kernels.has_gpu_kernels(network)


def kernels_for_gpu() -> bool:
    """Whether there is a GPU that our own programs can be compiled for."""
    return kernels.gpu_layers.is_available()


def resize_on_gpu(images: Tensor, pixels: int) -> Tensor:
    """Return square `images` on a GPU, (B, 3, H, H), averaged to sides of `pixels`: float, channels last.

    PyTorch's own kernel handles one image after the other.
    """
    return kernels.gpu_layers.resize(images, pixels)


def gpu_optimizer() -> ModuleType:
    """Return the module whose programs compute the elementwise part of an optimizer step on a GPU."""
    return kernels.gpu_optimizer


def cross_entropy_on_gpu(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy of `logits` on a GPU, float32 (B, K), and `targets`, int64 (B,)."""
    return kernels.gpu_layers.cross_entropy(logits, targets, label_smoothing)


def fuse(
    network: nn.Module, image_size: int, ranges: Sequence[tuple[float, int]] | None = None
) -> kernels.FusedNetwork:
    """Return a copy of `network` that is computed by our own kernels, for inference on this CPU.

    Args:
        network: The default network.
        image_size: S of the images.
        ranges: As from `integer_ranges`, to compute in 8-bit integers; None: in bfloat16.

    Raises:
        UsageError: There are no kernels for this network or this CPU.
        ValueError: Another number of ranges is needed.
    """
    name, arithmetic = ("native", kernels.BF16_AMX) if ranges is None else ("native_int8", kernels.integer_arithmetic())
    problem = kernels.obstacle(network, arithmetic)
    if problem is not None:
        raise UsageError(f"engine={name} is not possible: {problem}; choose torch or onnx")
    return kernels.FusedNetwork(network, image_size, arithmetic, [kernels.InputRange(*each) for each in ranges or ()])


def integer_obstacle(network: nn.Module) -> str | None:
    """Return why our kernels cannot compute `network` in 8-bit integers on this CPU; None if they can."""
    return kernels.obstacle(network, kernels.integer_arithmetic())


def integer_ranges(network: nn.Module, images: Tensor, percentiles: Sequence[float]) -> list[list[tuple[float, int]]]:
    """Return for each of `percentiles` how 8-bit integers represent the inputs of each 3 x 3 convolution.

    Args:
        network: In evaluation mode.
        images: To observe, uint8 (N, 3, S, S).
        percentiles: Parts of all values, in percent, that the ranges contain.

    Returns:
        Size of a step, and the number, 0 .. 255, that stands for 0, for each convolution.
    """
    return [list(ranges) for ranges in kernels.input_ranges(network, images, percentiles)]

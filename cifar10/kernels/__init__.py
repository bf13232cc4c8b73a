"""Kernels for layers that PyTorch computes slowly on a CPU, or on a GPU under autocast.

`convert` puts them into a finished network. The network itself is built of plain PyTorch layers and does not know this
package. `FusedNetwork` is a copy of it for inference on CPUs with AMX, or with integer vectors.
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from cifar10.kernels import bfloat16_units, gpu_layers, gpu_optimizer
from cifar10.kernels.arithmetic import BF16_AMX
from cifar10.kernels.convolution import WinogradConv3x3, WinogradConvPool
from cifar10.kernels.fused_network import FusedNetwork, integer_arithmetic, obstacle
from cifar10.kernels.gpu_layers import ConvolutionGroupOnGpu, SpeedNetOnGpu
from cifar10.kernels.jit import is_available
from cifar10.kernels.normalization import FusedBatchNormSiLU
from cifar10.kernels.pooled_normalization import FusedBatchNormReLUPool
from cifar10.kernels.pooling_network import FusedAveragePoolCNN, FusedMaxPoolCNN, FusedStrideCNN
from cifar10.kernels.pooling_step import DirectGradients, direct_gradients
from cifar10.kernels.quantization import InputRange, input_ranges
from cifar10.networks.layers import BatchNormReLUPool, BatchNormSiLU, Conv3x3, ConvPool
from cifar10.networks.pooling.average_pool import AveragePoolCNN
from cifar10.networks.pooling.max_pool import MaxPoolCNN
from cifar10.networks.pooling.stride import StrideCNN
from cifar10.networks.speed import ConvolutionGroup, SpeedNet

__all__ = [
    "BF16_AMX",
    "DirectGradients",
    "FusedNetwork",
    "InputRange",
    "convert",
    "converts_to_bfloat16",
    "direct_gradients",
    "gpu_layers",
    "gpu_optimizer",
    "has_gpu_kernels",
    "input_ranges",
    "integer_arithmetic",
    "is_available",
    "obstacle",
    "revert",
]

_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    Conv3x3: WinogradConv3x3,
    ConvPool: WinogradConvPool,
    BatchNormSiLU: FusedBatchNormSiLU,
    BatchNormReLUPool: FusedBatchNormReLUPool,
    StrideCNN: FusedStrideCNN,
    MaxPoolCNN: FusedMaxPoolCNN,
    AveragePoolCNN: FusedAveragePoolCNN,
}
_CONVERTED_ON_GPU: dict[type[nn.Module], type[nn.Module]] = {
    ConvolutionGroup: ConvolutionGroupOnGpu,
    SpeedNet: SpeedNetOnGpu,
}
_REVERTED = {converted: plain for plain, converted in (_CONVERTED | _CONVERTED_ON_GPU).items()}

Network = TypeVar("Network", bound=nn.Module)


def convert(network: Network, with_programs: bool = False) -> Network:
    """Exchange the layers of `network`, in place, for layers that compute with kernels; return the network.

    The class of a module is replaced by its subclass in this package, as `torch.distributed.fsdp.fully_shard` does: the
    modules, their parameters and hooks, and the keys of `state_dict` stay. A converted layer falls back to PyTorch
    where no kernel fits: on other devices and types, under autocast (except on CPUs with instructions for bfloat16),
    while compiling, for few images or odd numbers of channels. Where kernels are unavailable, nothing is exchanged.
    """
    on_cpu = _CONVERTED if is_available() else {}
    on_gpu = _CONVERTED_ON_GPU if with_programs and gpu_layers.is_available() else {}
    return _exchange(network, on_cpu | on_gpu)


def converts_to_bfloat16(target: str) -> bool:
    """Whether networks of the class `target`, such as package.module.Class, have kernels in bfloat16 on this CPU."""
    converted = SpeedNet, StrideCNN, MaxPoolCNN, AveragePoolCNN
    names = {f"{plain.__module__}.{plain.__qualname__}" for plain in converted}
    return target in names and bfloat16_units.is_available()


def has_gpu_kernels(network: nn.Module) -> bool:
    """Whether `network` computes with our programs on a GPU."""
    return isinstance(network, SpeedNetOnGpu)


def revert(network: Network) -> Network:
    """Undo `convert`, for export; return `network`."""
    return _exchange(network, _REVERTED)


def _exchange(network: Network, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Network:
    for module in network.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    return network

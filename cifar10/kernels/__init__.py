"""Machine code for what PyTorch computes slowly on a CPU in float32; `convert` puts it into a finished network.

A network is built of plain PyTorch layers and knows nothing of this package.
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from cifar10.kernels.codegen import is_available
from cifar10.kernels.convolution import WinogradConv3x3, WinogradConvPool
from cifar10.kernels.normalization import FusedBatchNormSiLU
from cifar10.networks.layers import Conv3x3, ConvPool, BatchNormSiLU

__all__ = ["convert", "is_available", "revert"]

_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    Conv3x3: WinogradConv3x3,
    ConvPool: WinogradConvPool,
    BatchNormSiLU: FusedBatchNormSiLU,
}
_REVERTED = {converted: plain for plain, converted in _CONVERTED.items()}

Network = TypeVar("Network", bound=nn.Module)


def convert(network: Network) -> Network:
    """Let the layers of `network` compute with kernels, in training and inference, and return it; nothing if unavailable.

    Each layer's class is exchanged for its subclass in this package, as `torch.distributed.fsdp.fully_shard` does: the
    modules, their parameters and hooks and the keys of `state_dict` stay. A converted layer computes as before where no
    kernel fits: on other devices and types, under autocast, while compiling, for few images or odd numbers of channels.
    """
    return _exchange(network, _CONVERTED) if is_available() else network


def revert(network: Network) -> Network:
    """Undo `convert`, for export; return `network`."""
    return _exchange(network, _REVERTED)


def _exchange(network: Network, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Network:
    for module in network.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]
    return network

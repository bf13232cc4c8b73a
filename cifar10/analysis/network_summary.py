"""A network layer by layer: shapes, parameters and multiplications, as torchinfo counts them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Layer:
    """A layer without sub-layers."""

    name: str
    """Dotted, as in `state_dict`."""
    kind: str
    """Its class."""
    output_shape: tuple[int, ...]
    """Of one image, without the batch: (C, H, W), or (features,)."""
    num_parameters: int
    multiplications: int
    """Multiplications and additions of an image, together counted as one."""
    pooled_inputs: int
    """Numbers that a layer without parameters reduces: comparisons or additions of an image; else 0."""


@dataclass(frozen=True)
class NetworkSummary:
    """All layers, in the order in which they are computed."""

    layers: tuple[Layer, ...]

    @property
    def num_parameters(self) -> int:
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def multiplications(self) -> int:
        return sum(layer.multiplications for layer in self.layers)

    @property
    def pooled_inputs(self) -> int:
        return sum(layer.pooled_inputs for layer in self.layers)


def summarize(network: nn.Module, image_size: int) -> NetworkSummary:
    """Return the layers of `network` for one image of `image_size` x `image_size` pixels."""
    import torchinfo

    names = {id(module): name for name, module in network.named_modules()}
    images = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8)
    statistics = torchinfo.summary(network, input_data=images, verbose=0, device="cpu")
    layers = [
        _layer(info, names[id(info.module)])
        for info in statistics.summary_list
        if info.is_leaf_layer and info.executed and info.depth > 0
    ]
    return NetworkSummary(tuple(layers))


def _layer(info: Any, name: str) -> Layer:
    before, after = tuple(info.input_size[1:]), tuple(info.output_size[1:])
    reduces = info.num_params == 0 and torch.Size(before).numel() > torch.Size(after).numel()
    return Layer(
        name=name,
        kind=type(info.module).__name__,
        output_shape=after,
        num_parameters=int(info.num_params),
        multiplications=int(info.macs),
        pooled_inputs=torch.Size(before).numel() if reduces else 0,
    )

"""Grad-CAM: where in an image a network sees the class that it predicts (Selvaraju et al. 2016, arXiv:1610.02391).

The map is the sum of the channels of the last feature map, each weighted by the mean gradient of the logit of a class;
what speaks against the class is cut off.

Shapes: B images of S x S pixels, C channels of h x w positions, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

_DIMMED = 0.12  # brightness that is left where nothing speaks for the class


def last_feature_map(network: nn.Module, images: Tensor) -> nn.Module | None:
    """Return the layer whose output is the last feature map before pooling, of more than one position.

    Args:
        network: In evaluation mode.
        images: uint8 (B, 3, S, S), to try it with.

    Returns:
        None if there is no such layer, as in networks that compute with tokens behind their first layer.
    """
    outputs: list[tuple[nn.Module, torch.Size]] = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append((layer, output.shape))

    handles = [layer.register_forward_hook(note) for layer in network.modules() if layer is not network]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    maps = [place for place, (_, shape) in enumerate(outputs) if len(shape) == 4 and shape[2] * shape[3] > 1]
    if not maps or any(len(shape) == 3 for _, shape in outputs[maps[-1] :]):
        return None
    return outputs[maps[-1]][0]


def grad_cam(network: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int]) -> NDArray[np.float32]:
    """Return for each image where its class is seen, (B, S, S), between 0 and 1; all 0 if nothing speaks for it.

    Args:
        network: In evaluation mode, in float32.
        layer: As from `last_feature_map`.
        images: uint8 (B, 3, S, S).
        classes: B class ids.
    """
    captured: list[Tensor] = []

    def replace(_: nn.Module, __: object, output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[-1].clone()  # a later layer may change it in place

    handle = layer.register_forward_hook(replace)
    try:
        with torch.enable_grad():
            logits = network(images)
            chosen = logits[torch.arange(len(images)), torch.as_tensor(list(classes), device=logits.device)]
            [gradients] = torch.autograd.grad(chosen.sum(), captured[-1:])
    finally:
        handle.remove()
    weights = gradients.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    maps = (weights * captured[-1].detach()).sum(dim=1, keepdim=True).relu()  # (B, 1, h, w)
    enlarged = interpolate(maps.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peaks = enlarged.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    relative: NDArray[np.float32] = (enlarged / peaks).cpu().numpy()
    return relative


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return `image`, (S, S, 3), nearly black where `heat`, (S, S), is 0, and as it is where it is 1."""
    brightness = _DIMMED + (1 - _DIMMED) * heat[..., None] ** 2  # squared, since maps are coarse and so rarely dark
    return np.round(image * brightness).astype(np.uint8)

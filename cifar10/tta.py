"""Test-time augmentation: ask about an image and its shifted and mirrored selves, and average the answers.

The weighting of six views follows the CIFAR speedruns (tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench): the image
and its mirror count half, two diagonal shifts by one pixel and their mirrors the other half.
"""

from typing import Literal

import torch
from torch import Tensor, nn

TTA = Literal["none", "mirror", "mirror_translate"]

_SHIFT = 1  # pixels


def predict_probabilities(network: nn.Module, images: Tensor, tta: TTA) -> Tensor:
    """Return class probabilities of `images`, averaged over the views that `tta` names.

    Args:
        network: uint8 (B, 3, H, W) -> logits (B, K); in evaluation mode.
        images: uint8 (B, 3, H, W), RGB, on the network's device.

    Returns:
        float32 (B, K), rows sum to 1.
    """
    if tta == "none":
        return _softmax(network(images))
    centred = _with_mirror(network, images)
    if tta == "mirror":
        return centred
    shifted = [_with_mirror(network, view) for view in _diagonal_shifts(images)]
    return 0.5 * centred + 0.5 * torch.stack(shifted).mean(dim=0)


def _softmax(logits: Tensor) -> Tensor:
    return logits.float().softmax(dim=1)


def _with_mirror(network: nn.Module, images: Tensor) -> Tensor:
    return 0.5 * _softmax(network(images)) + 0.5 * _softmax(network(images.flip(dims=(3,))))


def _diagonal_shifts(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return `images` moved up-left and down-right by one pixel, the border filled by reflection."""
    height, width = images.shape[2:]
    # Reflection padding has no uint8 kernel, and every uint8 is exact in float32.
    padded = nn.functional.pad(images.float(), (_SHIFT,) * 4, mode="reflect").to(images.dtype)
    return (
        padded[:, :, 2 * _SHIFT :, 2 * _SHIFT :].contiguous(),
        padded[:, :, :height, :width].contiguous(),
    )

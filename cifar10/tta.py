"""Test-time augmentation: ask about an image and its shifted and mirrored selves, and average the answers.

The weights of six views follow the CIFAR speedruns (tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench): the image
and its mirror count half, two diagonal shifts by one pixel and their mirrors the other half.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from cifar10.config import TTA

_SHIFT = 1  # pixels


def predict_probabilities(network: nn.Module, images: Tensor, tta: "TTA") -> Tensor:
    """Return class probabilities of `images`, averaged over the views that `tta` names.

    Args:
        network: uint8 (B, 3, H, W) -> logits (B, K); in evaluation mode.
        images: uint8 (B, 3, H, W), RGB, on the network's device.
        tta: none: the image alone. mirror: with its mirror image. mirror_translate: six views.

    Returns:
        float32 (B, K), rows sum to 1.
    """
    return predict_plain_and_augmented(network, images, tta)[1]


def predict_plain_and_augmented(network: nn.Module, images: Tensor, tta: "TTA") -> tuple[Tensor, Tensor]:
    """Return the probabilities of the images alone, and averaged over the views; arguments as above."""
    plain = _probabilities(network, images)
    if tta == "none":
        return plain, plain
    centred = 0.5 * plain + 0.5 * _probabilities(network, images.flip(dims=(3,)))
    if tta == "mirror":
        return plain, centred
    views = [mirrored for view in _diagonal_shifts(images) for mirrored in (view, view.flip(dims=(3,)))]
    shifted = torch.stack([_probabilities(network, view) for view in views]).mean(dim=0)
    return plain, 0.5 * centred + 0.5 * shifted


def _probabilities(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).float().softmax(dim=1)  # type: ignore[no-any-return]


def _diagonal_shifts(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return `images` moved up-left and down-right by one pixel, the border filled by reflection."""
    height, width = images.shape[2:]
    # Reflection padding has no uint8 kernel, and every uint8 is exact in float32.
    padded = nn.functional.pad(images.float(), (_SHIFT,) * 4, mode="reflect").to(images.dtype)
    return (
        padded[:, :, 2 * _SHIFT :, 2 * _SHIFT :].contiguous(),
        padded[:, :, :height, :width].contiguous(),
    )

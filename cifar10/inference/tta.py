"""Test-time augmentation: ask about an image and its shifted and mirrored selves, and average the answers.

The weights of six views follow the CIFAR speedruns (tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench): the image
and its mirror count half, two diagonal shifts by one pixel and their mirrors the other half. To ask for all six only
where the network is not sure is from hiverge/cifar10-speedrun, which takes the least confident quarter of a whole test
set; here each image decides for itself, since a prediction must not depend on what else is asked.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from cifar10.config.schema import TTA, Views

_SHIFT = 1  # pixels


def predict_probabilities(network: nn.Module, images: Tensor, tta: "TTA", confidence: float = 0.0) -> Tensor:
    """Return class probabilities of `images`, averaged over the views that `tta` names.

    Args:
        network: uint8 (B, 3, H, W) -> logits (B, K); in evaluation mode.
        images: uint8 (B, 3, H, W), RGB, on the network's device.
        tta: none: the image alone. mirror: with its mirror image. mirror_translate: six views.
            mirror_translate_selective: six views of those images only whose largest probability is below `confidence`.
        confidence: See there.

    Returns:
        float32 (B, K), rows sum to 1.
    """
    return predict_plain_and_augmented(network, images, tta, confidence)[1]


def predict_plain_and_augmented(
    network: nn.Module, images: Tensor, tta: "TTA", confidence: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the images alone, and averaged over the views; arguments as above."""
    plain = _probabilities(network, images)
    if tta != "mirror_translate_selective":
        return plain, _averaged(network, images, plain, tta)
    unsure = (plain.amax(dim=1) < confidence).nonzero().flatten()
    if not len(unsure):
        return plain, plain
    answers = _averaged(network, images[unsure], plain[unsure], "mirror_translate")
    return plain, plain.index_copy(0, unsure, answers)


def _averaged(network: nn.Module, images: Tensor, plain: Tensor, views: "Views") -> Tensor:
    """Return the probabilities over all of `views`; `plain` are those of the first, the images themselves."""
    if views == "none":
        return plain
    centred = 0.5 * plain + 0.5 * _probabilities(network, images.flip(dims=(3,)))
    if views == "mirror":
        return centred
    others = [mirrored for view in _diagonal_shifts(images) for mirrored in (view, view.flip(dims=(3,)))]
    shifted = torch.stack([_probabilities(network, view) for view in others]).mean(dim=0)
    return 0.5 * centred + 0.5 * shifted


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

"""Test-time augmentation (TTA): average class probabilities over an image and its shifted and mirrored copies.

The views are computed here only, for every engine, in PyTorch and in NumPy. Images are uint8: tensors (B, 3, H, W) or
C-contiguous arrays (B, H, W, 3). The copies have the same bytes in both, and the averages are float32, taken in the
same order. Importing this needs no torch.

The weights of six views follow the CIFAR speedruns (tysam-code/hlb-CIFAR10, KellerJordan/cifar10-airbench): the image
and its mirror image count half, two diagonal shifts by one pixel and their mirror images the other half. Computing all
six only where the network is unsure is from hiverge/cifar10-speedrun, which takes the least confident quarter of a
whole test set. Here it depends on the image alone, since a prediction must not depend on the other images of a batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np

from cifar10.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cifar10.config.schema import TTAMode

Array = TypeVar("Array", "Tensor", "NDArray[Any]")


def known_mode(name: str) -> "TTAMode":
    """Return `name` as the mode that it is.

    Raises:
        UsageError: There is no such mode.
    """
    from cifar10.config.schema import TTAMode

    modes: tuple[TTAMode, ...] = get_args(TTAMode)
    for mode in modes:
        if mode == name:
            return mode
    raise UsageError(f"tta={name!r} is not known; choose {', '.join(modes)}")


def predict_probabilities(
    predict: Callable[[Array], Array], images: Array, mode: "TTAMode", confidence: float = 0.0
) -> Array:
    """Return class probabilities of `images`, averaged over the views of `mode`.

    Args:
        predict: Images (B, 3, H, W) or (B, H, W, 3) -> float32 class probabilities (B, K). Called once per view.
        images: uint8, RGB; a tensor (B, 3, H, W) or an array (B, H, W, 3).
        mode: none: the images alone. mirror: with their mirror images. mirror_translate: six views.
            mirror_translate_selective: six views of those images only whose largest probability is below `confidence`.
        confidence: Used by mirror_translate_selective, between 0 and 1.

    Returns:
        float32 (B, K), rows sum to 1.
    """
    return predict_plain_and_augmented(predict, images, mode, confidence)[1]


def predict_plain_and_augmented(
    predict: Callable[[Array], Array], images: Array, mode: "TTAMode", confidence: float = 0.0
) -> tuple[Array, Array]:
    """Return the probabilities of the images alone, and those of `predict_probabilities`, for the same arguments."""
    plain = predict(images)
    return plain, augment(predict, images, plain, mode, confidence)


def augment(
    predict: Callable[[Array], Array], images: Array, plain: Array, mode: "TTAMode", confidence: float = 0.0
) -> Array:
    """Return what `predict_probabilities` does, where `plain`, the probabilities of `images` alone, are known."""
    if mode != "mirror_translate_selective":
        return _averaged(predict, images, plain, mode)
    library = _library(images)
    is_unsure = library.amax(plain, 1) < confidence
    (unsure,) = library.where(is_unsure)  # on a GPU, the only synchronisation
    if not len(unsure):
        return plain
    augmented: Array = library.where(is_unsure[:, None], 0.0, plain)  # a copy, whose zeros are replaced
    augmented[unsure] = _averaged(predict, images[unsure], plain[unsure], "mirror_translate")
    return augmented


def _averaged(predict: Callable[[Array], Array], images: Array, plain: Array, mode: "TTAMode") -> Array:
    """Return the probabilities over all views of `mode`; `plain` are those of the images themselves."""
    if mode == "none":
        return plain
    centred: Array = 0.5 * plain + 0.5 * predict(_mirrored(images))
    if mode == "mirror":
        return centred
    up_left, down_right = _shifted(images, up_left=True), _shifted(images, up_left=False)
    shifted = predict(up_left) + predict(_mirrored(up_left))
    shifted = shifted + predict(down_right)
    shifted = shifted + predict(_mirrored(down_right))
    averaged: Array = 0.5 * centred + 0.5 * (shifted / 4)
    return averaged


def _mirrored(images: Array) -> Array:
    """Return a copy of `images` with left and right exchanged."""
    if isinstance(images, np.ndarray):
        return images[:, :, ::-1].copy()  # ascontiguousarray may keep a negative stride, if the width is 1
    return images.flip(dims=(3,))


def _shifted(images: Array, up_left: bool) -> Array:
    """Return `images` shifted by one pixel up and left, or down and right; the free border is filled by reflection."""
    for axis in (1, 2) if isinstance(images, np.ndarray) else (2, 3):  # height, width
        size = images.shape[axis]
        reflected = max(size - 2, 0) if up_left else min(1, size - 1)
        border = slice(reflected, reflected + 1)
        slices = (slice(1, None), border) if up_left else (border, slice(0, -1))
        parts = [images[(slice(None),) * axis + (part,)] for part in slices]
        images = _library(images).concatenate(parts, axis)
    return images


def _library(images: Array) -> Any:
    """Return the module whose functions take `images`: numpy, or torch."""
    if isinstance(images, np.ndarray):
        return np
    import torch

    return torch

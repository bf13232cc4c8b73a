"""What single images look like: brightness, contrast, colourfulness, sharpness, and those that are odd.

Shapes: N images of S x S pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cifar10.analysis.descriptors import grey

ODDITIES = ("uniform", "too dark", "too bright", "blurred", "noisy")
"""What an image can be noted for; the first that applies is taken."""

_UNIFORM = 2.0  # levels of 255: a smaller standard deviation of brightness is no picture
_DARK, _BRIGHT = 25.0, 235.0  # levels: mean brightness that is odd whatever the others are
_FAR = 4.0  # robust standard deviations from the median that are odd
_TO_DEVIATION = 1.4826  # median absolute deviation of a normal distribution -> its standard deviation


@dataclass(frozen=True, eq=False)
class Appearance:
    """Measures of each image, float32 (N,)."""

    brightness: NDArray[np.float32]
    """Mean, levels of 255."""
    contrast: NDArray[np.float32]
    """Standard deviation of brightness, levels."""
    colourfulness: NDArray[np.float32]
    """Mean difference between the largest and the smallest channel, levels."""
    sharpness: NDArray[np.float32]
    """Logarithm of the part of the contrast that is finer than two pixels: higher for sharp and for noisy images."""


def measure(parts: Iterable[Tensor]) -> Appearance:
    """Return the measures of images that come in parts, uint8 (B, 3, S, S)."""
    rows = [_measured(part) for part in parts]
    columns = torch.cat(rows, dim=1).numpy() if rows else np.empty((4, 0), np.float32)
    return Appearance(*columns)


def _measured(images: Tensor) -> Tensor:  # (B, 3, S, S) -> (4, B)
    brightness = grey(images)  # (B, S, S)
    contrast = brightness.std(dim=(1, 2), correction=0)
    colours = (images.amax(dim=1) - images.amin(dim=1)).float().mean(dim=(1, 2))
    padded = functional.pad(brightness.unsqueeze(1), (1, 1, 1, 1), mode="replicate")
    fine = (brightness - functional.avg_pool2d(padded, 3, stride=1)[:, 0]).std(dim=(1, 2), correction=0)
    sharpness = ((fine + 0.05) / (contrast + 1)).log()
    return torch.stack([brightness.mean(dim=(1, 2)), contrast, colours, sharpness])


def find_odd(appearance: Appearance) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Return the oddity of each image, (N,), empty for most, and how far it is from usual, (N,), in deviations."""
    names = np.full(len(appearance.brightness), "", dtype="U12")
    degrees = np.zeros(len(names), np.float32)
    if not len(names):
        return names, degrees
    brightness, sharpness = _deviations(appearance.brightness), _deviations(appearance.sharpness)
    found = {
        "uniform": (appearance.contrast < _UNIFORM, _UNIFORM - appearance.contrast),
        "too dark": ((appearance.brightness < _DARK) | (brightness < -_FAR), -brightness),
        "too bright": ((appearance.brightness > _BRIGHT) | (brightness > _FAR), brightness),
        "blurred": (sharpness < -_FAR, -sharpness),
        "noisy": (sharpness > _FAR, sharpness),
    }
    for name in reversed(ODDITIES):
        applies, degree = found[name]
        names[applies] = name
        degrees[applies] = degree[applies]
    return names, degrees


def _deviations(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how many robust standard deviations each value is above the median."""
    centre = np.median(values)
    spread = max(_TO_DEVIATION * float(np.median(np.abs(values - centre))), 1e-3)
    deviations: NDArray[np.float32] = ((values - centre) / spread).astype(np.float32)
    return deviations


def mean_images(parts: Iterable[Tensor], labels: NDArray[np.int64], num_classes: int, side: int) -> NDArray[np.uint8]:
    """Return the mean image of each class, uint8 (K, S, S, 3); of one class, of all images, if there are no labels.

    Args:
        parts: The images in order, uint8 (B, 3, S, S).
        labels: (N,); those below 0 count as class 0.
        num_classes: K.
        side: S.
    """
    sums, counts, start = torch.zeros(num_classes, 3, side, side), torch.zeros(num_classes), 0
    for part in parts:
        ids = torch.from_numpy(labels[start : start + len(part)]).clamp(min=0)
        sums.index_add_(0, ids, part.float())
        counts.index_add_(0, ids, torch.ones(len(part)))
        start += len(part)
    means = sums / counts.clamp(min=1)[:, None, None, None]
    return means.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

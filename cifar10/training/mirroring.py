"""Measure whether images and their mirror images have the same class, which is false for digits, text and arrows.

Shapes: N images of H x W pixels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.data.stored_images import Images

_QUERIES, _REFERENCES = 1000, 10_000  # most images to compare: a tenth of a second
_SIDE = 16  # pixels of the images that are compared
_PIXELS_AT_ONCE = 2**22  # 50 MB in float
_LEAST_DIFFERENCE = 0.05


class MirrorTest(NamedTuple):
    """Fractions of images whose nearest training image is of the right class."""

    plain: float
    """For unchanged images."""
    mirrored: float
    """For their mirror images."""
    num_images: int

    @property
    def matters(self) -> bool:
        """Whether mirroring changes the class more often than chance explains (three standard deviations)."""
        spread = math.sqrt((self.plain * (1 - self.plain) + self.mirrored * (1 - self.mirrored)) / self.num_images)
        return self.plain - self.mirrored > max(_LEAST_DIFFERENCE, 3 * spread)


def measure_mirroring(data: ImageDataset) -> MirrorTest | None:
    """Compare validation images, or a tenth of the training images, with the training images; None if too few.

    Deterministic: it draws no random numbers.
    """
    references = _spread(data.train, _REFERENCES)
    queries = _spread(data.validation, _QUERIES)
    if not len(queries):
        positions = torch.arange(len(references))
        is_query = positions % 10 == 0
        queries = _spread(references.take(positions[is_query]), _QUERIES)
        references = references.take(positions[~is_query])
    if not len(queries) or not len(references):
        return None
    known = _features(references.images)
    plain, mirrored = (
        (references.labels[_nearest(_features(queries.images, is_mirrored), known)] == queries.labels)
        .double()
        .mean()
        .item()
        for is_mirrored in (False, True)
    )
    return MirrorTest(plain, mirrored, len(queries))


def _spread(split: Split, most: int) -> Split:
    """Return at most `most` images, evenly spread over `split`."""
    step = max(1, math.ceil(len(split) / most))
    return split.take(torch.arange(0, len(split), step))


def _features(images: Images, is_mirrored: bool = False) -> Tensor:  # uint8 (N, 3, H, W) -> float (N, 3*16*16)
    """Return small images without their mean brightness, which has little information about the class."""
    side, step = min(_SIDE, images.shape[-1]), max(1, _PIXELS_AT_ONCE // images.shape[-1] ** 2)
    features = torch.empty(len(images), 3 * side**2)  # one block: small ones would keep the large ones apart in memory
    for start in range(0, len(images), step):
        part = images[start : start + step]
        small = adaptive_avg_pool2d((part.flip(dims=(3,)) if is_mirrored else part).float(), side).flatten(1)
        features[start : start + step] = small - small.mean(dim=1, keepdim=True)
    return features


def _nearest(queries: Tensor, known: Tensor) -> Tensor:  # (Q, F), (N, F) -> int64 (Q,)
    distances = known.square().sum(dim=1) - 2 * queries @ known.T  # (Q, N), without terms that are equal for all N
    return distances.argmin(dim=1)
